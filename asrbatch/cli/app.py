"""The command line: which commands there are, and how any of them ends.

Options in, exit codes out; what is done is in the modules the commands call, what is shown in `display/`. Imports
neither torch nor vllm, so that `--help` answers at once.
"""

import os
import signal
import sys
import threading
from typing import Annotated

import typer

from asrbatch import __version__
from asrbatch.cli.commands.align import align
from asrbatch.cli.commands.compare import compare
from asrbatch.cli.commands.export import export
from asrbatch.cli.commands.make_manifest import make_manifest
from asrbatch.cli.commands.merge_shards import merge_shards
from asrbatch.cli.commands.models import models
from asrbatch.cli.commands.plan import plan
from asrbatch.cli.commands.report import report
from asrbatch.cli.commands.score import score
from asrbatch.cli.commands.status import status
from asrbatch.cli.commands.submit import submit
from asrbatch.cli.commands.transcribe import transcribe
from asrbatch.cli.commands.validate import validate
from asrbatch.cli.common import Interrupted, complain, guard_messages, log, log_block
from asrbatch.cli.help import GroupedCommand, WholeSummaries, usage_error
from asrbatch.cli.process import guard_streams, hand_over_signals, stop_signals
from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_INTERRUPTED, AsrbatchError
from asrbatch.formatting import one_line
from asrbatch.storage.paths import in_current_folder

app = typer.Typer(
    name="asrbatch",
    cls=WholeSummaries,
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    # Typer would show a traceback for every error; `main` shows a line.
    pretty_exceptions_enable=False,
    # Help speaks of [default: …], which rich would take for markup.
    rich_markup_mode=None,
    help="Offline batch transcription on vLLM: every manifest row ends in exactly one output row.",
)
_COMMANDS = (
    transcribe, align, merge_shards, plan, submit, status, export, validate, make_manifest, models, score, compare,
    report,
)  # fmt: skip
for _command in _COMMANDS:
    app.command(cls=GroupedCommand)(_command)  # called as its function, with - for _


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"asrbatch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        # Eager, because `asrbatch --version` names no command.
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    # A run goes on without; its own take over when there is something to finish.
    if context.invoked_subcommand not in ("transcribe", "align"):
        hand_over_signals()


def main() -> int:
    """Runs a command; returns the process's exit code, and never a traceback unless asked."""
    code = EXIT_ERROR
    guard_streams()
    guard_messages()
    try:
        with in_current_folder():
            code = app(standalone_mode=False) or EXIT_COMPLETE
        # Ctrl-C before our own handler is in place.
        code = EXIT_INTERRUPTED if code == 130 else code
    except SystemExit as e:  # a reader of standard output that has left
        code = e.code
    except typer.TyperException as e:  # what typer makes of arguments that are none
        log_block(usage_error(e))
        code = e.exit_code
    except Interrupted as e:
        log(f"asrbatch: {e}")
        code = EXIT_INTERRUPTED
    except AsrbatchError as e:
        complain(e, str(e))
        code = e.exit_code
    except Exception as e:
        complain(e, f"a bug in asrbatch: {one_line(e)}; --verbose shows where")
    _leave(code)
    return code


def _leave(code: int) -> None:
    """Ends the process without waiting for threads that are inside C++: after an interrupted start
    they never return.
    """
    # It has ended: one more Ctrl-C, or the end of the terminal, changes nothing of how.
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    # Without either there is nothing that could hang, and Python may end as it does.
    if threading.active_count() == 1 and sys.modules.keys().isdisjoint(("vllm", "torch")):
        return
    import multiprocessing

    # `os._exit` throws away what Python still holds of them.
    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():  # an EngineCore whose start was interrupted
        child.kill()  # it is deaf to the polite signal, see engine/drivers.py
    os._exit(code)
