"""The names of a run's files, all derived from the output path."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """The files beside one output.

    Args:
        rows: the output path itself, `X.jsonl`.
    """

    rows: Path

    @property
    def _stem(self) -> str:
        return self.rows.name.removesuffix(".jsonl")

    @property
    def record(self) -> Path:
        return self.rows.with_name(f"{self._stem}.run.json")

    @property
    def done(self) -> Path:
        return self.rows.with_name(f"{self._stem}.done.json")

    @property
    def lease(self) -> Path:
        return self.rows.with_name(f"{self._stem}.lease")

    @property
    def in_flight(self) -> Path:
        return self.rows.with_name(f"{self._stem}.inflight")

    @property
    def log(self) -> Path:
        return self.rows.with_name(f"{self._stem}.log")
