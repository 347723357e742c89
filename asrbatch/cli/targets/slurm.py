"""`submit --to slurm`: an array of one task for each chunk, and the merge job that waits for it."""

import shlex
from pathlib import Path
from typing import Any

from asrbatch.cli.common import log, print_line
from asrbatch.cli.options import RunOptions, merge_arguments
from asrbatch.cli.targets.tasks import (
    absolute_path,
    check_outputs,
    check_run,
    default_job_name,
    interpreter,
    notes_of,
    print_lines,
    task_arguments,
)
from asrbatch.cluster.jobs import parse_chunks
from asrbatch.cluster.merge_report import ranges
from asrbatch.cluster.slurm import Array, SlurmOptions, split_arrays
from asrbatch.cluster.slurm_scripts import array_script, merge_script
from asrbatch.cluster.slurm_submit import Script, Submitted
from asrbatch.cluster.slurm_submit import submit as submit_scripts
from asrbatch.config import RunConfig


def submit_to_slurm(options: RunOptions, values: dict[str, Any], config: RunConfig, dry_run: bool) -> None:
    output = config.output_path
    check_outputs(config, config.manifest)
    slurm, chdir = _slurm_options(values, output), values["chdir"]
    # Another environment may have another vLLM.
    is_here = slurm.container is None and slurm.python == interpreter(None, None)
    ids = [*range(config.num_chunks)] if slurm.chunks is None else parse_chunks(slurm.chunks, config.num_chunks)
    manifests, not_checked = check_run(config, ids, chdir, dry_run, is_here=is_here)
    arrays = split_arrays(ids, slurm)
    scripts = [_array(array, arrays, slurm, options, config, manifests) for array in arrays]
    arguments = merge_arguments(options, config, manifests)
    merge_path = _beside(output, "merge")
    merge_job = Script(merge_path, merge_script(slurm, arguments, path=merge_path)) if slurm.merge else None
    for note in [*_slurm_notes(config, slurm), *notes_of(config), *not_checked]:
        log(f"note: {note}")
    if dry_run:
        print_lines(
            line for script in [*scripts, *([merge_job] if merge_job else [])] for line in script.text.split("\n")
        )
        return
    # Said in either case: a merge job may be cancelled, or find something that is missing.
    by_hand = shlex.join(["asrbatch", *arguments])
    submitted = submit_scripts(scripts, merge_job, slurm.log_dir, by_hand)
    for job in submitted.arrays:
        print_line(f"array {job}")
    if submitted.merge:
        print_line(f"merge {submitted.merge}")
    for line in _how_to_follow(submitted, len(ids), config, slurm, by_hand):
        log(line)


def _slurm_options(values: dict[str, Any], output: Path) -> SlurmOptions:
    """As given, with what is told by the output, and folders that mean the same on every node."""
    settled = {
        "job_name": default_job_name(output) if values["job_name"] is None else values["job_name"],
        "log_dir": absolute_path(values["log_dir"]) or output.parent / "logs",
        "python": interpreter(values["python"], values["container"]),
    }
    folders = {name: str(absolute_path(values[name])) for name in ("chdir", "cache_dir") if values[name] is not None}
    return SlurmOptions(**{**values, **settled, **folders})


def _array(
    array: Array, arrays: list[Array], slurm: SlurmOptions, options: RunOptions, config: RunConfig, manifests: list[str]
) -> Script:
    place = "" if len(arrays) == 1 else f"-{array.offset}"
    path = _beside(config.output_path, f"array{place}")
    arguments = task_arguments(options, config, manifests)
    run = {"output": config.output_path, "num_chunks": config.num_chunks, "overwrite": config.overwrite}
    text = array_script(array, slurm, arguments, path=path, **run)
    return Script(path, text, ranges(array.chunks))


def _beside(output: Path, what: str) -> Path:
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.{what}.sbatch")


def _slurm_notes(config: RunConfig, slurm: SlurmOptions) -> list[str]:
    """What may be meant, and may be a mistake."""
    notes = []
    if slurm.num_gpus > 1 and config.devices is None and not any("parallel_size" in arg for arg in config.engine.args):
        notes.append(f"--gpus {slurm.gpus} without --devices: one engine uses one GPU; give --devices all to use each")
    if 0 < slurm.signal_before_s <= config.grace_s:
        notes.append(
            f"--grace {config.grace_s:g} may take a task past its time limit: give a --signal-before above "
            f"it (now {slurm.signal_before_s})"
        )
    return notes


def _how_to_follow(
    submitted: Submitted, num_chunks: int, config: RunConfig, slurm: SlurmOptions, by_hand: str
) -> list[str]:
    jobs = [*submitted.arrays, *([submitted.merge] if submitted.merge else [])]
    logs = slurm.log_dir / slurm.job_name
    then = "then the merge job" if submitted.merge else f"then run: {by_hand}"
    return [
        f"submitted {num_chunks} of {config.num_chunks} chunks, {then}",
        f"  queue:    squeue --jobs={','.join(jobs)}",
        f"  progress: asrbatch status {shlex.quote(str(config.output_path))} --watch",
        f"  logs:     {shlex.quote(str(logs))}-*.log",
        f"  cancel:   scancel {' '.join(jobs)}",
    ]
