"""Commands in place of files, as Kaldi's `wav.scp` and lhotse's recordings have them: run when a row's turn has come."""

import os
import signal
import subprocess

from .errors import RowError
from .rows import BadRow, show_text

PIPE = "pipe:"
TIMEOUT_S = 300.0


def check_pipe(where: str, command: str, allowed: bool) -> str:
    """The `audio_filepath` that stands for a command. Raises BadRow: commands are not allowed."""
    if not allowed:
        fix = "give --allow-pipes to run it, or write files"
        raise BadRow(f"{where} = {show_text(command)}", "is a command, which is not run unasked", fix)
    return PIPE + command.strip().removesuffix("|").strip()


def run_pipe(command: str, name: str, folder: str) -> bytes:
    """What a command writes; killed, with all it started, after five minutes.

    Raises:
        RowError: unreadable: it failed, wrote nothing or took too long.
    """
    process = subprocess.Popen(
        command, shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        data, said = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as e:
        raise RowError("unreadable", f"{name}: took longer than {TIMEOUT_S:g} s") from e
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        words = " ".join(said.decode("utf-8", "replace").split())[-200:]
        raise RowError("unreadable", f"{name}: ended with exit status {process.returncode}: {words}")
    if not data:
        raise RowError("empty_audio", f"{name}: wrote nothing; correct the command, or drop the row", has_fix=True)
    return data
