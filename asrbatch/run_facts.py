"""What stands beside a rows file: is the run complete, what was it asked, how fast was it. Knows nothing of error rates."""

from pathlib import Path
from typing import Any

from .errors import OutputError
from .output.paths import RunPaths
from .output.record import read_completion_mark, read_record


class RunFacts:
    """The run record and the completion mark of a rows file, where there are any.

    Attributes:
        record, mark: None where there is none.
        problem: why they cannot be used, or None.
    """

    def __init__(self, rows: Path):
        self.record: dict[str, Any] | None = None
        self.mark: dict[str, Any] | None = None
        self.problem: str | None = None
        paths = RunPaths(rows)
        try:
            self.record, self.mark = read_record(paths), read_completion_mark(paths)
        except OutputError as e:
            self.problem = str(e)

    @property
    def language(self) -> str | None:
        """What the run was told to take rows without `lang` for."""
        return self._fingerprint.get("language")

    @property
    def covers(self) -> tuple[Any, ...] | None:
        """What the rows are rows of: manifest by digest, and chunk; None where that is unknown."""
        if self._fingerprint.get("manifest") is None:
            return None
        is_part = self.record.get("chunk_id") is not None
        chunk = (self.record["chunk_id"], self._fingerprint.get("chunks")) if is_part else None
        return self._fingerprint["manifest"], chunk

    def speed(self) -> dict[str, float | None]:
        """RTFx and wall time of the completion mark; nothing for a run that is not complete."""
        names = ("rtfx_engine", "rtfx_end_to_end", "wall_s", "span_s", "device_hours")
        return {name: self.mark[name] for name in names if name in (self.mark or {})}

    def notes(self, num_rows: int, torn: bool, has_references: bool) -> list[str]:
        """What a person should know about rows that are not there."""
        notes = []
        if torn:
            notes.append("the last line is torn: the run is writing it, or was killed; that row was left out")
        if self.problem:
            notes.append(f"whether these {num_rows} rows are all of a run cannot be told: {self.problem}")
        elif self.record is not None and (self.mark is None or self.mark.get("rows") != num_rows):
            total = self.record.get("total_rows", "an unknown number of")
            fate = "" if has_references else "; the others are not counted: --references MANIFEST counts them as empty"
            notes.append(f"not complete: {num_rows} of {total} rows are there{fate}")
        if self.record is not None and self.record.get("chunk_id") is not None:
            notes.append(f"chunk {self.record['chunk_id']} of {self.record.get('num_chunks')} alone")
        return notes

    @property
    def _fingerprint(self) -> dict[str, Any]:
        fingerprint = (self.record or {}).get("fingerprint")
        return fingerprint if isinstance(fingerprint, dict) else {}
