"""`asrbatch make-manifest`: any source as JSON Lines with measured durations."""

from pathlib import Path

import typer

from asrbatch.cli.common import AsJson, Sources, print_result
from asrbatch.cli.options import READING, ProbeOptions, RunOptions, choose_sources, options_of, run_options, takes
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, UsageError
from asrbatch.options import option


@takes(probing=options_of(ProbeOptions), reading=run_options(only=READING))
def make_manifest(
    source: Sources = None,
    output: str | None = option(None, "The JSONL file to write; required.", flags="--output -o"),
    headers_only: bool = option(False, "Believe headers, decode nothing: faster; MP3 and the like are 0.1 s off."),
    overwrite: bool = option(False, "Replace the file at --output."),
    *,
    probing: ProbeOptions,
    as_json: AsJson = False,
    reading: RunOptions,
) -> None:
    """Write any source as a JSONL manifest with measured durations, and the ids that transcribe would give its rows.

    \b
    Example:
      asrbatch make-manifest recordings/ -o manifest.jsonl

    Exit codes: 0 every row was measured; 1 stopped by an error; 2 usage; 3 written, and some rows name audio that will
    fail."""
    from asrbatch.cli.display.checks import made_parts
    from asrbatch.cli.display.progress import ProbeBar, ReadingBar
    from asrbatch.manifest.make import check_sources, write_manifest
    from asrbatch.manifest.writer import check_new_manifest

    if output is None:
        raise UsageError("--output is missing; give the JSONL file to write, for example -o manifest.jsonl")
    path, sources = Path(output).expanduser().absolute(), choose_sources(source or [], reading.values["dataset"])
    options = reading.reading
    # Before hours of decoding, which would be for nothing.
    check_new_manifest(path, "--output", sources, overwrite, options)
    if options.on_bad_row != "refuse":
        fix = "leave it out, or take those rows out with validate --write-clean"
        raise UsageError(f"--on-bad-row {options.on_bad_row}: a row that cannot be run cannot be written; {fix}")
    # All rows are judged before any audio is opened: a bad one is said in seconds.
    with ReadingBar() as bar:
        stats = check_sources(sources, options, observe=bar.update)
    stats.refuse_audio(path, "--output")
    with ProbeBar(len(stats), "measuring", "measured") as bar:
        made = write_manifest(
            stats, path, headers_only=headers_only, num_workers=probing.num_workers,
            timeout_s=probing.decode_timeout_s, observe=bar.update,
        )  # fmt: skip
    told = made.as_dict()
    print_result(told, made_parts, as_json, beside_file=True)
    raise typer.Exit(EXIT_ROWS_FAILED if told["rows_failing"] else EXIT_COMPLETE)
