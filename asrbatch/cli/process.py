"""What a command does with its process: signals before it has begun, and standard streams that may be lost.

Progress is a courtesy: a full disk, a closed descriptor, a reader or a terminal that is gone cost no row and no exit
code. Imports the standard library alone, so that it is there before anything that takes time.
"""

import codecs
import io
import locale
import os
import select
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import TextIO

from asrbatch.errors import EXIT_INTERRUPTED


class LossyFile(io.FileIO):
    """A descriptor that takes all it is given; what the system refuses is dropped.

    Without a buffer: a signal's handler may write while we do, which Python's buffers refuse.

    Attributes:
        lost: the first refusal; None while there was none.
    """

    lost: OSError | None = None

    def write(self, data) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # full for now: somebody who shares the descriptor has made it non-blocking
                    poll = select.poll()
                    poll.register(self.fileno(), select.POLLOUT)
                    poll.poll()
                rest = rest[written or 0 :]
        except OSError as e:
            self.lost = self.lost or e
        return size


def lossy_stream(descriptor: int, like: TextIO | None, errors: str, closefd: bool = True) -> TextIO:
    """Text to a descriptor, in the encoding of `like` and by lines if that is."""
    encoding = "utf-8" if like is None else like.encoding
    file = LossyFile(descriptor, "w", closefd=closefd)
    by_lines = like is None or like.line_buffering or getattr(like, "write_through", False)
    return io.TextIOWrapper(file, encoding, errors, line_buffering=by_lines)


def guard_streams() -> None:
    """Makes standard output and error ones that may be lost, and that no character is refused by. To be called before
    a file is opened: it would get the number of a closed stream, and with it what is printed there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            os.set_inheritable(descriptor, True)
    codecs.register_error("asrbatch", _as_it_can)
    # Whoever calls us with streams of their own, as tests do, keeps them.
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if sys.stdout is sys.__stdout__:
        sys.stdout = lossy_stream(1, sys.stdout, "asrbatch", closefd=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = lossy_stream(2, sys.stderr, "backslashreplace", closefd=False)


def use_utf8() -> None:
    """Starts this process anew, in Python's UTF-8 mode, where the locale has another encoding: names of files are UTF-8
    all the same. What is printed stays in that of the terminal."""
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", locale.getencoding())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _as_it_can(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a file's name that are not text as they are; what a terminal cannot show as its code."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def lost_output() -> OSError | None:
    """Why standard output has not taken all that was printed; None when it has."""
    sys.stdout.flush()
    return getattr(getattr(sys.stdout, "buffer", None), "lost", None)


def stop_signals() -> list[int]:
    """Ctrl-C, what SLURM sends when it cancels or preempts, and the end of the terminal unless `nohup` said that it is
    none of ours."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def leave_on_signals() -> None:
    """Until a command has begun: there is nothing to finish, and an exception would come out of any import."""
    for number in stop_signals():
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"asrbatch: stopped by {signal.Signals(number).name} before it began\n".encode())
    os._exit(EXIT_INTERRUPTED)


def hand_over_signals() -> None:
    """A command that stops in no way of its own gets what Python and the system do."""
    for number in stop_signals():
        if signal.getsignal(number) is _leave:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
