"""What stands beside a rows file: is the run complete, what was it asked, how fast was it. Knows nothing of error rates."""

import glob
from pathlib import Path
from typing import Any

from .errors import OutputError
from .output.figures import figures_of_chunks
from .output.paths import RunPaths
from .output.record import read_completion_mark, read_record
from .predictions import rows_files


class RunFacts:
    """The run records and completion marks of a rows file, or of the chunks of a run, where there are any.

    Attributes:
        record: of the rows file, or of the first chunk that has one; None where there is none.
        problem: why they cannot be used, or None.
    """

    def __init__(self, path: Path):
        self._files = rows_files(path)
        self._in_chunks = self._files != [path]
        self._records: list[dict[str, Any]] = []
        self._marks: list[dict[str, Any]] = []
        self.problem: str | None = None
        try:
            for paths in map(RunPaths, self._files):
                self._records += [record] if (record := read_record(paths)) is not None else []
                self._marks += [mark] if (mark := read_completion_mark(paths)) is not None else []
        except OutputError as e:
            self.problem = str(e)
        self.record = self._records[0] if self._records else None

    @property
    def language(self) -> str | None:
        """What the run was told to take rows without `lang` for."""
        return self._fingerprint.get("language")

    @property
    def task(self) -> str | None:
        """`transcribe` or `translate`; None where no record says."""
        return self._fingerprint.get("task")

    @property
    def written_language(self) -> str | None:
        """The language a run that translates wrote its texts in; None where it wrote what was spoken, or does not say."""
        if self.task != "translate":
            return None
        asked = self._fingerprint.get("asked") or {}
        # Whisper's fingerprint has no style.
        return asked.get("target_language") or (None if "style" in asked else "en")

    @property
    def covers(self) -> tuple[Any, ...] | None:
        """What the rows are rows of: manifest by digest, and chunk; None where that is unknown."""
        if self._fingerprint.get("manifest") is None:
            return None
        is_part = self.record.get("chunk_id") is not None and not self._in_chunks
        chunk = (self.record["chunk_id"], self._fingerprint.get("chunks")) if is_part else None
        return self._fingerprint["manifest"], chunk

    @property
    def manifest_source(self) -> str | None:
        """Where the manifest was when the run was started."""
        source = self._made_from.get("source")
        return source if type(source) is str else None

    @property
    def holds_audio(self) -> bool:
        """Whether audio may lie inside the manifest, under names that are no files."""
        return self._made_from.get("holds_audio") is True

    @property
    def audio_base(self) -> str:
        """What relative audio paths are relative to, a folder or a URL: where the run looked; without a record the folder of the
        predictions."""
        for folder in (self._fingerprint.get("audio_folder"), self._made_from.get("audio_folder")):
            if type(folder) is str and folder:
                return folder
        return str(self._folder_of_source())

    @property
    def audio_folder(self) -> Path:
        """`audio_base` as a folder of this machine."""
        return Path(self.audio_base)

    def _folder_of_source(self) -> Path:
        """As far as the manifest's name tells: of several sources that of the first."""
        if self.manifest_source is None:
            return self._files[0].parent
        source = Path(self.manifest_source.split(",")[0])
        is_folder = glob.has_magic(str(source)) or source.is_dir()
        while glob.has_magic(str(source)):
            source = source.parent
        return source if is_folder else source.parent

    @property
    def manifest_digest(self) -> str | None:
        return self._fingerprint.get("manifest")

    @property
    def chunk(self) -> tuple[int, int, str, str] | None:
        """Of a rows file that is one chunk: its number, how many there are, how rows were dealt out, the digest of that."""
        if self._in_chunks or self.record is None or type(self.record.get("chunk_id")) is not int:
            return None
        found = self._fingerprint
        return self.record["chunk_id"], found.get("num_chunks") or 0, str(found.get("strategy")), str(found.get("chunks"))

    def is_incomplete(self, num_rows: int) -> bool:
        """Whether the record says that there should be another number of rows; False where there is none."""
        return self.record is not None and self.problem is None and self._expected != num_rows

    def speed(self, num_rows: int) -> dict[str, float | None]:
        """RTFx and wall time of a complete run; nothing otherwise, or where the marks vouch for another number of rows."""
        if not self._marks or len(self._marks) < len(self._files) or self._num_chunks_missing:
            return {}
        if sum(mark["rows"] for mark in self._marks) != num_rows:
            return {}
        if self._in_chunks:
            by_chunk = {record["chunk_id"]: record for record in self._records}
            figures = figures_of_chunks(by_chunk)
        else:
            figures = self._marks[0]
        names = ("rtfx_engine", "rtfx_end_to_end", "wall_s", "span_s", "device_hours")
        return {name: figures[name] for name in names if name in figures}

    def notes(self, num_rows: int, torn: bool, fate: str) -> list[str]:
        """What a person should know about rows that are not there.

        Args:
            fate: what becomes of them, said after how many they are.
        """
        notes = []
        if torn:
            notes.append("the last line is torn: the run is writing it, or was killed; that prediction was left out")
        if self.problem:
            notes.append(f"whether these {num_rows} rows are all of a run cannot be told: {self.problem}")
        elif self.is_incomplete(num_rows):
            notes.append(f"not complete: {num_rows} of {self._expected or 'an unknown number of'} rows are there{fate}")
        if self._in_chunks:
            notes.append(f"read from {len(self._files)} chunks, not verified: merge-shards does that")
        elif self.record is not None and self.record.get("chunk_id") is not None:
            notes.append(f"chunk {self.record['chunk_id']} of {self.record.get('num_chunks')} alone")
        return notes

    @property
    def _num_chunks_missing(self) -> int:
        return self.record["num_chunks"] - len(self._files) if self._in_chunks and self.record else 0

    @property
    def _expected(self) -> int | None:
        """Rows that there should be; None where that is unknown."""
        if self._in_chunks:
            return self._fingerprint.get("num_rows")
        return self.record.get("total_rows")

    @property
    def _made_from(self) -> dict[str, Any]:
        made_from = (self.record or {}).get("manifest")
        return made_from if isinstance(made_from, dict) else {}

    @property
    def _fingerprint(self) -> dict[str, Any]:
        fingerprint = (self.record or {}).get("fingerprint")
        return fingerprint if isinstance(fingerprint, dict) else {}
