#!/usr/bin/env bash
# Installs what tests/cluster/test_slurm.py needs for a SLURM of its own: slurmctld, slurmd, SLURM's commands, munge.
#
#     scripts/install_slurm.sh
#
# Debian and Ubuntu, as root. Nothing is started or configured; the tests do that in a folder of their own. Calling it
# again is free.
set -euo pipefail

packages=(slurmctld slurmd slurm-client munge)
PATH=$PATH:/usr/sbin:/sbin
missing=0
for program in slurmctld slurmd sbatch munged; do command -v "$program" >/dev/null || missing=1; done
((missing)) || exit 0

say() { echo "install_slurm: $*" >&2; }
if ! command -v apt-get >/dev/null; then
    say "error: no apt-get here; install slurmctld, slurmd, SLURM's commands and munge by this system's own means"
    exit 1
fi
if ((EUID != 0)); then
    say "error: must run as root: sudo $0"
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# The packages' own services stay down: the tests start theirs.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
install() { apt-get install -y --no-install-recommends "${packages[@]}" >&2; }
if ! install; then
    say "no package lists, or old ones: fetching them"
    apt-get update >&2
    install
fi
