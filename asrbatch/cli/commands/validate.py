"""`asrbatch validate`: what is wrong with a manifest and its audio, and a manifest of the rows that pass."""

import os
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from asrbatch.cli.common import AsJson, Sources, fetch_no_model, print_result
from asrbatch.cli.options import (
    MODEL_OPTIONS,
    READING,
    ProbeOptions,
    RunOptions,
    choose_sources,
    flag_of,
    options_of,
    run_options,
    takes,
)
from asrbatch.errors import UsageError
from asrbatch.manifest.source import names_data_set
from asrbatch.options import option

if TYPE_CHECKING:
    from asrbatch.audio.windows import WindowConfig
    from asrbatch.config import SourceOptions
    from asrbatch.manifest.validate import Validation
    from asrbatch.runs.row_check import RowCheck


_TITLES = dict.fromkeys(MODEL_OPTIONS, "Only with --model") | {"track": None}


@takes(options=run_options(only=(*READING, *MODEL_OPTIONS, "track"), titles=_TITLES), probing=options_of(ProbeOptions))
def validate(
    manifest: Sources = None,
    audio: str = option(
        "header",
        "Read the header of every file, decode all audio, or look at the rows alone.",
        choices=("header", "decode", "none"),
    ),
    model: str | None = option(None, "Also check rows for a run with this model and its options.", flags="--model -m"),
    strict: bool = option(False, "Rows that would be flagged are wrong too: another duration, digital silence."),
    write_clean: str | None = option(None, "Write the rows that pass to this JSONL file."),
    report: str | None = option(None, "List every problem in this file, a JSON line each, in the order of finding."),
    overwrite: bool = option(False, "Replace the files of --write-clean and --report."),
    *,
    probing: ProbeOptions,
    as_json: AsJson = False,
    options: RunOptions,
) -> None:
    """Say all that is wrong with a manifest and the audio it names, before a run; needs no GPU and no vLLM.

    \b
    Example:
      asrbatch validate manifest.jsonl --audio decode --write-clean clean.jsonl

    Exit codes: 0 nothing wrong; 2 transcribe would refuse the manifest, or an option cannot be used; 3 rows would fail.
    """
    from asrbatch.cli.display.checks import validation_parts
    from asrbatch.cli.display.progress import ReadingBar
    from asrbatch.manifest.validate import Validation
    from asrbatch.storage.problems import ProblemFile

    sources = choose_sources(manifest or [], options.values["dataset"])
    clean, listed = (None if given is None else Path(given).expanduser().absolute() for given in (write_clean, report))
    reading = options.reading
    _check_new_files(clean, listed, sources, overwrite, reading)
    check, windows = _row_check(options, model, sources)
    if audio == "none" and all(map(names_data_set, sources)):
        reading = replace(reading, streaming=True)  # the rows without their audio
    # The file is there whole or not at all, also when reading is interrupted.
    with nullcontext() if listed is None else closing(ProblemFile(listed)) as problems:
        with ReadingBar() as bar:
            found = Validation(
                sources, reading, check=check, for_lines=clean is not None, strict=strict,
                on_issue=problems and problems.add, observe=bar.update,
            )  # fmt: skip
        for path, name in ((clean, "--write-clean"), (listed, "--report")):
            if path is not None:
                found.refuse_audio(path, name)
        if audio != "none":
            _judge_audio(found, audio == "decode", probing, windows, options.values["track"])
        if problems is not None:
            problems.write()
            found.report = (listed, problems.num_problems)
    try:
        if clean is not None:
            found.write_clean(clean)
    finally:  # why nothing was written is said behind what is wrong
        told = {"notes": check.notes} if check is not None and check.notes else {}
        print_result(found.as_dict() | told, partial(validation_parts, with_model=model is not None), as_json)
    raise typer.Exit(found.exit_code)


def _check_new_files(
    clean: Path | None, listed: Path | None, sources: list[str], overwrite: bool, reading: "SourceOptions"
) -> None:
    """Before hours of reading, which would be for nothing."""
    from asrbatch.manifest.writer import check_new_manifest

    if clean is None and listed is None and overwrite:
        raise UsageError("--overwrite: replaces the files of --write-clean and --report; give one of them as well")
    if clean is not None and listed is not None and os.path.realpath(clean) == os.path.realpath(listed):
        raise UsageError(f"--report {listed}: is the file of --write-clean; give another name")
    for path, name in ((clean, "--write-clean"), (listed, "--report")):
        if path is not None:
            check_new_manifest(path, name, sources, overwrite, reading)


def _row_check(
    options: RunOptions, model: str | None, sources: list[str]
) -> tuple["RowCheck", "WindowConfig"] | tuple[None, None]:
    """What a run with the model needs of a row and of its audio; nothing without one."""
    from asrbatch.runs.preflight import check_of_model

    asked = [name for name in options.given if name in MODEL_OPTIONS]
    if model is None:
        if asked:  # an option that nothing asks about would be ignored in silence
            raise UsageError(f"{flag_of(asked[0])}: needs a model; give --model as well")
        return None, None
    # Off line, a manifest on the hub would be out of reach as well.
    if not any(map(names_data_set, sources)):
        fetch_no_model(model)
    # As a run would be asked to; how its manifest is read makes no difference to the model.
    return check_of_model(options.config(environment={}, manifest="any.jsonl", model=model, audio_folder=None), asked)


def _judge_audio(
    found: "Validation", decodes: bool, probing: ProbeOptions, windows: "WindowConfig | None", track: int | None
) -> None:
    from asrbatch.cli.display.progress import ProbeBar
    from asrbatch.manifest.probe import ALWAYS, NEVER

    words = ("decoding", "decoded") if decodes else ("reading headers", "headers read")
    with ProbeBar(len(found), *words) as bar:
        found.judge_audio(
            decode=ALWAYS if decodes else NEVER, num_workers=probing.num_workers, timeout_s=probing.decode_timeout_s,
            config=windows, track=track, observe=bar.update,
        )  # fmt: skip
