"""Rows as other tools of the field take results: a NeMo manifest with predictions, a result file of the Open ASR Leaderboard.

One file of all rows, in their order. Rows that failed are in it with an empty prediction: leaving them out would make a model
look better than it is. Knows nothing of subtitles and of folders.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError
from .export_files import WholeFile, explained
from .output.files import json_bytes
from .output.paths import RunPaths
from .output.record import read_completion_mark
from .output.rows import RESULT_FIELDS
from .scored_rows import audio_seconds, text_of
from .scored_texts import TextRules

_TIME_IS = "engine wall time of one device, shared out by audio seconds; no time of this row"


@dataclass(frozen=True)
class ResultNames:
    """What the leaderboard calls a result, in the name of its file.

    Attributes:
        model_id: such as `openai/whisper-tiny.en`.
        dataset, dataset_name, split: such as `hf-audio/open-asr-leaderboard`, `librispeech`, `test.clean`.
    """

    model_id: str | None = None
    dataset: str | None = None
    dataset_name: str | None = None
    split: str | None = None

    def file_name(self) -> str:
        """`MODEL_<model>_DATASET_<dataset>_<name>_<split>.jsonl`, a slash as a hyphen.

        Raises:
            UsageError: a part is missing.
        """
        missing = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if not value]
        if missing:
            raise UsageError(f"--format leaderboard: {', '.join(missing)} missing; the leaderboard's file names are made of them")
        parts = (value.replace("/", "-") for value in (self.dataset, self.dataset_name, self.split))
        return f"MODEL_{self.model_id.replace('/', '-')}_DATASET_{'_'.join(parts)}.jsonl"


class NemoFile(WholeFile):
    """A NeMo manifest: every field of the input as it was, and `pred_text`; `duration` is filled in where it was not stated.

    Attributes:
        left_out: rows left out, by reason: none are.
    """

    def __init__(self, rows: Path, folder: Path, names: ResultNames, overwrite: bool, files: ExitStack):
        super().__init__(folder / f"{rows.name.removesuffix('.jsonl')}.nemo.json", overwrite, files)
        self.left_out: Counter = Counter()

    def add_row(self, row: dict[str, Any]) -> None:
        with explained(self.path):
            self.file.write(json_bytes(nemo_row(row)) + b"\n")


class LeaderboardFile(WholeFile):
    """A result file of the Open ASR Leaderboard. Texts are as they were written: the leaderboard normalises when it scores.

    Rows that it drops before a model hears them are left out. `time` makes its RTFx that of the run's engine, and says so.

    Attributes:
        left_out: rows left out, by reason (`scored_texts.EXCLUDED`).

    Raises:
        UsageError: the file cannot be named, or the run says no time.
    """

    def __init__(self, rows: Path, folder: Path, names: ResultNames, overwrite: bool, files: ExitStack):
        name = names.file_name()
        self._rtfx = _rtfx_of_engine(rows)
        self._rules = TextRules("leaderboard")
        self.left_out: Counter = Counter()
        super().__init__(folder / name, overwrite, files)

    def add_row(self, row: dict[str, Any]) -> None:
        reference = text_of(row, "text", row["id"])
        if excluded := self._rules.prepare(reference, [], "en").excluded:
            self.left_out[excluded] += 1
            return
        audio_s = audio_seconds(row)
        result = {
            "audio_filepath": row.get("audio_filepath") or row["id"],
            "duration": audio_s,
            "time": None if audio_s is None else round(audio_s / self._rtfx, 6),
            "text": reference,
            "pred_text": row.get("pred_text") or "",
            "time_is": _TIME_IS,
        }
        with explained(self.path):
            self.file.write(json_bytes(result) + b"\n")


RESULT_FILES = {"leaderboard": LeaderboardFile, "nemo": NemoFile}


def nemo_row(row: dict[str, Any]) -> dict[str, Any]:
    """An output row as the row of the manifest it came from, with `pred_text`.

    What had stood under a name that is ours gets it back, but for `pred_text`, which stays under `input`.
    """
    ours = {"index", "input", *RESULT_FIELDS}
    fields = {name: value for name, value in row.items() if name not in ours}
    moved = row["input"] if isinstance(row.get("input"), dict) else {}
    fields.update({name: value for name, value in moved.items() if name not in ("pred_text", "id")})
    if fields.get("duration") is None and (audio_s := audio_seconds(row)) is not None:
        fields["duration"] = audio_s
    if "pred_text" in moved:
        fields["input"] = {"pred_text": moved["pred_text"]}
    return {**fields, "pred_text": row.get("pred_text") or ""}


def _rtfx_of_engine(rows: Path) -> float:
    mark = read_completion_mark(RunPaths(rows))
    if not (mark or {}).get("rtfx_engine"):
        raise UsageError(
            f"--format leaderboard: {RunPaths(rows).done.name} does not say how fast the engine was, and `time` is made of that; "
            "finish the run, or merge its chunks"
        )
    return mark["rtfx_engine"]
