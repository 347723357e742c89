#!/usr/bin/env bash
# Installs what tests/evaluation/test_report.py looks at pages with: Chromium. Playwright, which drives it, is a development dependency.
#
#     scripts/install_chromium.sh
#
# Debian, as root. Calling it again is free.
set -euo pipefail

for program in chromium chromium-browser google-chrome; do
    command -v "$program" >/dev/null && exit 0
done
say() { echo "install_chromium: $*" >&2; }
if ! command -v apt-get >/dev/null; then
    say "error: no apt-get here; install Chromium by this system's own means"
    exit 1
fi
if ((EUID != 0)); then
    say "error: must run as root: sudo $0"
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y --no-install-recommends chromium >&2; }
if ! install; then
    say "no package lists, or old ones: fetching them"
    apt-get update >&2
    install
fi
