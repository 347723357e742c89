"""The commands. Options in, exit codes out; what is done is in `job.py`, what is shown in `display.py`.

Imports neither torch nor vllm, so that `--help` answers at once.
"""

import os
import signal
import sys
import traceback
from enum import Enum
from typing import Annotated

import typer

from . import __version__
from .display import Terminal
from .errors import EXIT_ERROR, EXIT_INTERRUPTED, AsrbatchError, UsageError

app = typer.Typer(
    name="asrbatch",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Offline batch transcription on vLLM: every manifest row ends in exactly one output row.",
)


class Task(str, Enum):
    transcribe = "transcribe"
    translate = "translate"


class Dtype(str, Enum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class EngineMode(str, Enum):
    auto = "auto"
    thread = "thread"
    process = "process"


class Interrupted(BaseException):
    """A signal with nothing left to wait for. Not an Exception, so that nothing on its way takes it for a failure."""


_verbose = False


def _set_verbose(asked: bool) -> None:
    global _verbose
    _verbose = asked


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"asrbatch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command()
def transcribe(
    manifest: Annotated[str, typer.Argument(help="A JSONL manifest, a data set saved with save_to_disk, or Parquet files.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint folder, or a name on the Hugging Face hub.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The rows file, ending in .jsonl. [default: MANIFEST.MODEL.jsonl in this folder]"),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language of rows without `lang`, e.g. en. [default: the model detects it, row by row]"),
    ] = None,
    task: Annotated[Task, typer.Option(help="Transcribe, or translate into English.")] = Task.transcribe,
    prompt: Annotated[
        str | None, typer.Option(help="Previous text for rows without `prompt`: sets style and spelling of names.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which split of a data set that has several.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew, removing what stands at --output.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed rows again.")] = False,
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit of the model.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Arithmetic of the model; auto suits model and device.")] = Dtype.auto,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens generated for one window. [default: what the decoder has room for]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling parameters; recorded, unused by greedy decoding.")] = 0,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any vLLM engine argument, e.g. max_num_seqs=32; may be repeated."),
    ] = None,
    engine_mode: Annotated[
        EngineMode, typer.Option(help="Run vLLM in a thread or in a process of its own; auto: thread on CPU, process on GPU.")
    ] = EngineMode.auto,
    workers: Annotated[
        int | None, typer.Option(help="Preparation threads, each with a decoder process. [default: one per core, at most 16]")
    ] = None,
    max_windows: Annotated[
        int | None,
        typer.Option(help="Windows between manifest and output at any time. [default: twice what the engine works on]"),
    ] = None,
    max_audio: Annotated[
        float | None, typer.Option(help="Seconds of audio between manifest and output. [default: a full window for each]")
    ] = None,
    decode_timeout: Annotated[float, typer.Option(help="Seconds one file may take to decode.")] = 300.0,
    grace: Annotated[float, typer.Option(help="Seconds an interrupted run may take to finish what is in the engine.")] = 20.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", callback=_set_verbose, help="Show tracebacks.")] = False,
) -> None:
    """Transcribe a manifest; run the same command again to resume.

    Exit codes: 0 complete; 1 stopped by an error; 2 usage; 3 complete, some rows failed; 4 interrupted, resume with
    the same command.
    """
    from .config import EngineConfig, RunConfig
    from .job import run
    from .progress import Stop

    if model is None:
        raise UsageError(
            "--model is missing; give a folder or a hub name, for example --model openai/whisper-large-v3-turbo"
        )
    config = RunConfig(
        manifest=manifest,
        engine=EngineConfig(
            model=model,
            revision=revision,
            dtype=dtype.value,
            mode=engine_mode.value,
            max_tokens=max_tokens,
            seed=seed,
            args=tuple(engine_arg or ()),
        ),
        output=output,
        split=split,
        language=language,
        task=task.value,
        prompt=prompt,
        overwrite=overwrite,
        retry_failed=retry_failed,
        workers=workers,
        max_windows=max_windows,
        max_audio_s=max_audio,
        decode_timeout_s=decode_timeout,
        grace_s=grace,
    )
    stop = Stop()
    with Terminal() as terminal:
        _stop_on_signals(stop, terminal)
        summary = run(config, terminal, stop)
        terminal.summary(summary)
    typer.echo(summary.paths.rows)
    raise typer.Exit(summary.exit_code)


def main() -> int:
    """Runs a command; returns the process's exit code, and never a traceback unless asked."""
    code = EXIT_ERROR
    try:
        app()
    except SystemExit as e:  # how typer ends, also after a usage error (2) or Ctrl-C before our own handler is in place (130)
        code = EXIT_INTERRUPTED if e.code == 130 else e.code
    except Interrupted as e:
        print(f"asrbatch: {e}", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except AsrbatchError as e:
        _complain(e, e)
        code = e.exit_code
    except Exception as e:
        _complain(e, f"a defect of asrbatch: {type(e).__name__}: {e}; --verbose shows where")
    _leave(code)
    return code


def _complain(error: Exception, message: object) -> None:
    if _verbose:
        traceback.print_exception(error)
    else:
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
    print(f"asrbatch: {message}", file=sys.stderr)


def _stop_on_signals(stop, terminal: Terminal) -> None:
    """First signal: finish what is in the engine. Second, or before the engine is up: leave now; rows are safe."""

    def handle(number: int, frame) -> None:
        name = signal.Signals(number).name
        again, running = stop.requested, stop.request()
        if again or not running:
            raise Interrupted(f"stopped by {name}; written rows are kept, the same command goes on from there")
        terminal.say(f"{name}: finishing what is in the engine; once more to leave at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _leave(code: int) -> None:
    """Ends the process without waiting for threads that are inside C++: after an interrupted start they never return."""
    if "vllm" not in sys.modules:
        return
    import multiprocessing

    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():  # an EngineCore whose start was interrupted
        child.kill()  # it is deaf to the polite signal, see engine/process.py
    os._exit(code)
