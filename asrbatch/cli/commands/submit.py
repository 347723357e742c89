"""`asrbatch submit`: a run as a SLURM array, as a Job of Kubernetes, or as commands of a shell."""

import os
import re
import shlex
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrbatch.cli.common import fetch_no_model, is_read, log, print_line
from asrbatch.cli.options import (
    TARGETS,
    RunOptions,
    TargetOptions,
    command_of,
    flag_of,
    merge_arguments,
    run_options,
    takes,
    target_options,
)
from asrbatch.cluster.jobs import JobOptions, parse_chunks
from asrbatch.cluster.kubernetes import KubernetesOptions, apply, as_yaml, indexed_job, job_name
from asrbatch.cluster.merge_report import ranges
from asrbatch.cluster.slurm import Array, SlurmOptions, split_arrays
from asrbatch.cluster.slurm_scripts import array_script, merge_script
from asrbatch.cluster.slurm_submit import Script, Submitted
from asrbatch.cluster.slurm_submit import submit as submit_scripts
from asrbatch.config import STDIN, RunConfig
from asrbatch.errors import UsageError
from asrbatch.manifest.source import expand
from asrbatch.options import option
from asrbatch.storage.paths import RunPaths, check_run_outputs, find_chunks
from asrbatch.storage.remote import absolute

if TYPE_CHECKING:
    from asrbatch.manifest.stdin import KeptManifest

# GNU parallel quotes a line as one word, which `eval` makes a command of again.
_PARALLEL = "parallel -j 4 --retries 3 'export CUDA_VISIBLE_DEVICES=$(({%} - 1)); eval {}'"
_ROWS_LOOKED_AT = 1000


@takes(jobs=target_options(), options=run_options(without=("chunk_id", "chunk_offset")))  # the array says which chunk
def submit(
    options: RunOptions,
    jobs: TargetOptions,
    to: str = option(
        "slurm",
        "Who runs the tasks: SLURM, Kubernetes by kubectl, or whoever takes commands (shell prints them).",
        choices=tuple(TARGETS),
    ),
    dry_run: bool = option(False, "Print the scripts, or the Job; write and submit nothing."),
) -> None:
    """Submit a run: one task per chunk, and the merge when all of them are complete.

    Takes the options of transcribe. To SLURM it submits an array and a merge job; to Kubernetes an Indexed Job, in
    which the last chunk merges; for a shell it prints a command for each chunk, as ssh and GNU parallel take them. Give
    the same options with --chunks to run some chunks again; rows that are written stay.
    """
    values = jobs.of(to)
    if options.values["num_chunks"] is None:
        raise UsageError(
            "--num-chunks is missing: into how many chunks? one task each; asrbatch plan shows what they would hold"
        )
    _make_absolute(options.values)
    # Chunk 0 stands for all: what is wrong with the options is said here, once, not by a thousand tasks.
    config = options.config(environment={}, chunk_id=0)
    {"slurm": _to_slurm, "kubernetes": _to_kubernetes, "shell": _to_shell}[to](options, values, config, dry_run)


def _to_slurm(options: RunOptions, values: dict[str, Any], config: RunConfig, dry_run: bool) -> None:
    output = config.output_path
    _check_outputs(config, config.manifest)
    slurm, chdir = _slurm_options(values, output), values["chdir"]
    # Another environment may have another vLLM.
    is_here = slurm.container is None and slurm.python == _interpreter(None, None)
    ids = [*range(config.num_chunks)] if slurm.chunks is None else parse_chunks(slurm.chunks, config.num_chunks)
    manifests, not_checked = _checked(config, ids, chdir, dry_run, is_here=is_here)
    arrays = split_arrays(ids, slurm)
    scripts = [_array(array, arrays, slurm, options, config, manifests) for array in arrays]
    arguments = merge_arguments(options, config, manifests)
    merge_path = _beside(output, "merge")
    merge_job = Script(merge_path, merge_script(slurm, arguments, path=merge_path)) if slurm.merge else None
    for note in [*_slurm_notes(config, slurm), *_notes(config), *not_checked]:
        log(f"note: {note}")
    if dry_run:
        _print(line for script in [*scripts, *([merge_job] if merge_job else [])] for line in script.text.split("\n"))
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


def _to_kubernetes(options: RunOptions, values: dict[str, Any], config: RunConfig, dry_run: bool) -> None:
    if values["image"] is None:
        raise UsageError("--image is missing: the pods need an image with asrbatch in it; scripts/docker/ makes one")
    if config.descriptor is not None:
        raise UsageError("--to kubernetes: pods have no standard input; write the manifest to a volume")
    _refuse_overwrite(config, "pods that are started again")
    pods = _pods(options, values, config)
    elsewhere = [each for each in config.manifest if _is_elsewhere(each, pods)]
    _check_outputs(config, [each for each in config.manifest if each not in elsewhere])
    if elsewhere:
        manifests = [_absolute_manifest(each, is_here=each not in elsewhere) for each in config.manifest]
        not_checked = ["the manifest is not here, and was not checked: asrbatch validate does it where it is"]
    else:
        manifests, not_checked = _checked(config, [*range(config.num_chunks)], None, dry_run, is_here=False)
        _check_audio(config, pods)
    arguments = [*_task_arguments(options, config, manifests), *(["--merge"] if pods.merge else [])]
    text = as_yaml(indexed_job(pods, arguments, num_chunks=config.num_chunks, grace_s=config.grace_s))
    for note in [*_notes(config), *not_checked]:
        log(f"note: {note}")
    if dry_run:
        _print(text.split("\n"))
        return
    said = apply(text, pods)
    log(said)
    if "created" not in said:
        log(f"note: the Job was there already; if it has ended nothing runs: `{pods.to_delete}`, then submit again")
    for line in (
        f"  pods:     kubectl get pods -l batch.kubernetes.io/job-name={pods.job_name}{pods.in_namespace}",
        f"  progress: asrbatch status {shlex.quote(str(config.output_path))}, where the volume is mounted",
        f"  cancel:   {pods.to_delete}",
    ):
        log(line)


def _pods(options: RunOptions, values: dict[str, Any], config: RunConfig) -> KubernetesOptions:
    """As given, with what is told by the run; all paths are where pods see them."""
    settled = {
        "job_name": values["job_name"] or job_name(_job_name(config.output_path), config.num_chunks),
        "python": _interpreter(values["python"], values["image"]),
    }
    pods = KubernetesOptions(**{**values, **settled})
    pods.check_name(config.num_chunks)
    pods.check_path("--output", str(config.output_path), is_written=True)
    for path in (path for each in config.manifest for path in _paths_of(each)):
        pods.check_path("manifest", path)
    for name in ("model", "tokenizer", "lora", "audio_folder", "tars"):
        for path in (options.values[name] or "").split(","):  # tars may be several
            # What is no path is a name on the hub, or a URL.
            if path.startswith("/"):
                pods.check_path(flag_of(name), path)
    return pods


def _is_elsewhere(given: str, pods: KubernetesOptions) -> bool:
    """Whether a manifest is for pods alone to see: neither it nor its folder is here."""
    for path in _paths_of(given):
        if "://" in path or os.path.lexists(path):
            continue
        folder = os.path.dirname(re.split(r"[*?[{]|_OP_", path)[0])  # of a pattern, what is none yet
        # A whole volume may be the manifest: the folder that it is in says nothing.
        if not os.path.isdir(max(folder, pods.mount_of(path).path, key=len)):
            return True
    return False


def _check_audio(config: RunConfig, pods: KubernetesOptions) -> None:
    """Raises UsageError where pods would not see the audio of one of the first rows. A folder that is not mounted shows
    in these; otherwise every row would fail, and the Job be complete.
    """
    if any("://" in each for each in config.manifest):
        return
    from asrbatch.manifest.formats import open_readers
    from asrbatch.manifest.row import Row

    for reader in open_readers(config.manifest, config.reading):
        if reader.holds_audio:
            continue
        for index, row in enumerate(islice(reader.rows(), _ROWS_LOOKED_AT)):
            path = reader.audio(index, row).path if isinstance(row, Row) else None
            if path is not None:
                pods.check_path("audio of the manifest", path)


def _refuse_overwrite(config: RunConfig, who: str) -> None:
    if config.overwrite:
        fix = "remove the chunks by hand, or choose another --output"
        raise UsageError(f"--overwrite: {who} would remove their own rows; {fix}")


def _to_shell(options: RunOptions, values: dict[str, Any], config: RunConfig, dry_run: bool) -> None:
    """A command a line, on standard output: nothing is submitted."""
    _refuse_overwrite(config, "commands that are run again")
    _check_outputs(config, config.manifest)
    python = _interpreter(values["python"], None)
    shell = JobOptions(**{**values, "python": python, "job_name": _job_name(config.output_path)})
    ids = [*range(config.num_chunks)] if shell.chunks is None else parse_chunks(shell.chunks, config.num_chunks)
    is_here = python == _interpreter(None, None)
    manifests, not_checked = _checked(config, ids, None, dry_run, is_here=is_here)
    arguments = [*_task_arguments(options, config, manifests), *(["--merge"] if shell.merge else [])]
    # Each by itself, as in a script: a comment, an & or a quote that is not closed ends with its line.
    before = "".join(f"eval {shlex.quote(line)} && " for line in shell.setup)
    for note in [*_notes(config), *not_checked]:
        log(f"note: {note}")
    _print(before + shell.command([*arguments, "--chunk-id", str(i)]) for i in ids)
    by_hand = shlex.join(["asrbatch", *merge_arguments(options, config, manifests)])
    for line in (
        "each line is one process, on any machine that sees these paths; run one that ends with 1, 4 or 6 again",
        f"  on one machine with 4 GPUs: {_PARALLEL} < commands.txt",
        "  on another machine:         sed -n 1p commands.txt | ssh NAME bash -l",
        "the last to end merges" if shell.merge else f"then: {by_hand}",
    ):
        log(line)


def _checked(
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


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(line)
    is_read()


def _task_arguments(options: RunOptions, config: RunConfig, manifests: list[str]) -> list[str]:
    """What every task is told, but its chunk."""
    # Absolute, so that neither --chdir nor another folder at the next submission changes what is meant.
    changes = {"manifest": manifests, "output": str(config.output_path)}
    # --overwrite is the script's business: a requeued task would remove the rows of its first start.
    return [command_of(options.values), *options.arguments(without=("overwrite",), **changes)]


def _check_outputs(config: RunConfig, manifests: Iterable[str]) -> None:
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


def _slurm_options(values: dict[str, Any], output: Path) -> SlurmOptions:
    """As given, with what is told by the output, and folders that mean the same on every node."""
    settled = {
        "job_name": _job_name(output) if values["job_name"] is None else values["job_name"],
        "log_dir": _absolute(values["log_dir"]) or output.parent / "logs",
        "python": _interpreter(values["python"], values["container"]),
    }
    folders = {name: str(_absolute(values[name])) for name in ("chdir", "cache_dir") if values[name] is not None}
    return SlurmOptions(**{**values, **settled, **folders})


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
    return [_absolute_manifest(each) for each in config.manifest], None


def _absolute_manifest(given: str, *, is_here: bool = True) -> str:
    if is_here and "://" not in given and not expand(given):
        raise UsageError(f"{given}: no such manifest")
    return ",".join(_paths_of(given))


def _paths_of(given: str) -> list[str]:
    """The absolute paths that a manifest's name is made of; a URL, which is relative to no folder, as it is."""
    # A comma parts several manifests, unless a file has it in its name.
    is_one = "://" in given or os.path.lexists(absolute(given))
    return [given if "://" in given else absolute(given)] if is_one else [*map(absolute, given.split(","))]


def _array(
    array: Array, arrays: list[Array], slurm: SlurmOptions, options: RunOptions, config: RunConfig, manifests: list[str]
) -> Script:
    place = "" if len(arrays) == 1 else f"-{array.offset}"
    path = _beside(config.output_path, f"array{place}")
    arguments = _task_arguments(options, config, manifests)
    run = {"output": config.output_path, "num_chunks": config.num_chunks, "overwrite": config.overwrite}
    text = array_script(array, slurm, arguments, path=path, **run)
    return Script(path, text, ranges(array.chunks))


def _beside(output: Path, what: str) -> Path:
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.{what}.sbatch")


def _make_absolute(values: dict[str, Any]) -> None:
    """Tasks may start in another folder than this one, so no path stays relative; names on the hub stay as they are."""
    if values["tars"] is not None:
        values["tars"] = ",".join(map(absolute, values["tars"].split(",")))
    if values["audio_folder"] is not None:
        values["audio_folder"] = absolute(values["audio_folder"])
    for place in ("model", "tokenizer", "lora"):
        name = values[place] or ""
        if name and Path(name).expanduser().is_dir():
            values[place] = str(_absolute(name))
        # No name on the hub begins so: a folder was meant.
        elif name.startswith((".", "~")):
            raise UsageError(f"--{place} {name}: no such folder")


def _absolute(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()


def _job_name(output: Path) -> str:
    return "asrbatch-" + (re.sub(r"[^\w.-]+", "-", output.name.removesuffix(".jsonl")).strip("-.") or "run")


def _interpreter(python: str | None, container: str | None) -> tuple[str, ...]:
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
        words[0] = str(_absolute(words[0]))
    return tuple(words)


def _slurm_notes(config: RunConfig, slurm: SlurmOptions) -> list[str]:
    """What may be meant, and may be a mistake."""
    notes = []
    if slurm.num_gpus > 1 and config.devices is None and not any("parallel_size" in arg for arg in config.engine.args):
        notes.append(f"--gpus {slurm.gpus} without --devices: one engine uses one GPU; give --devices all to use each")
    if 0 < slurm.signal_before_s <= config.grace_s:
        notes.append(
            f"--grace {config.grace_s:g} may take a task past its time limit: --signal-before is "
            f"{slurm.signal_before_s}"
        )
    return notes


def _notes(config: RunConfig) -> list[str]:
    """The same, whoever runs the tasks."""
    notes = []
    if config.output_path.parent.is_dir():
        others = [n for n in find_chunks(config.output_path) if n != config.num_chunks]
        if others:
            counts = ", ".join(map(str, others))
            notes.append(
                f"there are files of this run dealt out into {counts} chunks; merge-shards wants only one kind"
            )
    if not Path(config.engine.model).expanduser().exists():
        notes.append(
            f"--model {config.engine.model} is no folder here: every task will look it up, so fetch it beforehand"
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
