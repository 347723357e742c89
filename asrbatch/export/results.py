"""Results as other tools take them: a NeMo manifest with predictions, a result file of the Open ASR Leaderboard.

One file of all rows, in their order. Rows that failed are in it with an empty prediction: leaving them out would make a
model look better than it is. Knows nothing of subtitles and of folders."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.evaluation.row_fields import audio_seconds, finite_seconds, heard_language, stated_language, text_of
from asrbatch.evaluation.stats.languages import listed
from asrbatch.evaluation.text_rules import EXCLUDED, TextRules
from asrbatch.export.files import WholeFile, explained
from asrbatch.export.options import RESULTS, ResultNames
from asrbatch.formatting import counted, is_data_uri, show_text
from asrbatch.languages import primary
from asrbatch.manifest.readers.base import PIPE
from asrbatch.pipeline.result import RESULT_FIELDS
from asrbatch.storage.filenames import expand_home
from asrbatch.storage.files import json_bytes
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.record import read_completion_mark
from asrbatch.storage.remote import is_remote, join_url, scheme_of
from asrbatch.storage.run_files import RunFacts

_NO_LENGTH = "nobody knows how long it is, and NeMo's tools divide by `duration`; state it in the manifest"
_LEFT_OUT = {**EXCLUDED, "no_length": _NO_LENGTH}
_WITHOUT_TIME = {
    "failed": "they failed",
    "no_length": "nobody knows how long they are; state `duration` in the manifest",
}
_TIME_IS = (
    "engine wall time of one device, shared out by audio seconds of the rows that did not fail; no time of this row"
)


class ResultFile(WholeFile, ABC):
    """One file of all rows, each an object on a line of its own.

    Attributes:
        left_out: rows left out, by reason: a key of `_LEFT_OUT`.
        without_time: rows whose `time` is null, by reason (`_WITHOUT_TIME`). They are in the file, so that they count.
        not_english: rows in other languages, by language, in a file for English alone.
    """

    def __init__(self, path: Path, overwrite: bool, files: ExitStack):
        super().__init__(path, overwrite, files)
        self.left_out: Counter = Counter()
        self.without_time: Counter = Counter()
        self.not_english: Counter = Counter()

    def notes(self) -> list[str]:
        """What a person should know about its rows."""
        notes = [f"left out {counted(rows, 'row')}: {_LEFT_OUT[reason]}" for reason, rows in self.left_out.items()]
        notes += [
            f"{counted(n, 'row', 'has', 'have')} no time, because {_WITHOUT_TIME[reason]}"
            for reason, n in self.without_time.items()
        ]
        if self.without_time:
            notes.append(
                "the leaderboard makes no RTFx of a file with such rows; that of the run is rtfx_engine in X.done.json"
            )
        if languages := self.not_english:
            notes.append(
                f"{languages.total()} rows are not in English ({listed(languages)}): the leaderboard has other rules "
                "for them than asrbatch score"
            )
        return notes

    def add_row(self, row: dict[str, Any]) -> None:
        if (fields := self.result_of(row)) is not None:
            self.num_utterances += 1
            with explained(self.path):
                self.file.write(json_bytes(fields) + b"\n")

    @abstractmethod
    def result_of(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """What the file says of a row; None where it has no place for it."""


class NemoFile(ResultFile):
    """A NeMo manifest: every field of the input as it was, and `pred_text`.

    NeMo's tools read `duration`, `text` and `audio_filepath` of every row, and divide by the first: `duration` is
    filled in where it was not stated, `text` is empty where there is no reference, and relative paths are made
    absolute, because NeMo takes them as relative to this file.
    """

    def __init__(self, rows: Path, folder: Path, names: ResultNames, overwrite: bool, files: ExitStack):
        super().__init__(folder / f"{rows.name.removesuffix('.jsonl')}.nemo.json", overwrite, files)
        facts = RunFacts(rows)
        self._audio_base, self._holds_audio = facts.audio_base, facts.holds_audio

    def result_of(self, row: dict[str, Any]) -> dict[str, Any] | None:
        fields = nemo_row(row, self._audio_base, self._holds_audio)
        if fields["duration"]:
            return fields
        self.left_out["no_length"] += 1
        return None


class LeaderboardFile(ResultFile):
    """A result file of the Open ASR Leaderboard.

    Texts are as they were written: the leaderboard normalises when it scores. Rows that it drops before a model hears
    them are left out. `time` makes its RTFx that of the run's engine, and says so.

    Raises:
        UsageError: the file cannot be named, or the run says no time.
    """

    def __init__(self, rows: Path, folder: Path, names: ResultNames, overwrite: bool, files: ExitStack):
        name, paths = names.file_name(), RunPaths(rows)
        self._rtfx = (read_completion_mark(paths) or {}).get("rtfx_engine")
        if not self._rtfx:
            raise UsageError(
                f"--format leaderboard: {paths.done.name} does not say how fast the engine was, and `time` is made of "
                "that; finish the run, or merge its chunks"
            )
        super().__init__(folder / name, overwrite, files)
        self._rules = TextRules("leaderboard")
        facts = RunFacts(rows)
        self._language, self._translated_into = facts.language, facts.task == "translate" and facts.written_language

    def result_of(self, row: dict[str, Any]) -> dict[str, Any] | None:
        reference = text_of(row, "text", lambda: f"id {show_text(row['id'])}")
        if excluded := self._rules.prepare(reference, [], "en").excluded:
            self.left_out[excluded] += 1
            return None
        lang = self._translated_into or stated_language(row) or self._language or heard_language(row) or "en"
        # The leaderboard normalises texts in other languages by other rules.
        if (code := primary(lang)) != "en":
            self.not_english[code] += 1
        audio_s = audio_seconds(row) or None
        # The engine's speed is that of rows it transcribed: a share for others would make more time than there was.
        why_no_time = "failed" if row["status"] != "ok" else "no_length" if audio_s is None else None
        if why_no_time:
            self.without_time[why_no_time] += 1
        return {
            "audio_filepath": row.get("audio_filepath") or row["id"],
            "duration": audio_s,
            # Nine digits: a time that is rounded to 0 would be none to the leaderboard.
            "time": None if why_no_time else round(audio_s / self._rtfx, 9),
            "text": reference,
            "pred_text": row.get("pred_text") or "",
            "time_is": _TIME_IS,
        }


RESULT_FILES: dict[str, type[ResultFile]] = dict(zip(RESULTS, (LeaderboardFile, NemoFile), strict=True))


def nemo_row(row: dict[str, Any], audio_base: str, holds_audio: bool = False) -> dict[str, Any]:
    """An output row as the row of the manifest it came from, with `pred_text`.

    What had stood under a name that is ours gets it back, but for `pred_text`, which stays under `input`. `duration` is
    null where nobody knows it; rows whose audio is no file of its own have their id as `audio_filepath`.

    Args:
        audio_base, holds_audio: as `RunFacts` tells them.
    """
    # What the run added is left out; what it had to move aside is put back.
    ours = {"index", "input", *RESULT_FIELDS}
    fields = {name: value for name, value in row.items() if name not in ours}
    moved = row["input"] if isinstance(row.get("input"), dict) else {}
    if moved.keys() >= set(RESULT_FIELDS):  # a row of a run, whose texts were aligned: what it had moved aside itself
        moved = moved["input"] if isinstance(moved.get("input"), dict) else {}
    fields.update({name: value for name, value in moved.items() if name not in ("pred_text", "id")})
    fields["duration"] = finite_seconds(fields.get("duration")) or audio_seconds(row) or None
    place = _absolute(fields.get("audio_filepath"), audio_base)
    # A data set's own name for audio that lies inside it is no path, though it may look like one.
    is_inside = holds_audio and place is not None and os.path.isabs(place) and not os.path.exists(place)
    fields["audio_filepath"] = row["id"] if place is None or is_inside else place
    if type(fields.get("text")) is not str:
        fields["text"] = ""
    if "pred_text" in moved:
        fields["input"] = {"pred_text": moved["pred_text"]}
    return {**fields, "pred_text": row.get("pred_text") or ""}


def _absolute(path: Any, base: str) -> str | None:
    """A path, URL or `data:` URI that means the same everywhere; None for what names no file."""
    if type(path) is not str or not path or path.startswith(PIPE):
        return None
    if is_data_uri(path) or scheme_of(path) is not None:
        return path
    return join_url(base, path) if is_remote(base) else os.path.join(base, expand_home(path))
