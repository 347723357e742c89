"""What a probe found about the audio of a manifest: rows by kind of issue, what to do about each, and what files are.

Knows nothing of how audio is read.
"""

from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from asrbatch.audio.header import Header
from asrbatch.errors import ROW_ERROR_KINDS, RowError
from asrbatch.manifest.manifest import Manifest

SHOWN_ROWS = 20
MISMATCH, SILENT = "duration_mismatch", "no_speech"
_ONLY_FLAGGED = "(such a row does not fail, it is flagged)"
# What a file is found to be by its sound (see `audio.load.AudioStream`); rows of it are flagged.
FLAGS = {
    "trailing_audio": "more sound follows in another format, which is not read",
    "gap_filled": "silence is filled in where it has no packets",
    "other_tracks": "it has several audio tracks, of which one is read",
    "scaled": "its floating-point samples are in the scale of 16-bit integers, and are scaled",
    "channels_cancel": "the mean of its channels is silent, so one channel is read",
}
# Kinds of issues and what to do; the kinds are those of failed output rows, and flags, with which a row does not fail.
FIXES = {
    "missing": "correct audio_filepath (relative paths start at the manifest's folder), or drop the row",
    "unreadable": "convert or copy the file again, or drop the row",
    "empty_audio": "write files that are empty again, correct offset and duration of other rows, or drop the rows",
    "bad_row": "correct the row, or drop it (a channel may be left out for the mean of all)",
    "too_short": "drop the row",
    "too_long": "cut it into rows with offset and duration",
    "decode_timeout": "look at the file and its file system; it may hang the run's decoder as well",
    "decode_crash": "convert the file again, or drop the row",
    "non_finite": "write the file again from its source, or drop the row",
    MISMATCH: f"correct duration {_ONLY_FLAGGED}",
    SILENT: f"digital silence: listen to it, or drop the row {_ONLY_FLAGGED}",
    "trailing_audio": f"split the file into those that were joined, or convert it {_ONLY_FLAGGED}",
    "gap_filled": f"nothing, if nothing was recorded then {_ONLY_FLAGGED}",
    "other_tracks": f"nothing, or choose with a field `track` or --track {_ONLY_FLAGGED}",
    "scaled": f"nothing, or divide the samples by 32,768 {_ONLY_FLAGGED}",
    "channels_cancel": f"nothing, or choose with a field `channel` {_ONLY_FLAGGED}",
}


@dataclass
class ProbeResults:
    """What was found about the audio of a manifest.

    Attributes:
        num_rows, num_files: seen so far; a file is counted when it is opened.
        num_failing: rows that will fail.
        counts: rows by kind, a key of `FIXES`.
        examples: (row, text) of the first rows of each kind, ascending.
        audio_s: seconds that the rows will yield, as far as headers tell.
        num_guessed, num_unknown: rows of which that is a guess by the bit rate, or not known.
        containers, sample_rates: files by what they are, and by Hz.
    """

    num_rows: int = 0
    num_files: int = 0
    num_failing: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    audio_s: float = 0.0
    num_guessed: int = 0
    num_unknown: int = 0
    containers: Counter[str] = field(default_factory=Counter)
    sample_rates: Counter[int] = field(default_factory=Counter)

    def add(self, index: int, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.num_failing += kind in ROW_ERROR_KINDS
        # Threads add rows in no order.
        kept = self.examples.setdefault(kind, [])
        insort(kept, (index, text))
        del kept[SHOWN_ROWS:]

    def add_file(self, header: Header | RowError) -> None:
        """A file that was opened, by its header or why that cannot be read."""
        self.num_files += 1
        if isinstance(header, Header):
            self.containers[header.container] += 1
            self.sample_rates[header.sample_rate] += 1

    @property
    def kinds(self) -> list[str]:
        """What was found, in the order of `FIXES`."""
        return [kind for kind in FIXES if self.counts[kind]]

    def issues(self, manifest: Manifest) -> list[dict[str, Any]]:
        """In plain JSON values, by kind."""
        return [
            {
                "kind": kind,
                "rows": self.counts[kind],
                "fix": FIXES[kind],
                "examples": manifest.examples(self.examples[kind]),
            }
            for kind in self.kinds
        ]

    def audio_dict(self) -> dict[str, Any]:
        """What the audio is, in plain JSON values."""
        return {
            "files": self.num_files,
            "measured_h": round(self.audio_s / 3600, 6),
            "rows_guessed": self.num_guessed,
            "rows_unknown": self.num_unknown,
            "containers": dict(self.containers.most_common()),
            "sample_rates_hz": dict(self.sample_rates.most_common()),
        }

    def as_dict(self, manifest: Manifest) -> dict[str, Any]:
        """What `plan --json` prints."""
        return {
            "rows": self.num_rows,
            "files": self.num_files,
            "rows_failing": self.num_failing,
            "counts": {kind: self.counts[kind] for kind in self.kinds},
            "fixes": {kind: FIXES[kind] for kind in self.kinds},
            "examples": {kind: manifest.examples(self.examples[kind]) for kind in self.kinds},
            **self.audio_dict(),
        }
