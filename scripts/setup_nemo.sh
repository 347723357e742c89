#!/usr/bin/env bash
# Makes .venv-nemo: NVIDIA NeMo's own plugin for vLLM (nemo_toolkit 3.0.0) beside the newest vLLM that it supports (0.28, CPU).
#
#     scripts/setup_nemo.sh [FOLDER]
#
# FOLDER: where to make it; default .venv-nemo in this repository. It needs what scripts/setup.sh needs. vLLM 0.29 and later
# changed what the plugin calls (BaseMultiModalProcessor._call_hf_processor), so the two do not fit together there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${1:-.venv-nemo}
pins=(requirements/nemo-vllm.txt requirements/cpu-overrides.txt requirements/nemo.txt)
stamp=$venv/setup-stamp
contents=$(cat pyproject.toml scripts/setup_nemo.sh "${pins[@]}" | sha256sum | cut -c1-64)
[[ -f $stamp && $(<"$stamp") == "$contents" ]] && exit 0

echo "setup: making $venv" >&2
rm -rf "$venv"
"${PYTHON:-python3.11}" -m venv "$venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check 'uv>=0.9'
options=(--quiet --python "$venv/bin/python" --compile-bytecode)
torch=(--torch-backend cpu)
for link in ${PIP_FIND_LINKS:-$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)}; do
    compgen -G "${link#file://}/torch-*+cpu-*.whl" >/dev/null && torch=()
    options+=(--find-links "$link")
done
echo "setup: installing vLLM 0.28, then NeMo (a few GB on the first call)" >&2
"$venv/bin/uv" pip install "${options[@]}" "${torch[@]}" -r "${pins[0]}" --overrides "${pins[1]}" -e .
"$venv/bin/uv" pip install "${options[@]}" --no-deps -r "${pins[2]}"
# What NeMo says about itself must be true here: its plugin is found, and its class can be imported.
"$venv/bin/python" - <<'PY'
from importlib.metadata import entry_points

(point,) = [p for p in entry_points(group="vllm.general_plugins") if p.name == "nemo_speechlm"]
point.load()
PY
printf '%s\n' "$contents" >"$stamp"
echo "setup: done: $venv" >&2
