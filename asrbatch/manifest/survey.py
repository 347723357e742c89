"""What a manifest amounts to: rows, hours, duplicates, how even its chunks are, and what that costs at a given speed.

All from one pass over the manifest and none from its audio (that is `probe.py`). Knows nothing of models and devices,
and shows nothing. Keeps 16 bytes a row beside what the manifest keeps.

Fields of `Durations`, `Duplicates` and `Estimate` are those of `plan --json`, which prints them by
`dataclasses.asdict`: docs/checking.md lists them, and renaming one breaks scripts.
"""

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch.config import SourceOptions
from asrbatch.errors import UsageError
from asrbatch.manifest.issues import OnIssue
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.scan import Check, Observe
from asrbatch.manifest.sharding import Sharding
from asrbatch.manifest.writer import has_place
from asrbatch.storage.cost import per_1000_audio_h
from asrbatch.types import Utterance

# What most models take at once; longer rows are worth knowing about.
LONG_S = 30.0
SHOWN_DUPLICATES = 5
_MOST_LANGUAGES = 1000


@dataclass(frozen=True)
class Durations:
    """How long the rows are, by what they state. None where no row states its duration."""

    stated_h: float
    rows_without_duration: int
    min_s: float | None
    median_s: float | None
    p95_s: float | None
    max_s: float | None
    rows_over_30_s: int


@dataclass(frozen=True)
class Duplicates:
    """Rows that name the same piece of audio (file, offset, duration, channel, track) as an earlier row.

    Attributes:
        rows: how many.
        pieces: that are named more than once.
        examples: the first of these rows: its index, that of the first row with this piece, and the file's name.
    """

    rows: int
    pieces: int
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class Balance:
    """How even the chunks are. Arrays are indexed by chunk id.

    Attributes:
        requested, strategy: the one given, and the one in effect.
        num_in_turn: rows dealt out in turn although `balanced` was given, because they state no duration.
        num_rows, audio_s: int64 and float64 [chunks].
        num_unknown: int64 [chunks], rows whose seconds nobody knows; they count as 0 in `audio_s`.
    """

    requested: str
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

    def as_dict(self) -> dict[str, Any]:
        hours = self.audio_s / 3600
        return {
            "num_chunks": self.num_chunks,
            "strategy_asked": self.requested,
            "strategy": self.strategy,
            "rows_dealt_in_turn": self.num_in_turn,
            "rows_min": int(self.num_rows.min()),
            "rows_mean": round(float(self.num_rows.mean()), 3),
            "rows_max": int(self.num_rows.max()),
            "audio_min_h": round(float(hours.min()), 6),
            "audio_mean_h": round(float(hours.mean()), 6),
            "audio_max_h": round(float(hours.max()), 6),
            "longest_to_mean": self.longest_to_mean and round(self.longest_to_mean, 6),
            "slowest_chunk": self.slowest,
            "empty_chunks": self.num_empty,
            "rows": self.num_rows.tolist(),
            "audio_h": [round(value, 6) for value in hours.tolist()],
        }


@dataclass(frozen=True)
class Estimate:
    """Wall time, GPU time and cost at a given speed, of a run that nothing interrupts.

    Attributes:
        audio_h: of rows whose seconds are known.
        rtfx_per_device: seconds of audio per second.
        rtfx_from: who says so.
        devices_per_process: that share its rows.
        startup_s: until an engine is ready.
        wall_h: of the process with the most audio, when all run at once.
        gpu_h: of all devices together.
        rows_not_counted: rows whose seconds nobody knows.
        price_per_hour, cost, cost_per_1000_audio_h: None without a price.
    """

    audio_h: float
    rtfx_per_device: float
    rtfx_from: str
    devices_per_process: int
    startup_s: float
    wall_h: float
    gpu_h: float
    rows_not_counted: int
    price_per_hour: float | None
    cost: float | None
    cost_per_1000_audio_h: float | None


class ManifestStats:
    """One pass over a manifest.

    Attributes:
        manifest: opened and checked.
        languages: rows by `lang`; those without under None, and those beyond the first 1,000 languages under "…".
        files: int64 [rows], equal for rows of one file.
        without_place: uint64, good rows that no line of a manifest could name the audio of, see `has_place`.

    Args:
        source, reading, check, on_issue, observe: as `open_manifest`.

    Raises:
        ManifestError: it cannot be used; see `open_manifest`.
    """

    def __init__(
        self,
        source: str | Sequence[str],
        *,
        reading: SourceOptions | None = None,
        check: Check | None = None,
        on_issue: OnIssue | None = None,
        observe: Observe | None = None,
    ):
        self._check = check
        self.languages: Counter[str | None] = Counter()
        self._pieces = array("q")
        self._files, self.without_place = array("q"), array("Q")
        self.manifest: Manifest = open_manifest(
            source, check=self._add, options=reading, on_issue=on_issue, observe=observe
        )
        self._pass_over_bad(len(self.manifest))
        self.files = np.frombuffer(self._files, np.int64)

    def __len__(self) -> int:
        return len(self.manifest)

    def _pass_over_bad(self, index: int) -> None:
        """Gives the bad rows up to `index`, which no check saw, a piece and a file of their own."""
        while (place := len(self._pieces)) < index:
            self._pieces.append(hash(("bad", place)))
            self._files.append(hash(("bad", place)))

    def _add(self, row: Utterance) -> str | None:
        problem = None if self._check is None else self._check(row)
        if row.index < len(self._pieces):  # the manifest checks a bad row again when it reads it
            return problem
        self._pass_over_bad(row.index)
        file = file_of(row)
        self._pieces.append(hash((file, row.offset_s or 0.0, row.duration_s, row.channel, row.track)))
        self._files.append(hash(file))
        if not has_place(row):
            self.without_place.append(row.index)
        # A column of free text given as `lang` must not fill the memory.
        known = row.lang in self.languages or len(self.languages) < _MOST_LANGUAGES
        self.languages[row.lang if known else "…"] += 1
        return problem

    def refuse_audio(self, path: Path, option: str) -> None:
        """Raises UsageError where a file that is to be replaced is the audio of a row."""
        places = {hash(str(path)), hash(os.path.realpath(path))}
        if path.exists() and np.isin(self.files, list(places)).any():
            raise UsageError(f"{option} {path}: is one of the audio files; give another name")

    def durations(self) -> Durations:
        durations_s = self.manifest.scan.durations_s
        stated = durations_s[~np.isnan(durations_s)]
        # Summed in float64: in float32 a million rows of 10 s are off by seconds.
        stated_h = round(float(stated.sum(dtype=np.float64)) / 3600, 6)
        quantiles = np.percentile(stated, (0, 50, 95, 100)).tolist() if len(stated) else [None] * 4
        quantiles = [value and round(value, 3) for value in quantiles]
        return Durations(stated_h, len(self) - len(stated), *quantiles, self.num_longer_than(LONG_S))

    def num_longer_than(self, seconds: float) -> int:
        """Rows that state a longer duration."""
        return int(np.count_nonzero(self.manifest.scan.durations_s > seconds))

    def duplicates(self) -> Duplicates:
        """Found by 64-bit hashes, so a pair in ten million may be counted by chance; examples are compared in full."""
        # Stable: in each group of equal pieces the first row comes first.
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
                names = {"row": row.index, "first_row": earlier.index, "audio_filepath": row.audio.name}
                examples.append(names)
        return Duplicates(len(places), num_pieces, examples)

    def balance(self, num_chunks: int, strategy: str, measured_s: np.ndarray | None = None) -> Balance:
        """How the rows fall to chunks.

        Args:
            measured_s: float [rows], seconds that each row will yield, NaN where that is not known; they count instead
                of the stated ones. Rows are dealt out by what the manifest states all the same.
        """
        # Dealt out as a run would, by what is stated; only the sums are by what was measured.
        stated_s = self.manifest.scan.durations_s
        sharding = Sharding(stated_s, num_chunks, strategy, in_groups=self.manifest.in_groups)
        known_s = stated_s if measured_s is None else np.where(np.isnan(measured_s), stated_s, measured_s)
        audio_s = np.bincount(sharding.chunk_of, np.nan_to_num(known_s), minlength=num_chunks)
        num_unknown = np.bincount(sharding.chunk_of, np.isnan(known_s), minlength=num_chunks).astype(np.int64)
        return Balance(
            strategy, sharding.strategy, sharding.num_without_duration, sharding.num_rows, audio_s, num_unknown
        )


def estimate(
    balance: Balance, rtfx: float, rtfx_from: str, *, num_devices: int = 1, startup_s: float = 0.0,
    price_per_hour: float | None = None,
) -> Estimate:  # fmt: skip
    """The time a run takes, from audio and speed alone; a chunk without rows starts no engine."""
    audio_s = float(balance.audio_s.sum())
    wall_s = float(balance.audio_s.max() / (rtfx * num_devices)) + startup_s
    gpu_s = audio_s / rtfx + startup_s * num_devices * int(np.count_nonzero(balance.num_rows))
    wall_h, gpu_h = round(wall_s / 3600, 6), round(gpu_s / 3600, 6)
    cost = None if price_per_hour is None else gpu_s / 3600 * price_per_hour
    return Estimate(
        round(audio_s / 3600, 6), rtfx, rtfx_from, num_devices, startup_s, wall_h, gpu_h,
        int(balance.num_unknown.sum()), price_per_hour, None if cost is None else round(cost, 6),
        None if cost is None else per_1000_audio_h(cost, audio_s),
    )  # fmt: skip


def file_of(row: Utterance) -> Any:
    """Equal for rows whose audio is one file, or one `data:` URI, or the same bytes of a source; while that is open."""
    audio = row.audio
    if audio.path is not None:
        return normpath(audio.path)
    if audio.url is not None:
        return audio.url
    # The call that fetches it: two sources may call different bytes by one name.
    return (audio.load.func, audio.load.args) if isinstance(audio.load, partial) else row.index


def _piece_of(row: Utterance) -> tuple[Any, float, float | None, int | None, int | None]:
    return file_of(row), row.offset_s or 0.0, row.duration_s, row.channel, row.track
