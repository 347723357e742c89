"""What the commands share: how results, messages and errors are printed, and how a signal ends a run.

Here, in `display/` and in `process.py` alone something is printed, and foreign text through `printable` (a test of the
layers holds that): names of files, rows, records, leases, answers of servers and messages of libraries may hold
what moves a terminal's cursor.
"""

import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from asrbatch.cli.display.progress import Terminal
from asrbatch.cli.process import lost_output, stop_signals
from asrbatch.config import descriptor_of
from asrbatch.errors import OutputError
from asrbatch.formatting import printable


class Interrupted(BaseException):
    """A signal with nothing left to wait for. Not an Exception, so that nothing on its way takes it for a failure."""


# Of the module, because errors are shown in `app.main`, when the command and its options are gone.
_verbose = False


def _set_verbose(asked: bool) -> None:
    global _verbose
    _verbose = asked


Sources = Annotated[
    list[str] | None, typer.Argument(help="As transcribe takes it; several are one manifest.", show_default=False)
]
_PREDICTIONS = "A rows file, merged or not, or other JSON Lines with predictions; - for a pipe."
Predictions = Annotated[list[str], typer.Argument(help=_PREDICTIONS, metavar="PREDICTIONS...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=_set_verbose, help="Show tracebacks.")]


def predictions_path(given: str) -> Path:
    """The file that was named, or the pipe: `-`, `/dev/fd/63`."""
    return Path(given) if descriptor_of(given) is not None else Path(given).expanduser().absolute()


class _ShownRecord(logging.LogRecord):
    """What a library logs, whoever prints it."""

    def getMessage(self) -> str:
        return printable(super().getMessage())


def guard_messages() -> None:
    """Has libraries log and warn in what a terminal may have: they quote files and servers as these are."""
    logging.setLogRecordFactory(_ShownRecord)
    as_python_does = warnings.formatwarning
    warnings.formatwarning = lambda said, *where, **line: as_python_does(printable(str(said)), *where, **line)


def complain(error: Exception, message: str) -> None:
    """Says what is wrong on standard error, in one or two lines; a traceback when it was asked for."""
    if _verbose:
        log_block("".join(traceback.format_exception(error)).rstrip())
    else:
        # The end of vLLM's log, without which an engine that did not start has said little.
        for note in getattr(error, "__notes__", ()):
            log_block(note)
    log_block(f"asrbatch: {message}")


def log(line: str) -> None:
    """How far it is, and what is to be known beside the result: on standard error."""
    typer.echo(printable(line), err=True)


def log_block(lines: str) -> None:
    """Several lines that are made as such: what stands in them has made none."""
    typer.echo(printable(lines, keep="\n"), err=True)


def print_line(line: object) -> None:
    """A line of the result, such as the path that a script goes on with: to whoever reads it the very bytes, a person
    at a terminal gets it as a message is shown."""
    text = str(line)
    # Not typer's echo, which takes out what looks like a colour.
    print(printable(text) if sys.stdout.isatty() else text, flush=True)


def print_json(metrics: dict[str, Any], ascii: bool = False) -> None:
    """A result on one line. NaN is no JSON, and would be a defect."""
    # Where the terminal lacks a character, JSON has an escape for it; and for those that it should not be given.
    ascii = ascii or not sys.stdout.encoding.lower().startswith("utf")
    text = json.dumps(metrics, ensure_ascii=ascii, allow_nan=False)
    if not text.isprintable():
        # DEL is ASCII, and no control character to JSON.
        escapes = {c: json.dumps(c)[1:-1].replace("\x7f", r"\u007f") for c in set(text) if not c.isprintable()}
        text = text.translate(str.maketrans(escapes))
    typer.echo(text)


def is_read() -> bool:
    """Whether somebody still reads standard output; whoever has left has seen enough.

    Raises:
        OutputError: it took not all that was printed. Of commands whose result is what they print.
    """
    lost = lost_output()
    if lost is not None and not isinstance(lost, BrokenPipeError):
        raise OutputError(f"standard output: {lost.strerror}; the printed result is incomplete; run the command again")
    return lost is None


def print_result(
    metrics: dict[str, Any],
    parts: Callable[[dict[str, Any]], Iterable],
    as_json: bool,
    *,
    ascii: bool = False,
    beside_file: bool = False,
) -> None:
    """A result as the user wants it: one JSON object, or the tables that `parts` makes of it.

    Args:
        beside_file: the command's product is a file, which does not fail because words about it were lost.

    Raises:
        OutputError: see `is_read`.
    """
    if as_json:
        print_json(metrics, ascii)
    else:
        from asrbatch.cli.display.tables import show

        show(*parts(metrics))
    if not beside_file:
        is_read()


def fetch_no_model(model: str | None) -> None:
    """A command that only looks at a model fetches none, and does not wait for a hub that is not there. It is this
    process's hub as a whole that goes off line, audio at `hf://` included, so only for a model that could be
    fetched."""
    if model is not None and not os.path.isdir(os.path.expanduser(model)):
        # In time: the hub's library reads it when it is imported. Somebody who has set it to 0 wants the hub.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def stop_on_signals(stop, terminal: Terminal) -> None:
    """First signal: finish what is in the engine. Second, or before the engine is up: leave now; rows are safe."""

    def handle(number: int, frame) -> None:
        name = signal.Signals(number).name
        # In this order: the request itself makes it requested.
        again, running = stop.requested, stop.request()
        # The end of a terminal comes twice, from the shell and from the kernel.
        if again and running and number == signal.SIGHUP:
            return
        if again or not running:
            # Safe in a handler, because the main thread only waits while a library starts (`engine/environment.py`).
            raise Interrupted(f"stopped by {name}; written rows are kept; run the same command to continue")
        terminal.log(f"{name}: finishing the windows in the engine; a second signal stops at once")

    for number in stop_signals():
        signal.signal(number, handle)
