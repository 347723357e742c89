"""The references that predictions are scored against: which there should be, and how predictions find theirs.

The record of a run that is not complete names its manifest; where that can be read and is still the one that was
transcribed (by its digest), rows without a prediction count as empty.

Predictions find their references by id or, where they have none, by the audio they name. Knows nothing of texts.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asrbatch.config import SourceOptions
from asrbatch.errors import AsrbatchError, UsageError
from asrbatch.evaluation.predictions import Predictions, audio_id, number_repeats, numbered
from asrbatch.formatting import show, show_text
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.storage.run_files import RunFacts
from asrbatch.types import Utterance

_LEAST_SHARE = 0.01  # of the predictions, or of the references where they are fewer


class References:
    """The rows of a manifest, or of one chunk of it, numbered from 0.

    Attributes:
        source: of the manifest.
        keys: int64 [rows], `hash(id)`.
    """

    def __init__(self, manifest: Manifest, indexes: np.ndarray | None = None):
        self._manifest = manifest
        self._indexes = np.arange(len(manifest)) if indexes is None else indexes
        self.source = manifest.source
        self.keys = np.frombuffer(manifest.keys, np.int64)[self._indexes]
        self._ordinals: dict[int, int] | None = None  # None where rows go by the ids of the manifest

    def __len__(self) -> int:
        return len(self._indexes)

    def read(self, index: int) -> Utterance:
        utterance = self._manifest.read(int(self._indexes[index]))
        if self._ordinals is None or (row_id := _audio_id(utterance)) is None:
            return utterance
        return replace(utterance, id=numbered(row_id, index, self._ordinals))

    def by_audio(self) -> "References":
        """The same rows, called after their audio as `Predictions.by_audio` calls them, whatever their ids are."""
        found = References(self._manifest, self._indexes)
        found.keys = self.keys.copy()
        rows, hashes = array("q"), array("Q")
        for index in range(len(self)):
            if (row_id := _audio_id(self.read(index))) is not None:
                rows.append(index)
                hashes.append(int(row_id, 16))
        found._ordinals = number_repeats(found.keys, rows, hashes)
        return found

    def where(self, index: int) -> str:
        """File and line of a row, for messages."""
        return self._manifest.where(int(self._indexes[index]))


def _audio_id(utterance: Utterance) -> str | None:
    return audio_id(utterance.audio, utterance.offset_s, utterance.duration_s, utterance.channel)


class FoundReferences(NamedTuple):
    """What predictions are to be scored against.

    Attributes:
        references: None where predictions carry their own and all rows are there, or nothing is known of the others.
        fate: what becomes of rows that a run has not written, to be said after how many they are.
        is_partial: rows that a run has not written are not counted.
    """

    references: References | None
    fate: str
    is_partial: bool


def find_references(source: str | None, split: str | None, run: RunFacts, num_rows: int) -> FoundReferences:
    """Finds the references of a file of predictions.

    Args:
        source, split: of the manifest that was given, if one was.
        num_rows: of the predictions.

    Raises:
        ManifestError: the given manifest cannot be read.
    """
    if source is not None:
        return FoundReferences(
            References(open_manifest(source, options=SourceOptions(split=split))), "; the others count as empty", False
        )
    # A run that lacks rows would score better than it is if they were not counted.
    if not run.is_incomplete(num_rows):
        return FoundReferences(None, "", False)
    try:
        references = _of_run(run, split)
    except AsrbatchError as e:
        # Nobody asked for this manifest: that it cannot be used is said in a note, and does not end the score.
        why = str(e).partition("\n")[0]
        return FoundReferences(
            None, f"; the others are not counted ({why}): --references MANIFEST counts them as empty", True
        )
    return FoundReferences(references, f"; the others count as empty, by {references.source}", False)


def _of_run(run: RunFacts, split: str | None) -> References:
    """The rows that a run was to write. Raises AsrbatchError where that cannot be told."""
    if run.manifest_source is None:
        raise UsageError("the run record names no manifest")
    manifest = open_manifest(run.manifest_source, options=SourceOptions(split=split))
    if manifest.scan.digest != run.manifest_digest:
        raise UsageError(f"{manifest.source} was changed since it was transcribed")
    if run.chunk is None:
        return References(manifest)
    chunk_id, num_chunks, strategy, digest = run.chunk
    sharding = Sharding(manifest.scan.durations_s, num_chunks, strategy)
    # Dealt out by other code, a row may be in another chunk, and would count as missing from this one.
    if sharding.digest != digest:
        raise UsageError(f"which rows of {manifest.source} are in chunk {chunk_id} is unknown")
    return References(manifest, sharding.rows(chunk_id))


def join(
    files: list[Predictions], references: References | None, audio_folders: Sequence[Path]
) -> tuple[list[Predictions], References | None, list[str]]:
    """Makes sure that predictions find their references; None where predictions carry their own.

    Args:
        audio_folders: of each file, what relative audio paths are relative to.

    Returns:
        Both, called by the same ids, and what to know of that.

    Raises:
        UsageError: a file has (nearly) no row of the references.
    """
    if references is None or all(_belong(file, references) for file in files):
        return files, references, []
    # Only where no row has an id of its own: an id that somebody gave and that is not found means another row.
    if all(file.num_made == len(file) for file in files):
        by_audio = references.by_audio()
        found = [file.by_audio(folder) for file, folder in zip(files, audio_folders, strict=True)]
        if all(_belong(file, by_audio) for file in found):
            note = "predictions without ids were found in the manifest by their audio: file, offset, duration, channel"
            return found, by_audio, [note]
    raise UsageError(_why(next(file for file in files if not _belong(file, references)), references))


def _belong(file: Predictions, references: References) -> bool:
    # Predictions of other rows would all be left out, and every reference count as missed: a rate that looks like one
    # and is none. So a manifest that hardly any prediction belongs to is refused.
    return _num_found(file, references) >= max(1.0, _LEAST_SHARE * min(len(file), len(references)))


def _num_found(file: Predictions, references: References) -> int:
    return len(file) - len(file.without(references.keys))


def _why(file: Predictions, references: References) -> str:
    found = _num_found(file, references)
    stranger, wanted = file.read(int(file.without(references.keys)[0])), references.read(0)
    of_each = (stranger["id"], stranger.get("audio_filepath")), (wanted.id, wanted.audio.name)
    here, there = (f"id {show_text(row_id)}" + (f", audio {show(path)}" if path else "") for row_id, path in of_each)
    return (
        f"{file.path}: {f'only {found}' if found else 'none'} of its {len(file)} rows {'are' if found > 1 else 'is'} "
        f"in {references.source}; here one is {here}, there {there}; give the manifest that was transcribed, or the "
        "same ids to both"
    )
