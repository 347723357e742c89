"""Finds the rows of a manifest in files of predictions: by id or, where predictions have none, by the audio they name.

Predictions that belong to other rows would all be left out, and every reference would count as missed: a rate that looks like
one and is none. So a manifest that hardly any prediction belongs to is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import UsageError
from .predictions import Predictions
from .rows import show, show_text
from .scored_references import References

_LEAST_SHARE = 0.01  # of the predictions, or of the references where they are fewer


class Joined(NamedTuple):
    """Files of predictions and the references that they are scored against, called by the same ids; what to know of that."""

    files: list[Predictions]
    references: References
    notes: list[str]


def join(files: Sequence[Predictions], references: References, audio_folders: Sequence[Path]) -> Joined:
    """Makes sure that predictions find their references.

    Args:
        audio_folders: of each file, what relative audio paths are relative to.

    Raises:
        UsageError: a file has (nearly) no row of the references.
    """
    strangers = [file for file in files if not _belong(file, references)]
    if not strangers:
        return Joined(list(files), references, [])
    if all(file.num_made == len(file) for file in files):
        by_audio = references.by_audio()
        found = [file.by_audio(folder) for file, folder in zip(files, audio_folders, strict=True)]
        if all(_belong(file, by_audio) for file in found):
            note = "predictions without ids were found in the manifest by their audio: file, offset, duration and channel"
            return Joined(found, by_audio, [note])
    raise UsageError(_why(strangers[0], references))


def _belong(file: Predictions, references: References) -> bool:
    return _num_found(file, references) >= max(1.0, _LEAST_SHARE * min(len(file), len(references)))


def _num_found(file: Predictions, references: References) -> int:
    return len(file) - len(file.without(references.keys))


def _why(file: Predictions, references: References) -> str:
    found = _num_found(file, references)
    stranger, wanted = file.read(int(file.without(references.keys)[0])), references.read(0)
    of_each = (stranger["id"], stranger.get("audio_filepath")), (wanted.id, wanted.audio.name)
    here, there = (f"id {show_text(row_id)}" + (f", audio {show(path)}" if path else "") for row_id, path in of_each)
    return (
        f"{file.path}: {f'only {found}' if found else 'none'} of its {len(file)} rows {'are' if found > 1 else 'is'} in "
        f"{references.source}; here one is {here}, there {there}; give the manifest that was transcribed, or the same ids to both"
    )
