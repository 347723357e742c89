"""`asrbatch validate`: what is wrong with a manifest and its audio, and a manifest of the rows that pass."""

import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from asrbatch.cli.common import AsJson, Verbose, fetch_no_model, print_result
from asrbatch.cli.options import MODEL_OPTIONS, READING, RunOptions, flag_of, run_options, takes
from asrbatch.errors import UsageError
from asrbatch.manifest.source import names_data_set


@takes(options=run_options(only=(*READING, *MODEL_OPTIONS)))
def validate(
    options: RunOptions,
    manifest: Annotated[
        list[str] | None, typer.Argument(help="As transcribe takes it; several are one manifest.", show_default=False)
    ] = None,
    audio: Annotated[
        Literal["header", "decode", "none"],
        typer.Option(help="Read the header of every file, decode all audio, or look at the rows alone."),
    ] = "header",
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Also ask what a run with this model, and the options of that run, asks of rows."
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Rows that would be flagged are wrong too: another duration, digital silence."),
    ] = False,
    write_clean: Annotated[
        str | None, typer.Option(help="Write the rows that pass to this JSONL file.", show_default=False)
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            help="List every problem in this file, a JSON line each, in the order of finding.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of --write-clean and --report.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read audio. [default: 8, or one per core]")
    ] = None,
    decode_timeout: Annotated[float, typer.Option(help="Seconds that 30 s of one file may take to decode.")] = 300.0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say all that is wrong with a manifest and the audio it names, before a run; needs no GPU and no vLLM.

    Exit codes: 0 nothing wrong; 2 transcribe would refuse the manifest, or an option cannot be used; 3 rows would fail.
    """
    from asrbatch.cli.display.checks import validation_parts
    from asrbatch.cli.display.progress import ProbeBar, ReadingBar
    from asrbatch.manifest.probe import ALWAYS, NEVER
    from asrbatch.manifest.validate import Validation
    from asrbatch.manifest.writer import check_new_manifest
    from asrbatch.runs.preflight import rules_of_model
    from asrbatch.storage.problems import ProblemFile

    sources = choose_sources(manifest, options.values["dataset"])
    clean, listed = (None if given is None else Path(given).expanduser().absolute() for given in (write_clean, report))
    check_timeout(decode_timeout)
    if clean is None and listed is None and overwrite:
        raise UsageError("--overwrite: replaces the files of --write-clean and --report; give one of them as well")
    if clean is not None and clean == listed:
        raise UsageError(f"--report {listed}: is the file of --write-clean; give another name")
    # Before hours of reading, which would be for nothing.
    for path, option in ((clean, "--write-clean"), (listed, "--report")):
        if path is not None:
            check_new_manifest(path, option, sources, overwrite)
    asked = [name for name in options.given if name in MODEL_OPTIONS]
    if model is None and asked:
        # An option that nothing asks about would be ignored in silence.
        raise UsageError(f"{flag_of(asked[0])}: is of a run with a model; give --model as well")
    # Off line, a manifest on the hub would be out of reach as well.
    if not any(map(names_data_set, sources)):
        fetch_no_model(model)
    check, rules = None, None
    if model is not None:
        # As a run would be asked to; how its manifest is read makes no difference to the model.
        config = options.config(environment={}, manifest="any.jsonl", model=model, audio_folder=None)
        check, rules = rules_of_model(config, asked)
    reading = options.reading
    if audio == "none" and all(map(names_data_set, sources)):
        reading = replace(reading, streaming=True)  # the rows without their audio
    with ExitStack() as stack:
        # The file is there whole or not at all, also when reading is interrupted.
        problems = None if listed is None else stack.enter_context(ProblemFile(listed))
        with ReadingBar() as bar:
            found = Validation(
                sources, reading, check=check, for_lines=clean is not None, strict=strict,
                on_issue=problems and problems.add, observe=bar.update,
            )  # fmt: skip
        if audio != "none":
            decodes = audio == "decode"
            with_bar = ("decoding", "decoded") if decodes else ("reading headers", "headers read")
            with ProbeBar(len(found), *with_bar) as bar:
                found.judge_audio(
                    decode=ALWAYS if decodes else NEVER, num_workers=workers or default_workers(),
                    timeout_s=decode_timeout,
                    config=rules, observe=bar.update,
                )  # fmt: skip
        if problems is not None:
            problems.write()
            found.report = (listed, problems.num_problems)
    nothing_clean: UsageError | None = None
    if clean is not None:
        try:
            found.write_clean(clean)
        except UsageError as e:  # said behind the reasons
            nothing_clean = e
    told = found.as_dict()
    print_result(told, partial(validation_parts, with_model=model is not None), as_json)
    if nothing_clean is not None:
        raise nothing_clean
    raise typer.Exit(found.exit_code)


def choose_sources(given: list[str] | None, dataset: str | None) -> list[str]:
    """What is to be read: at least one. Raises UsageError."""
    if given and dataset is not None:
        raise UsageError(f"--dataset {dataset}: the manifest is {given[0]} already; give one of them")
    if not given and dataset is None:
        raise UsageError("MANIFEST is missing; give a file, a folder, - for standard input, or --dataset NAME")
    sources = given or [f"hf://{dataset}"]
    if sources.count("-") > 1:
        raise UsageError("-: standard input can be read once")
    return sources


def default_workers() -> int:
    """Headers are waited for more than worked on; decoding needs cores."""
    return max(8, min(32, len(os.sched_getaffinity(0))))


def check_timeout(decode_timeout_s: float) -> None:
    # Not by typer's `min`, which lets infinity and NaN pass.
    if not 0 < decode_timeout_s < float("inf"):
        raise UsageError(f"--decode-timeout {decode_timeout_s:g}: must be above 0")
