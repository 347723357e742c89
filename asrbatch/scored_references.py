"""Which rows are to be scored: those of a manifest that was given or, of a run that is not complete, those of its own manifest.

A run that lacks rows would score better than it is if they were not counted. Its record names the manifest; where that can be
read and is still the one that was transcribed (by its digest), rows without a prediction count as empty.
"""

from array import array
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .errors import AsrbatchError, UsageError
from .manifest import Manifest, open_manifest
from .manifest_scan import numbered_id
from .predictions import audio_id, ordinals_of
from .run_facts import RunFacts
from .sharding import Sharding
from .types import Utterance


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

        self._ordinals: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self._indexes)

    def read(self, index: int) -> Utterance:
        utterance = self._manifest.read(int(self._indexes[index]))
        if self._ordinals is None or (row_id := _audio_id(utterance)) is None:
            return utterance
        return replace(utterance, id=numbered_id(row_id, self._ordinals[index]) if index in self._ordinals else row_id)

    def by_audio(self) -> "References":
        """The same rows, called after their audio as `Predictions.by_audio` calls them, whatever their ids are."""
        found = References(self._manifest, self._indexes)
        found.keys = self.keys.copy()
        rows, hashes = array("q"), array("Q")
        for index in range(len(self)):
            if (row_id := _audio_id(self.read(index))) is not None:
                rows.append(index)
                hashes.append(int(row_id, 16))
        ordinals = ordinals_of(np.array(hashes, np.uint64)).tolist()
        found._ordinals = {index: ordinal for index, ordinal in zip(rows, ordinals, strict=True) if ordinal > 1}
        for index, made in zip(rows, hashes, strict=True):
            row_id = f"{made:016x}"
            found.keys[index] = hash(numbered_id(row_id, found._ordinals[index]) if index in found._ordinals else row_id)
        return found

    def where(self, index: int) -> str:
        """File and line of a row, for messages."""
        return self._manifest.where(int(self._indexes[index]))


def _audio_id(utterance: Utterance) -> str | None:
    return audio_id(utterance.audio, utterance.offset_s, utterance.duration_s, utterance.channel)


class Resolved(NamedTuple):
    """What was found.

    Attributes:
        references: None where predictions carry their own and all rows are there, or nothing is known of the others.
        fate: what becomes of rows that a run has not written, to be said after how many they are.
        is_partial: rows that a run has not written are not counted.
    """

    references: References | None
    fate: str
    is_partial: bool


def resolve(source: str | None, split: str | None, facts: RunFacts, num_rows: int) -> Resolved:
    """Finds the references of a file of predictions.

    Args:
        source, split: of the manifest that was given, if one was.
        num_rows: of the predictions.

    Raises:
        ManifestError: the given manifest cannot be read.
    """
    if source is not None:
        return Resolved(References(open_manifest(source, split=split)), "; the others count as empty", False)
    if not facts.is_incomplete(num_rows):
        return Resolved(None, "", False)
    try:
        references = _of_run(facts, split)
    except AsrbatchError as e:
        why = str(e).partition("\n")[0]
        return Resolved(None, f"; the others are not counted ({why}): --references MANIFEST counts them as empty", True)
    return Resolved(references, f"; the others count as empty, by {references.source}", False)


def _of_run(facts: RunFacts, split: str | None) -> References:
    """The rows that a run was to write. Raises AsrbatchError where that cannot be told."""
    if facts.manifest_source is None:
        raise UsageError("the run record names no manifest")
    manifest = open_manifest(facts.manifest_source, split=split)
    if manifest.scan.digest != facts.manifest_digest:
        raise UsageError(f"{manifest.source} is not what was transcribed any more")
    if facts.chunk is None:
        return References(manifest)
    chunk_id, num_chunks, strategy, digest = facts.chunk
    sharding = Sharding(manifest.scan.durations_s, num_chunks, strategy)
    if sharding.digest != digest:
        raise UsageError(f"which rows of {manifest.source} are chunk {chunk_id} cannot be told")
    return References(manifest, sharding.rows(chunk_id))
