"""Which rows were in the engine when it died, so that one poisonous row cannot stop a run for ever.

A row's index is appended here before its first window is submitted; those not in the rows file at the next start were
in flight. A row that was in flight at `RUN_ALONE_AFTER` deaths is run when nothing else is, and if the engine dies
once more, the row becomes `engine_crash`.

A session that says nothing of its end was killed (from outside, or by the OOM killer for what an engine in our process
took), or crashed with an engine in our process. A crash leaves its trace in the log and is a death. A kill is none, and
makes no `engine_crash`: two of them are as much of a reason as one death to run a row last, or alone. But a row that
takes all memory must not stop a run for ever: after `GIVE_UP_AFTER` kills with it alone it becomes `killed`.
"""

import faulthandler
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from asrbatch.errors import EngineDiedError, RowError
from asrbatch.storage.files import explained

RUN_ALONE_AFTER = 2
GIVE_UP_AFTER = 3
_KILLS_LIKE_A_DEATH = 2
_TRACE = b"Fatal Python error"  # how faulthandler begins


class Deaths(NamedTuple):
    """What happened while one row was in flight.

    Attributes:
        engine: deaths of the engine.
        kills: of asrbatch itself.
        kills_alone: those of them with nothing else in the row's engine.
    """

    engine: int = 0
    kills: int = 0
    kills_alone: int = 0

    @property
    def caution(self) -> int:
        """0: run it as any other; 1: after all others; `RUN_ALONE_AFTER`: alone."""
        return min(self.engine + self.kills // _KILLS_LIKE_A_DEATH, RUN_ALONE_AFTER)

    @property
    def error(self) -> RowError | None:
        """What the row fails with; None where it is to be tried again."""
        if self.engine >= GIVE_UP_AFTER:
            often = f"the engine died {self.engine} times with this row in it, the last time with this row alone"
            return RowError("engine_crash", often)
        if self.kills_alone >= GIVE_UP_AFTER:
            often = f"asrbatch was killed {self.kills_alone} times while this row alone was in the engine"
            return RowError("killed", f"{often}; who did it is not known, the system does so when memory runs out")
        return None

    def killed(self) -> "Deaths":
        return Deaths(self.engine, self.kills + 1, self.kills_alone + (self.caution == RUN_ALONE_AFTER))


class InFlightLog:
    """Append-only list of row indices taken by this session; replaces the last session's.

    A new file: what a former holder of the lease may still add, should it wake up, lands in the old one.

    Args:
        name: the record has it as well, on the disk: so a log whose deaths are in the record is not counted again.
    """

    def __init__(self, path: Path, name: str):
        self._path = path
        with explained(path):
            path.unlink(missing_ok=True)
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
        self.begin(name, ())

    def add(self, index: int) -> None:
        with explained(self._path):
            # No fsync: the log is for a process that died, and what was written survives that.
            os.write(self._fd, b"%d\n" % index)

    def begin(self, name: str, indexes: Iterable[int]) -> None:
        """Begins anew with these: others came back from an engine whose death has been counted."""
        with explained(self._path):
            os.ftruncate(self._fd, 0)
            os.write(self._fd, _head(name) + b"".join(b"%d\n" % index for index in indexes))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Rows are in an engine inside the block alone; however it ends, if not by the engine's death, none died.

        Before anything is closed, which may take longer than whoever stops us will wait; and by what is open, which
        needs neither space nor a folder that may be written.
        """
        died = False
        # Whoever has it on already, as pytest has, wants the traces elsewhere.
        traces = not faulthandler.is_enabled()
        try:
            if traces:
                faulthandler.enable(self._fd)
            yield
        except EngineDiedError:
            died = True
            raise
        finally:
            if traces:
                faulthandler.disable()
            if not died:
                # Where even this is refused, nothing can be said any more.
                with suppress(OSError):
                    os.ftruncate(self._fd, 0)

    def close(self, *, remove: bool) -> None:
        with explained(self._path):
            os.close(self._fd)
            if remove:
                self._path.unlink(missing_ok=True)


def update_deaths(record: dict[str, Any] | None, path: Path, finished: bytearray) -> dict[int, Deaths]:
    """What happened by row index, brought up to date with how the last session ended; rows without are absent.

    Args:
        record: the run record before this session; None for a new run.
        path: the last session's in-flight log.
        finished: 1 for every row in the rows file.
    """
    if not record:
        return {}
    deaths = {int(i): Deaths(n) for i, n in record.get("engine_deaths", {}).items()}
    for i, (kills, alone) in record.get("kills", {}).items():
        deaths[int(i)] = Deaths(deaths.get(int(i), Deaths()).engine, kills, alone)
    last = record["sessions"][-1] if record["sessions"] else None
    # None: it could not say how it ended.
    if last and last["outcome"] in (None, "engine_died"):
        rows, crashed = _unfinished(path, last.get("in_flight"), finished)
        for index in rows:
            before = deaths.get(index, Deaths())
            died = crashed or last["outcome"]
            deaths[index] = before._replace(engine=before.engine + 1) if died else before.killed()
    # Of a row that was written since, nobody asks any more.
    return {i: n for i, n in deaths.items() if i < len(finished) and not finished[i]}


def deaths_as_record(deaths: Mapping[int, Deaths]) -> dict[str, Any]:
    """The fields of a run record that `update_deaths` reads."""
    return {
        "engine_deaths": {str(index): each.engine for index, each in deaths.items() if each.engine},
        "kills": {str(index): [each.kills, each.kills_alone] for index, each in deaths.items() if each.kills},
    }


def _head(name: str) -> bytes:
    return f"log {name}\n".encode()


def _unfinished(path: Path, name: str | None, finished: bytearray) -> tuple[set[int], bool]:
    """Rows of the log that have no output row; few, however long the log. And whether the process crashed.

    Args:
        name: of the log, in another one there is nothing; None for one of a version that gave it none.
    """
    found: set[int] = set()
    crashed = False
    with explained(path), suppress(FileNotFoundError), open(path, "rb") as file:
        if name is not None and file.readline() != _head(name):
            return found, crashed
        for line in file:
            crashed = crashed or line.startswith(_TRACE)
            if line.endswith(b"\n") and line[:-1].isdigit():  # else torn: the row was not submitted yet
                index = int(line)
                if index < len(finished) and not finished[index]:
                    found.add(index)
    return found, crashed
