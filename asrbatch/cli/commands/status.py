"""`asrbatch status`: how far a run is, from its files alone."""

import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from asrbatch.cli.common import AsJson, is_read, print_result
from asrbatch.cli.options import options_of, takes
from asrbatch.config import PriceOptions
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED
from asrbatch.options import option
from asrbatch.timeouts import waited


@takes(prices=options_of(PriceOptions))
def status(
    output: Annotated[Path, typer.Argument(help="The run's output, X.jsonl, also of a run in chunks.")],
    num_chunks: int | None = option(None, "Which run, where chunks of several numbers lie side by side."),
    watch: bool = option(False, "Go on until the run is complete, or Ctrl-C; with --json one object a line."),
    every: float = option(10.0, "Seconds between two looks of --watch.", minimum=0.1),
    every_chunk: bool = option(False, "Show complete chunks too, however many there are.", flags="--all"),
    *,
    prices: PriceOptions,
    as_json: AsJson = False,
) -> None:
    """Say how far a run is: per chunk and in all. Reads its files only; safe at any time, from any machine that sees
    them.

    \b
    Example:
      asrbatch status run/out.jsonl --watch

    Exit codes: 0 complete; 1 something needs a person; 2 nothing is there; 3 complete, some rows failed; 4 not
    complete."""
    from asrbatch.cli.display.plan_status import refreshing, status_parts
    from asrbatch.cluster.status import Watch, run_status

    # One watch for all looks: it judges a run by whether its heartbeat changes between them, on this machine's clock.
    path, eyes = output.expanduser().absolute(), Watch()
    look = partial(run_status, path, num_chunks, price_per_hour=prices.price_per_hour, watch=eyes)
    figures = look()
    show_once = partial(print_result, parts=partial(status_parts, every_chunk=every_chunk), as_json=as_json)
    looks = refreshing(every_chunk) if watch and not as_json else nullcontext(show_once)
    # Ctrl-C is how a watch ends that does not wait for the end of the run.
    with looks as show_look, suppress(KeyboardInterrupt) if watch else nullcontext():
        while True:
            show_look(figures)
            # Nothing else ends a watch: a task that has stopped may be requeued.
            if not is_read() or not watch or figures["total"]["exit_code"] in (EXIT_COMPLETE, EXIT_ROWS_FAILED):
                break
            waited(time.sleep, every)
            figures = look()
    raise typer.Exit(figures["total"]["exit_code"])
