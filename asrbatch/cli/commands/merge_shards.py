"""`asrbatch merge-shards`: the chunks of a run, verified and joined."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrbatch.cli.common import log, print_line
from asrbatch.cli.options import READING, RunOptions, choose_sources, options_of, run_options, takes
from asrbatch.config import PriceOptions
from asrbatch.formatting import clock
from asrbatch.options import option
from asrbatch.storage.cost import cost_lines

if TYPE_CHECKING:
    from asrbatch.cluster.merge import MergeResult


@takes(prices=options_of(PriceOptions), reading=run_options(only=READING))
def merge_shards(
    output: Annotated[str, typer.Argument(help="The run's output path, as its chunks' commands were given it.")],
    manifest: tuple[str, ...] = option(
        (), "What was transcribed, may be repeated; or --dataset.", flags="--manifest", metavar="MANIFEST"
    ),
    num_chunks: int | None = option(None, "Of how many chunks the run is, where files of several runs are there."),
    allow_incomplete: bool = option(False, "Write the rows there are when some are missing; marked incomplete."),
    overwrite: bool = option(False, "Replace the merged rows of another run."),
    *,
    prices: PriceOptions,
    reading: RunOptions,
) -> None:
    """Verify the chunks of a run against the manifest and join them in manifest order; the chunks stay as they are.

    \b
    Example:
      asrbatch merge-shards run/out.jsonl --manifest manifest.jsonl

    Prints the output path when the run is complete, and otherwise the ids of the chunks to run again as
    `sbatch --array` takes them (3,7,9-12); everything else goes to standard error.

    Exit codes: 0 complete; 1 not complete, or stopped by an error; 2 refused: an option, the manifest, or files of
    another run; 3 complete, some rows failed; 6 another process writes this output.
    """
    from asrbatch.cluster.merge_report import ranges
    from asrbatch.errors import EXIT_ERROR

    how = {"num_chunks": num_chunks, "allow_incomplete": allow_incomplete, "overwrite": overwrite}
    merged = merge_run(output, manifest, **how, prices=prices, reading=reading, log=log)
    report, record = merged.report, merged.record
    # All that is wrong at once: a merge that names one thing a time costs a queue's wait for each.
    for line in report.lines():
        log(line)
    for line in _summary(record) if record else ():
        log(line)
    if merged.exit_code == EXIT_ERROR:
        log(f"asrbatch: {merged.paths.rows}: {'incomplete' if record else 'not merged'}; the reasons are above")
        # Standard output holds what a script goes on with: the path of a whole run, or the chunks to run again.
        if report.run_again:
            print_line(ranges(report.run_again))
    else:
        print_line(merged.paths.rows)
    raise typer.Exit(merged.exit_code)


def merge_run(
    output: str, manifest: Sequence[str] | None, *, num_chunks: int | None, allow_incomplete: bool, overwrite: bool,
    prices: PriceOptions, reading: RunOptions, log: Callable[[str], None],
) -> "MergeResult":  # fmt: skip
    """What the command does, and `asrbatch.merge_shards`."""
    from asrbatch.cluster.merge import merge

    return merge(
        Path(output).expanduser().absolute(),
        choose_sources(manifest or (), reading.values["dataset"], name="--manifest"),
        reading=reading.reading,
        num_chunks=num_chunks,
        allow_incomplete=allow_incomplete,
        overwrite=overwrite,
        price_per_hour=prices.price_per_hour,
        log=log,
    )


def _summary(record: dict[str, Any]) -> list[str]:
    tally, chunks = record["tally"], record["chunks"]
    failed = tally["statuses"].get("failed", 0)
    lines = [
        f"merged: {tally['rows']} of {record['total_rows']} rows ({failed} failed), {tally['audio_s'] / 3600:.3f} h "
        f"of audio, from {len(chunks)} of {record['num_chunks']} chunks"
    ]
    for what in ("errors", "flags"):
        if tally[what]:
            counts = sorted(tally[what].items(), key=lambda item: -item[1])
            lines.append(f"{what}: {', '.join(f'{count} {name}' for name, count in counts)}")
    if record.get("rtfx_engine"):
        lines.append(
            f"RTFx of one device: {record['rtfx_engine']:g} while its engine worked, {record['rtfx_end_to_end']:g} "
            "end to end, start-up included"
        )
    if "slowest_chunk" in record:
        slowest, sessions = record["slowest_chunk"], sum(chunk["sessions"] for chunk in chunks)
        lines.append(
            f"{record['device_hours']:.3f} device-hours: wall time of {sessions} sessions times their devices; "
            f"slowest chunk {slowest['chunk_id']} with {clock(slowest['wall_s'])}; {clock(record['span_s'])} from "
            "first start to last end"
        )
    return lines + cost_lines(record)
