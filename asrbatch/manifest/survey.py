"""What a manifest amounts to: rows, hours, duplicates, how even its chunks are, and what that costs at a given speed.

Figures only, all from one pass over the manifest and none from its audio (that is `probe.py`). Knows nothing of models
and devices, and does not show anything. Keeps 8 bytes a row beside what the manifest itself keeps, and 8 more when the
files are to be probed.

What `asrbatch plan --json` prints, part by part: plain JSON values with their units in the names.

The tables are made of the same values. README lists the fields; renaming one breaks scripts.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os.path import normpath
from typing import Any

import numpy as np

from asrbatch.config import SourceOptions
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.scan import Check, Observe, OnIssue
from asrbatch.manifest.sharding import Sharding
from asrbatch.types import Utterance

# What most models hear at once; longer rows are worth knowing about.
LONG_S = 30.0
SHOWN_DUPLICATES = 5
_MOST_LANGUAGES = 1000


@dataclass(frozen=True)
class Durations:
    """How long the rows are, by what they state; seconds. None where no row states its duration."""

    num_stated: int
    num_absent: int
    num_long: int  # longer than LONG_S
    total_s: float
    min_s: float | None
    median_s: float | None
    p95_s: float | None
    max_s: float | None


@dataclass(frozen=True)
class Duplicates:
    """Rows that name the same piece of audio (file, offset, duration, channel) as an earlier row.

    Attributes:
        num_rows: such rows.
        num_pieces: pieces that are named more than once.
        examples: the first of these rows: its index, that of the first row with this piece, and the file's name.
    """

    num_rows: int
    num_pieces: int
    examples: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Balance:
    """How even the chunks are. Arrays are indexed by chunk id.

    Attributes:
        asked, strategy: what was asked for, and what is in effect.
        num_in_turn: rows dealt out in turn although `balanced` was asked for, because they state no duration.
        num_rows, audio_s: int64 and float64 [chunks].
        num_unknown: int64 [chunks], rows whose seconds nobody knows; they count as 0 in `audio_s`.
    """

    asked: str
    strategy: str
    num_in_turn: int
    num_rows: np.ndarray
    audio_s: np.ndarray
    num_unknown: np.ndarray

    @property
    def num_chunks(self) -> int:
        return len(self.num_rows)

    @property
    def num_empty(self) -> int:
        return int(np.count_nonzero(self.num_rows == 0))

    @property
    def slowest(self) -> int:
        """The chunk with the most audio; the most rows where no audio is known."""
        return int(np.argmax(self.audio_s if self.audio_s.any() else self.num_rows))

    @property
    def longest_to_mean(self) -> float | None:
        """Audio of the slowest chunk over that of the mean one: 1 is even."""
        return float(self.audio_s.max() / self.audio_s.mean()) if self.audio_s.any() else None


@dataclass(frozen=True)
class Estimate:
    """Wall and GPU time at a given speed.

    Attributes:
        rtfx: seconds of audio per second, of one device.
        num_devices: that share one process's rows.
        startup_s: until an engine is ready.
        wall_s: of the process with the most audio, when all run at once.
        gpu_s: of all devices together.
        num_not_counted: rows whose seconds nobody knows.
    """

    rtfx: float
    num_devices: int
    startup_s: float
    wall_s: float
    gpu_s: float
    num_not_counted: int


class ManifestStats:
    """One pass over a manifest.

    Attributes:
        manifest: opened and checked.
        languages: rows by `lang`; those without under None, and those beyond the first 1,000 languages under "…".
        files: int64 [rows], equal for rows of one file; None unless asked for.

    Args:
        source, split, reading, check, note, observe: as `open_manifest`.
        with_files: keep `files`.

    Raises:
        ManifestError: it cannot be used; see `open_manifest`.
    """

    def __init__(
        self,
        source: str | Sequence[str],
        split: str | None = None,
        *,
        with_files: bool = False,
        reading: SourceOptions | None = None,
        check: Check | None = None,
        note: OnIssue | None = None,
        observe: Observe | None = None,
    ):
        self._check = check
        self.languages: Counter[str | None] = Counter()
        self._pieces = array("q")
        self._files = array("q") if with_files else None
        self.manifest: Manifest = open_manifest(
            source, split=split, check=self._add, options=reading, note=note, observe=observe
        )
        self._pass_over_bad(len(self.manifest))
        self.files = None if self._files is None else np.frombuffer(self._files, np.int64)

    def __len__(self) -> int:
        return len(self.manifest)

    def _pass_over_bad(self, index: int) -> None:
        """Gives the rows up to `index` that nobody was asked about, because they are bad, a piece and a file of their
        own.
        """
        while (place := len(self._pieces)) < index:
            self._pieces.append(hash(("bad", place)))
            if self._files is not None:
                self._files.append(hash(("bad", place)))

    def _add(self, row: Utterance) -> str | None:
        problem = None if self._check is None else self._check(row)
        if row.index < len(self._pieces):  # the manifest asks about a bad row again when it reads it
            return problem
        self._pass_over_bad(row.index)
        file = file_of(row)
        self._pieces.append(hash((file, row.offset_s or 0.0, row.duration_s, row.channel)))
        if self._files is not None:
            self._files.append(hash(file))
        known = row.lang in self.languages or len(self.languages) < _MOST_LANGUAGES
        self.languages[row.lang if known else "…"] += 1
        return problem

    def durations(self) -> Durations:
        durations_s = self.manifest.scan.durations_s
        stated = durations_s[~np.isnan(durations_s)]
        num_absent, num_long = len(self) - len(stated), self.num_longer_than(LONG_S)
        if not len(stated):
            return Durations(0, num_absent, 0, 0.0, None, None, None, None)
        median_s, p95_s = (float(value) for value in np.percentile(stated, (50, 95)))
        total_s = float(stated.sum(dtype=np.float64))
        return Durations(
            len(stated), num_absent, num_long, total_s, float(stated.min()), median_s, p95_s, float(stated.max())
        )

    def num_longer_than(self, seconds: float) -> int:
        """Rows that state a longer duration."""
        return int(np.count_nonzero(self.manifest.scan.durations_s > seconds))

    def duplicates(self) -> Duplicates:
        """Found by 64-bit hashes, so a pair in ten million may be counted by chance; examples are compared in full."""
        order = np.argsort(np.frombuffer(self._pieces, np.int64), kind="stable")
        in_order = np.frombuffer(self._pieces, np.int64)[order]
        is_repeat = np.zeros(len(order), bool)
        is_repeat[1:] = in_order[1:] == in_order[:-1]
        places = np.flatnonzero(is_repeat)
        num_pieces = int(np.count_nonzero(~is_repeat[places - 1]))
        first_ones = places[np.argsort(order[places], kind="stable")[:SHOWN_DUPLICATES]]
        examples = []
        for place in first_ones:
            first = order[np.searchsorted(in_order, in_order[place])]
            row, earlier = self.manifest.read(order[place]), self.manifest.read(first)
            if _piece_of(row) == _piece_of(earlier):
                examples.append((row.index, earlier.index, row.audio.name))
        return Duplicates(len(places), num_pieces, tuple(examples))

    def balance(self, num_chunks: int, strategy: str, measured_s: np.ndarray | None = None) -> Balance:
        """How the rows fall to chunks.

        Args: measured_s: float [rows], seconds that each row will yield, NaN where that is not known; they count
            instead of
                the stated ones. Rows are dealt out by what the manifest states all the same.
        """
        stated_s = self.manifest.scan.durations_s
        sharding = Sharding(stated_s, num_chunks, strategy, in_groups=self.manifest.in_groups)
        known_s = stated_s if measured_s is None else np.where(np.isnan(measured_s), stated_s, measured_s)
        audio_s = np.bincount(sharding.chunk_of, np.nan_to_num(known_s), minlength=num_chunks)
        num_unknown = np.bincount(sharding.chunk_of, np.isnan(known_s), minlength=num_chunks).astype(np.int64)
        return Balance(
            strategy, sharding.strategy, sharding.num_without_duration, sharding.num_rows, audio_s, num_unknown
        )


def estimate(balance: Balance, *, rtfx: float, num_devices: int = 1, startup_s: float = 0.0) -> Estimate:
    """The time a run takes, from audio and speed alone; a chunk without rows starts no engine."""
    used = balance.num_rows > 0
    wall_s = float(balance.audio_s.max() / (rtfx * num_devices)) + startup_s
    gpu_s = float(balance.audio_s.sum() / rtfx) + startup_s * num_devices * int(np.count_nonzero(used))
    return Estimate(rtfx, num_devices, startup_s, wall_s, gpu_s, int(balance.num_unknown.sum()))


def file_of(row: Utterance) -> Any:
    """Equal for rows whose audio is one file, or one `data:` URI, or the same bytes of a source; while that is open."""
    audio = row.audio
    if audio.path is not None:
        return normpath(audio.path)
    if audio.url is not None:
        return audio.url
    # What is asked of which reader: two sources may call different bytes by one name.
    return (audio.load.func, audio.load.args) if isinstance(audio.load, partial) else row.index


def _piece_of(row: Utterance) -> tuple[Any, float, float | None, int | None]:
    return file_of(row), row.offset_s or 0.0, row.duration_s, row.channel


def audio(durations: Durations) -> dict[str, Any]:
    return {
        "stated_h": round(durations.total_s / 3600, 6),
        "rows_without_duration": durations.num_absent,
        "min_s": _rounded(durations.min_s),
        "median_s": _rounded(durations.median_s),
        "p95_s": _rounded(durations.p95_s),
        "max_s": _rounded(durations.max_s),
        "rows_over_30_s": durations.num_long,
    }


def duplicates(found: Duplicates) -> dict[str, Any]:
    examples = [{"row": row, "first_row": first, "audio_filepath": name} for row, first, name in found.examples]
    return {"rows": found.num_rows, "pieces": found.num_pieces, "examples": examples}


def chunks(balance: Balance) -> dict[str, Any]:
    rows, hours = balance.num_rows, balance.audio_s / 3600
    return {
        "num_chunks": balance.num_chunks,
        "strategy_asked": balance.asked,
        "strategy": balance.strategy,
        "rows_dealt_in_turn": balance.num_in_turn,
        "rows_min": int(rows.min()),
        "rows_mean": _rounded(float(rows.mean())),
        "rows_max": int(rows.max()),
        "audio_min_h": _rounded(float(hours.min()), 6),
        "audio_mean_h": _rounded(float(hours.mean()), 6),
        "audio_max_h": _rounded(float(hours.max()), 6),
        "longest_to_mean": _rounded(balance.longest_to_mean, 6),
        "slowest_chunk": balance.slowest,
        "empty_chunks": balance.num_empty,
        "rows": rows.tolist(),
        "audio_h": [round(value, 6) for value in hours.tolist()],
    }


def time(estimate: Estimate) -> dict[str, Any]:
    return {
        "rtfx_per_device": estimate.rtfx,
        "devices_per_process": estimate.num_devices,
        "startup_s": estimate.startup_s,
        "wall_h": _rounded(estimate.wall_s / 3600, 6),
        "gpu_h": _rounded(estimate.gpu_s / 3600, 6),
        "rows_not_counted": estimate.num_not_counted,
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
