"""`asrbatch plan`: what a run would do, before any GPU is used."""

import shlex
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from asrbatch.cli.common import AsJson, fetch_no_model, print_result
from asrbatch.cli.estimates import ALL_DEVICES, NO_SPEED, EstimateOptions, num_devices_of, speed_of
from asrbatch.cli.options import NOT_EXPLAINED, READING, RunOptions, command_of, options_of, run_options, takes
from asrbatch.cluster.jobs import WINDOWS_PER_S, cores_per_gpu
from asrbatch.config import RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, UsageError
from asrbatch.manifest.source import names_data_set
from asrbatch.options import option

if TYPE_CHECKING:
    from asrbatch.manifest.survey import Balance, Estimate, ManifestStats
    from asrbatch.runs.preflight import PreflightResult

PLACEHOLDER = "MODEL"


@takes(
    options=run_options(without=("chunk_id", "chunk_offset"), titles=NOT_EXPLAINED), speeds=options_of(EstimateOptions)
)
def plan(
    options: RunOptions,
    probe: bool = option(False, "Read the header of every file, in parallel."),
    probe_workers: int = option(8, "Processes that read headers.", minimum=1),
    *,
    speeds: EstimateOptions,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do: rows, hours, balance of the chunks, missing or broken files, time, and the command
    lines.

    \b
    Example:
      asrbatch plan manifest.jsonl --model openai/whisper-large-v3-turbo -o run/out.jsonl --num-chunks 64 --probe

    Exit codes: 0 nothing wrong; 2 the manifest or an option cannot be used; 3 --probe found rows that will fail.
    """
    from asrbatch.cli.display.plan_status import plan_parts

    # A plan downloads nothing, but a manifest on the hub is read there.
    if not any(map(names_data_set, options.values["manifest"])):
        fetch_no_model(options.values["model"])
    figures = figures_of(options, probe, probe_workers, speeds)
    print_result(figures, plan_parts, as_json)
    # Behind the figures, which are right all the same.
    check_refusal(figures)
    raise typer.Exit(figures["exit_code"])


def check_refusal(figures: dict[str, Any]) -> None:
    """Raises UsageError with the words that a run would end with."""
    if figures["exit_code"] == EXIT_USAGE:
        raise UsageError(*figures["model"]["refused"].split("\n"))


def figures_of(
    options: RunOptions, probe: bool, probe_workers: int, speeds: EstimateOptions, *, progress: bool = True
) -> dict[str, Any]:
    """All that is shown, as one JSON object; see docs/checking.md for its fields.

    Args:
        progress: show how far the probe is.
    """
    from asrbatch.cli.display.progress import ProbeBar
    from asrbatch.manifest.probe import AudioProbe
    from asrbatch.manifest.survey import ManifestStats, estimate
    from asrbatch.runs.preflight import check_engine_options, check_run

    values, speed = options.values, speed_of(speeds)
    num_chunks = values["num_chunks"]
    config = options.config(
        # Not ours: a plan that is made inside a job is still one of the whole run.
        environment={},
        model=values["model"] or PLACEHOLDER,
        # Whichever: a `RunConfig` of chunks is of one of them.
        chunk_id=None if num_chunks is None else 0,
        chunk_offset=None,
        streaming=values["streaming"] or any(map(names_data_set, values["manifest"])),  # the rows without their audio
    )
    check_engine_options(config)
    stats = ManifestStats(config.manifest, reading=config.reading)
    verdict = None
    if values["model"] is not None:
        # Rows without `lang` ask for nothing that could be refused.
        verdict = check_run(config, filter(None, stats.languages))
    found = None
    if probe:
        # With the model's own bounds where it is known: what is too short or too long depends on it.
        how = {"config": verdict and verdict.window_config, "track": config.track}
        how |= {"num_workers": probe_workers, "timeout_s": config.decode_timeout_s}
        with ProbeBar(len(stats)) if progress else nullcontext() as bar:
            observe = {"observe": bar.update} if bar else {}
            found = AudioProbe(stats.manifest, stats.files, **how, **observe)
    # With lengths as headers have them, where they were read: what rows state may be wrong.
    balance = stats.balance(num_chunks or 1, config.strategy, None if found is None else found.audio_s)
    time = None
    if speed is not None:
        how = {"num_devices": num_devices_of(config) or 1, "price_per_hour": config.price_per_hour}
        time = estimate(balance, speed.rtfx, speed.source, startup_s=speed.startup_s, **how)
    exit_code = EXIT_ROWS_FAILED if found and found.results.num_failing else EXIT_COMPLETE
    return {
        "manifest": stats.manifest.figures(),
        "audio": asdict(stats.durations()),
        "languages": {language or "": rows for language, rows in stats.languages.most_common()},
        "duplicates": asdict(stats.duplicates()),
        "chunks": None if num_chunks is None else balance.as_dict(),
        "estimate": time and asdict(time),
        "cores_per_gpu": {kind: cores_per_gpu(kind) for kind in WINDOWS_PER_S},
        "model": verdict and {"model": values["model"], "refused": verdict.refused, "not_checked": verdict.not_checked},
        "probe": found and found.results.as_dict(stats.manifest),
        "commands": _commands(options, config.output_path),
        "notes": _notes(config, stats, balance, verdict, time, probed=found is not None),
        "exit_code": EXIT_USAGE if verdict and verdict.refused else exit_code,
    }


def _commands(options: RunOptions, output: Path) -> dict[str, str | None]:
    """The command lines of this run, ready to be copied; they work in the folder where `plan` was called."""
    values = options.values
    model = {} if values["model"] else {"model": PLACEHOLDER}
    name = values["output"] or output.name
    whole = options.arguments(**model)
    command = command_of(values)
    lines = {"one_process": [command, *options.arguments(without=("num_chunks", "strategy"), **model)]}
    if values["num_chunks"] is not None:
        lines["chunk"] = [command, *whole, "--chunk-id", "0"]
        lines["submit"] = ["submit", *options.arguments(without=("overwrite",), **model)]
        manifests = [word for each in values["manifest"] for word in ("--manifest", each)]
        lines["merge"] = ["merge-shards", name, *manifests, *options.arguments(only=READING)]
    lines["status"] = ["status", name]
    return {what: shlex.join(["asrbatch", *words]) for what, words in lines.items()}


def _notes(
    config: RunConfig, stats: "ManifestStats", balance: "Balance", verdict: "PreflightResult | None",
    time: "Estimate | None", *, probed: bool,
) -> list[str]:  # fmt: skip
    left_out = [stats.manifest.left_out] if stats.manifest.left_out else []
    notes = list(dict.fromkeys([*left_out, *(verdict.notes if verdict else ())]))
    if verdict is None:
        notes.append(
            f"no --model was given: model and languages were not checked, and it stands as {PLACEHOLDER} above"
        )
    elif (
        verdict.window_config
        and verdict.window_config.windows == "none"
        and (num_long := stats.num_longer_than(verdict.window_config.window_s))
    ):
        hears = f"the {verdict.window_config.window_s:g} s that the model takes at once"
        notes.append(
            f"{num_long} rows are longer than {hears} and will fail as too_long; cut them with offset and duration"
        )
    if config.num_chunks is None:
        notes.append("--num-chunks N shows how even N chunks would be, and the lines that run them")
    elif balance.num_in_turn:
        rows = f"{balance.num_in_turn} of {len(stats)} rows have no duration"
        notes.append(f"chunks are not balanced by audio: {rows}; those are split in turn (strided)")
    if time is None:
        what = "time" if config.price_per_hour is None else "time and no cost"
        notes.append(NO_SPEED.format(what=what))
    elif time.rows_not_counted:
        fix = "their headers do not tell" if probed else "--probe measures them"
        notes.append(f"time and cost leave out {time.rows_not_counted} rows of unknown length; {fix}")
    if time is not None and num_devices_of(config) is None:
        notes.append(ALL_DEVICES)
    return notes
