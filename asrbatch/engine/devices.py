"""`--devices`: where worker processes run, one each, and what keeps them out of each other's way.

On a machine with GPUs a device is a GPU. Without, it is an equal share of this process's cores, so that the very same
code runs on a laptop and in the tests. Imports neither torch nor vllm.
"""

import os
import subprocess
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import Any

from ..errors import UsageError
from .settings import Device


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
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if int(engine_args.get(name, 1)) > 1:
            raise UsageError(f"--devices {asked}: gives each worker one device; {name}={engine_args[name]} needs several")
    names = [name.strip() for name in asked.split(",")]
    if "" in names:
        raise UsageError(f"--devices {asked}: write it as 0,1,2,3 or all")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"--devices {asked}: {min(twice)} is there twice; one worker to a device")
    return _core_slots(asked, names, device) if device.kind == "cpu" else _gpu_slots(asked, names, device)


def _gpu_slots(asked: str, names: list[str], device: Device) -> list[Slot]:
    visible = _visible_gpus()
    if not visible:
        raise UsageError(f"--devices {asked}: no GPU is visible here (CUDA_VISIBLE_DEVICES)")
    if names == ["all"]:
        names = [str(number) for number in range(len(visible))]
    slots = []
    cores = _our_cores()
    for name in names:
        if name.isdecimal() and int(name) < len(visible):
            gpu = visible[int(name)]
        elif name in visible and not name.isdecimal():  # a UUID
            gpu = name
        else:
            there = f"0 to {len(visible) - 1}"
            raise UsageError(f"--devices {asked}: there is no GPU {name} here; visible are {there} (CUDA_VISIBLE_DEVICES)")
        environment = {"CUDA_VISIBLE_DEVICES": gpu}
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
    shares = [cores[start:end] for start, end in pairwise(bounds)]
    slots = []
    for name in names:
        share = shares[int(name)]
        model = device.name.rpartition(", ")[0] or device.name
        part = replace(device, name=f"{model}, {len(share)} cores", memory_bytes=device.memory_bytes // len(shares))
        slots.append(Slot(name, part, share, {}))
    return slots


def _our_cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, in order: its own entries, or else every GPU of the machine."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        entries = [entry.strip() for entry in visible.split(",")]
        # CUDA stops at the first that names none.
        return list(takewhile(lambda entry: entry and entry != "NoDevFiles" and not entry.startswith("-"), entries))
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as e:
        raise UsageError(f"--devices: the GPUs cannot be listed: {e}; set CUDA_VISIBLE_DEVICES") from e
    return [line.strip() for line in out.splitlines() if line.strip()]
