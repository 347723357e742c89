"""The run record (`X.run.json`) and the completion mark (`X.done.json`).

The record says what the run is (fingerprint), with what it was made (versions, settings) and who worked on it when:
one entry per session, killed ones included, so that GPU-hours add up. It is written before the first row and
refreshed while the session lives. The completion mark is written last, and only when every row is there.
"""

import os
import socket
import threading
import time
from datetime import UTC, datetime
from typing import Any

from asrbatch import __version__
from asrbatch.storage.files import read_json, remove_leftovers, write_json_atomically
from asrbatch.storage.journal import Journal, StatusCounts
from asrbatch.storage.paths import RunPaths

# Often enough for a person who watches; a thousand tasks are then some 30 small writes a second on their file system.
RECORD_REFRESH_S = 30.0
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_CLUSTER_NAME",
    "SLURMD_NODENAME",
)


class RunRecord:
    """The record of a run with this process as its newest session.

    Args:
        previous: the record as it stands on disk, or None for a new run.
        fingerprint: what decides the rows; see `fingerprint.py`.
        total_rows: rows this output will hold.
        started: `time.monotonic()` when this session began; now, when None.
        facts: more fields of the record, such as the chunk's number.

    One thread changes it, another may write it: changes go through `update`. Only the holder of the lease may make one:
    what killed processes left half written is removed.

    Attributes:
        value: the JSON object.
    """

    def __init__(
        self,
        paths: RunPaths,
        previous: dict[str, Any] | None,
        fingerprint: dict[str, Any],
        total_rows: int,
        started: float | None = None,
        **facts: Any,
    ):
        self._path = paths.record
        remove_leftovers(paths.record, paths.done)
        self._started = time.monotonic() if started is None else started
        self.value: dict[str, Any] = {
            "asrbatch": __version__,
            "created": now(),
            "sessions": [],
            **(previous or {}),
            "fingerprint": fingerprint,
            "total_rows": total_rows,
            **facts,
        }
        self.session: dict[str, Any] = {
            "started": now(),
            "ended": None,
            "outcome": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "asrbatch": __version__,
            "slurm": {name: os.environ[name] for name in _SLURM if name in os.environ},
            "heartbeat": now(),
        }
        # A new list: the one that was read belongs to the caller, who compares it with what comes.
        self.value["sessions"] = [*self.value["sessions"], self.session]
        self._lock = threading.Lock()

    def update(self, session: dict[str, Any], **values: Any) -> None:
        """Changes fields of this session, and of the record itself."""
        with self._lock:
            self.session.update(session)
            self.value.update(values)

    def write(self) -> None:
        """Refreshes the file; atomic. Raises OutputError when the disk refuses."""
        with self._lock:
            self.session["heartbeat"] = now()
            self.session["wall_s"] = round(time.monotonic() - self._started, 3)
            write_json_atomically(self._path, self.value)

    def end(self, outcome: str) -> None:
        """`outcome`: complete, interrupted, engine_died or error."""
        self.update({"ended": now(), "outcome": outcome})
        self.write()


def write_completion_mark(
    paths: RunPaths, journal: Journal, fingerprint_digest: str, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Marks the run complete. Returns what was written.

    Raises:
        ValueError: the journal lacks rows.
        OutputError: the rows file is not what was written to it, or the disk refused.
    """
    # Never reached by a run that works; a mark that lies would be believed for ever.
    if journal.num_missing:
        raise ValueError(f"{journal.path}: {journal.num_missing} rows are missing; the run is not complete")
    journal.sync()  # the mark must never reach the disk before the rows it vouches for
    return write_mark(paths, journal.tally, journal.sha256, journal.num_bytes, fingerprint_digest, metrics)


def write_mark(
    paths: RunPaths,
    tally: StatusCounts,
    sha256: str,
    num_bytes: int,
    fingerprint_digest: str,
    metrics: dict[str, Any],
) -> dict[str, Any]:
    """The mark of rows that were proved to be complete, and are on the disk. Returns what was written."""
    # The size is for those who look often, and cannot read all rows each time.
    made = {"bytes": num_bytes, "fingerprint": fingerprint_digest, "asrbatch": __version__, "completed": now()}
    mark = {**tally.as_dict(), "sha256": sha256, **made, **metrics}
    write_json_atomically(paths.done, mark)
    return mark


def read_record(paths: RunPaths) -> dict[str, Any] | None:
    """The run record as it stands on disk; None for a new run. Raises OutputError when it is damaged."""
    return read_json(paths.record, "fingerprint", "sessions")


def read_completion_mark(paths: RunPaths) -> dict[str, Any] | None:
    """The completion mark; None while the run is not complete. Raises OutputError when it is damaged."""
    return read_json(paths.done, "rows", "statuses", "sha256")


# What a record that somebody edited may raise when it is read as ours.
EDITED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def is_record(value: dict[str, Any]) -> bool:
    """Whether what `read_record` found is what asrbatch writes, as far as others rely on it."""
    deaths, kills, sessions = value.get("engine_deaths", {}), value.get("kills", {}), value["sessions"]
    return (
        isinstance(value["fingerprint"], dict)
        and isinstance(sessions, list)
        and all(isinstance(each, dict) and {"started", "heartbeat", "outcome"} <= each.keys() for each in sessions)
        and isinstance(deaths, dict)
        and all(index.isdecimal() and type(number) is int for index, number in deaths.items())
        and isinstance(kills, dict)
        and all(index.isdecimal() and _are_two_counts(counts) for index, counts in kills.items())
    )


def _are_two_counts(value: Any) -> bool:
    return type(value) is list and list(map(type, value)) == [int, int]


def is_mark(value: dict[str, Any]) -> bool:
    """The same of a completion mark."""
    return type(value["rows"]) is int and isinstance(value["statuses"], dict) and type(value["sha256"]) is str


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
