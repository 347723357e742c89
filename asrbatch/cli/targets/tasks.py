"""What all targets of `submit` do first: paths that mean the same to every task, what is refused, what is noted."""

import glob
import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrbatch.cli.common import fetch_no_model, is_read, print_line
from asrbatch.cli.estimates import (
    ALL_DEVICES,
    NO_SPEED,
    EstimateOptions,
    estimate_of,
    estimate_text,
    num_devices_of,
    speed_of,
)
from asrbatch.cli.options import RunOptions, command_of
from asrbatch.cluster.jobs import parse_chunks
from asrbatch.config import STDIN, RunConfig
from asrbatch.errors import UsageError
from asrbatch.manifest.source import expand
from asrbatch.storage.paths import RunPaths, check_run_outputs, find_chunks
from asrbatch.storage.remote import absolute

if TYPE_CHECKING:
    from asrbatch.manifest.stdin import KeptManifest


def check_run(
    config: RunConfig, ids: list[int], chdir: str | None, dry_run: bool, *, is_here: bool
) -> tuple[list[str], list[str]]:
    """The manifests as tasks are given them, and what could not be checked of what the tasks would refuse.

    Args:
        is_here: the tasks run in this environment.
    """
    from asrbatch.runs.preflight import check_engine_options, check_tasks

    if is_here:
        check_engine_options(config)
        fetch_no_model(config.engine.model)
    manifests, kept = _manifests(config, chdir, dry_run)
    return manifests, check_tasks(config, kept, ids, with_model=is_here)


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(line)
    is_read()


def task_arguments(options: RunOptions, config: RunConfig, manifests: list[str]) -> list[str]:
    """What every task is told, but its chunk."""
    # Absolute, so that neither --chdir nor another folder at the next submission changes what is meant.
    changes = {"manifest": manifests, "output": str(config.output_path)}
    # --overwrite is the script's business: a requeued task would remove the rows of its first start.
    return [command_of(options.values), *options.arguments(without=("overwrite",), **changes)]


def check_outputs(config: RunConfig, manifests: Iterable[str]) -> None:
    """What the tasks and the merge job would refuse, of what is there already; and scripts must be no input either.

    Args:
        manifests: those that are here.

    Raises:
        UsageError: see `check_run_outputs`.
    """
    from asrbatch.manifest.formats import files_of

    output = config.output_path
    scripts = {path for path in output.parent.glob("*.sbatch") if path.name.startswith(f"{output.stem}.")}
    found = find_chunks(output).get(config.num_chunks, {}) if output.parent.is_dir() else {}
    for paths in (RunPaths(output), *found.values()):
        check_run_outputs(paths, files_of(manifests, config.reading), scripts)


def _manifests(config: RunConfig, chdir: str | None, dry_run: bool) -> "tuple[list[str], KeptManifest | None]":
    """As the tasks will be given them: absolute, since they may start in another folder. And what is kept of standard
    input.
    """
    kept = None
    if config.descriptor is not None:
        if chdir is not None:
            raise UsageError(
                "--chdir: paths that come on standard input are relative to this folder; write them to a file"
            )
        if not dry_run:
            from asrbatch.manifest.stdin import keep_stdin

            # Tasks have no standard input, and read what is kept here.
            kept = keep_stdin(config)
        return [STDIN], kept
    return [absolute_manifest(each) for each in config.manifest], None


def absolute_manifest(given: str, *, is_here: bool = True) -> str:
    if is_here and "://" not in given and not expand(given):
        raise UsageError(f"{given}: no such manifest")
    return ",".join(paths_of(given))


def paths_of(given: str) -> list[str]:
    """The absolute paths that a manifest's name is made of; a URL, which is relative to no folder, as it is."""
    # A comma parts several manifests, unless a file has it in its name.
    is_one = "://" in given or os.path.lexists(absolute(given))
    return [given if "://" in given else absolute(given)] if is_one else [*map(absolute, given.split(","))]


def make_absolute(values: dict[str, Any]) -> None:
    """Tasks may start in another folder than this one, so no path stays relative; names on the hub stay as they are."""
    if values["tars"] is not None:
        values["tars"] = ",".join(map(absolute, values["tars"].split(",")))
    if values["audio_folder"] is not None:
        values["audio_folder"] = absolute(values["audio_folder"])
    for place in ("model", "tokenizer", "lora"):
        name = values[place] or ""
        if name and Path(name).expanduser().is_dir():
            values[place] = str(absolute_path(name))
        # No name on the hub begins so: a folder was meant.
        elif name.startswith((".", "~")):
            raise UsageError(f"--{place} {name}: no such folder")


def absolute_path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()


def default_job_name(output: Path) -> str:
    return "asrbatch-" + (re.sub(r"[^\w.-]+", "-", output.name.removesuffix(".jsonl")).strip("-.") or "run")


def interpreter(python: str | None, container: str | None) -> tuple[str, ...]:
    """The virtual environment need not be activated on the node, nor be seen in a container."""
    if python is None:
        return (sys.executable,) if container is None else ("python3",)
    try:
        words = shlex.split(python)
    except ValueError as e:
        raise UsageError(f"--python {python}: {e}") from e
    if not words:
        raise UsageError("--python is empty; give an interpreter that has asrbatch")
    # Otherwise it is looked up on the node, in what --setup has loaded.
    if "/" in words[0]:
        words[0] = str(absolute_path(words[0]))
    return tuple(words)


def foreseen(config: RunConfig, speeds: EstimateOptions, chunks: str | None) -> list[str]:
    """What the chunks will take and cost, or why nothing is said of it; nothing where nobody asked.

    Args:
        chunks: as `--chunks` has them; None for all.
    """
    speed = speed_of(speeds)
    if speed is None:
        return [] if config.price_per_hour is None else [f"note: {NO_SPEED.format(what='cost')}"]
    if config.descriptor is not None or any("://" in each or not _is_here(each) for each in config.manifest):
        return ["note: no time or cost is estimated, as the manifest is not read here; asrbatch plan does where it is"]
    ids = [*range(config.num_chunks)] if chunks is None else parse_chunks(chunks, config.num_chunks)
    found = estimate_of(config, ids, speed, num_devices_of(config) or 1)
    lines = [f"{name}: {text}" for name, text in estimate_text(asdict(found)).items()]
    if num_devices_of(config) is None:
        lines.append(f"note: {ALL_DEVICES}")
    if found.rows_not_counted:
        lines.append(
            f"note: {found.rows_not_counted} rows of unknown length are left out; asrbatch plan --probe measures them"
        )
    return lines


def _is_here(given: str) -> bool:
    return all(os.path.lexists(path) or glob.has_magic(path) or "_OP_" in path for path in paths_of(given))


def notes_of(config: RunConfig) -> list[str]:
    """The same, whoever runs the tasks."""
    notes = []
    if config.output_path.parent.is_dir():
        others = [n for n in find_chunks(config.output_path) if n != config.num_chunks]
        if others:
            counts = ", ".join(map(str, others))
            notes.append(f"files of this run in {counts} chunks are there as well; remove them before merge-shards")
    if not Path(config.engine.model).expanduser().exists():
        notes.append(
            f"--model {config.engine.model} is not a folder here; every task will ask the hub for it, so fetch it first"
        )
    return notes


def refuse_overwrite(config: RunConfig, who: str) -> None:
    if config.overwrite:
        fix = "remove the chunks by hand, or choose another --output"
        raise UsageError(f"--overwrite: {who} would remove their own rows; {fix}")
