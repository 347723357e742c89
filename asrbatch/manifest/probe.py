"""Reads the header of every file a manifest names, in parallel, or decodes it, and tells which rows will fail.

A hostile file can neither crash nor hang it: files are read in decoder processes, killed at a timeout. Every header is
read once however many rows name its file, and rows are taken file by file for that; what is kept is some 35 bytes a
row. Knows what `audio_header.foresee` says of a row, not how headers are read, and shows nothing."""

import threading
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from asrbatch.audio.clip import LENGTH_SLACK_S, Clip
from asrbatch.audio.decoder import Decoder
from asrbatch.audio.decoder_process import DecodeRequest, HeaderRequest
from asrbatch.audio.header import Header, foresee
from asrbatch.audio.windows import WindowConfig
from asrbatch.errors import ROW_ERROR_KINDS, RowError
from asrbatch.manifest.manifest import Manifest
from asrbatch.manifest.survey import file_of
from asrbatch.types import Utterance

SHOWN_ROWS = 20
# A header is a few kilobytes: what takes longer hangs. Less than a whole file may take.
MOST_TIMEOUT_S = 60.0
MISMATCH, SILENT = "duration_mismatch", "no_speech"
# Which rows are decoded: none; those of whose length the header is not sure to a frame; all.
NEVER, UNSURE, ALWAYS = "never", "unsure", "always"
# Kinds of findings and what to do; the kinds are those of failed output rows, and two flags, with which a row does not
# fail.
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
    MISMATCH: "correct duration (such a row does not fail, it is flagged)",
    SILENT: "digital silence: listen to it, or drop the row (such a row does not fail, it is flagged)",
}
_KINDS = tuple(FIXES)


@dataclass
class ProbeResults:
    """What headers told. Threads add to parts of their own, which are joined at the end.

    Attributes:
        num_rows, num_files: looked at; a file is counted when it is opened.
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

    def note(self, index: int, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.num_failing += kind in ROW_ERROR_KINDS
        self._keep(kind, (index, text))

    def join(self, other: "ProbeResults") -> None:
        for name in ("num_rows", "num_files", "num_failing", "audio_s", "num_guessed", "num_unknown"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("counts", "containers", "sample_rates"):
            getattr(self, name).update(getattr(other, name))
        for kind, examples in other.examples.items():
            for example in examples:
                self._keep(kind, example)

    def _keep(self, kind: str, example: tuple[int, str]) -> None:
        kept = self.examples.setdefault(kind, [])
        if len(kept) < SHOWN_ROWS or example < kept[-1]:
            insort(kept, example)
            del kept[SHOWN_ROWS:]


class AudioProbe:
    """Every row of a manifest held against its file.

    Attributes:
        findings: what was found.
        audio_s: float64 [rows], seconds each row will yield; NaN where headers do not tell, 0 for rows that will fail.
        is_guess: bool [rows], whether that is a guess by the bit rate.

    Args:
        files: int64 [rows], equal for rows of one file, as `Survey.files`.
        num_workers: threads, each with a decoder process.
        timeout_s: seconds a header, or 30 s to decode, may take in each of two tries; for a header at most a minute.
        rules: what the model hears; None leaves out whether rows are too long or too short for it.
        decode: `NEVER`, `UNSURE` or `ALWAYS`. Without rules the length is then exact to a frame of the file.
        judge_bad: count rows as `bad_row` that are bad in themselves; otherwise they are passed over.
        observe: called a few times a second with (rows done, rows that will fail).
        note: called by any thread with everything that is found: the row, its kind, a text that ends with what to do.

    Raises:
        ManifestError: the manifest changed meanwhile.
        AsrbatchError: a decoder process cannot be started.
    """

    def __init__(
        self,
        manifest: Manifest,
        files: np.ndarray,
        *,
        num_workers: int,
        timeout_s: float,
        rules: WindowConfig | None = None,
        decode: str = NEVER,
        judge_bad: bool = True,
        observe: Callable[[int, int], None] = lambda done, failing: None,
        note: Callable[[Utterance, str, str], None] = lambda row, kind, text: None,
    ):
        self._tell = note
        self._manifest, self._rules, self._decode, self._judge_bad = manifest, rules, decode, judge_bad
        self.audio_s = np.full(len(manifest), np.nan)
        self.is_guess = np.zeros(len(manifest), bool)
        self._kinds = np.zeros(len(manifest), np.uint8)  # 0: nothing was found
        self.findings = ProbeResults()
        self._groups = _by_file(files)
        self._taking, self._stopping = threading.Lock(), False
        self._parts = [ProbeResults() for _ in range(num_workers)]
        timeout_s = min(timeout_s, MOST_TIMEOUT_S) if decode == NEVER else timeout_s
        self._decoders = [Decoder(timeout_s=timeout_s) for _ in range(num_workers)]
        with ThreadPoolExecutor(num_workers, "asrbatch-probe") as pool:
            try:
                working = {pool.submit(self._work, *own) for own in zip(self._decoders, self._parts, strict=True)}
                while working:
                    done, working = wait(working, 0.2, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    observe(sum(part.num_rows for part in self._parts), sum(part.num_failing for part in self._parts))
            finally:  # after an error or Ctrl-C the other threads must not go on
                self._stopping = True
                for decoder in self._decoders:
                    decoder.close()
        for part in self._parts:
            self.findings.join(part)

    def kind_of(self, index: int) -> str | None:
        """What was found about a row, a key of `FIXES`; the first thing, where there are two. None: nothing."""
        kind = self._kinds[index]
        return _KINDS[kind - 1] if kind else None

    @property
    def num_found(self) -> int:
        """Rows about which anything was found."""
        return int(np.count_nonzero(self._kinds))

    @property
    def decodes_all(self) -> bool:
        return self._decode == ALWAYS

    def _work(self, decoder: Decoder, found: ProbeResults) -> None:
        while (rows := self._take()) is not None:
            file: object = None
            opened: _Opened | None = None
            for index in rows:
                if self._stopping:
                    return
                row = self._manifest.read(index)
                self.audio_s[row.index] = 0.0
                if row.problem is None:
                    if opened is None or file_of(row) != file:  # equal hashes of two files: rare, and harmless
                        file, opened = file_of(row), self._open(row, decoder, found)
                    try:
                        self._measure(row, opened, decoder, found)
                    except RowError as e:
                        self._note(found, row, e.kind, e.message, e.has_fix)
                elif self._judge_bad:
                    self._note(found, row, "bad_row", row.problem, has_fix=True)
                found.num_rows += 1

    def _take(self) -> np.ndarray | None:
        with self._taking:
            return next(self._groups, None)

    def _note(self, found: ProbeResults, row: Utterance, kind: str, text: str, has_fix: bool = False) -> None:
        found.note(row.index, kind, text)
        self._tell(row, kind, text if has_fix else f"{text}; {FIXES[kind]}")
        self._kinds[row.index] = self._kinds[row.index] or _KINDS.index(kind) + 1

    def _open(self, row: Utterance, decoder: Decoder, found: ProbeResults) -> "_Opened":
        name, source = row.audio.name, None
        found.num_files += 1
        try:
            source = row.audio.resolve()
            header = decoder.read_header(HeaderRequest(source, name))
        except RowError as e:
            return _Opened(source, e)
        except (OSError, ValueError) as e:  # as the run would call it; see `preparation.py`
            return _Opened(source, RowError("unreadable", f"{name}: {e}"))
        found.containers[header.container] += 1
        found.sample_rates[header.sample_rate] += 1
        return _Opened(source, header)

    def _measure(self, row: Utterance, opened: "_Opened", decoder: Decoder, found: ProbeResults) -> None:
        """Adds what a row will yield. Raises RowError when it will fail."""
        header, rules = opened.header, self._rules
        if isinstance(header, RowError):
            raise header
        part = Clip(row.audio.name, row.offset_s, row.duration_s, row.channel, rules.max_s if rules else None)
        needs = {"sample_rate": rules.sample_rate, "min_samples": rules.min_samples} if rules else {}
        audio_s, mismatch, is_exact = None, None, header.is_exact
        if self._decode != ALWAYS:
            audio_s, mismatch = foresee(header, part, **needs)
        if self._decode == ALWAYS or (self._decode == UNSURE and not _is_sure(header, part)):
            needs = needs or {"sample_rate": header.sample_rate}
            stream = decoder.stream(
                DecodeRequest(opened.source, part.name, **needs, **{name: getattr(part, name) for name in _OF_PART})
            )
            for _ in stream:
                pass
            audio_s, is_exact = stream.num_samples / stream.sample_rate, True
            mismatch = f"{part.name}: {_unlike(part, audio_s)}" if MISMATCH in stream.flags else None
            if SILENT in stream.flags:
                self._note(found, row, SILENT, f"{part.name}: {audio_s:.2f} s without a sound")
        if mismatch:
            self._note(found, row, MISMATCH, mismatch)
        if audio_s is None:
            self.audio_s[row.index] = np.nan
            found.num_unknown += 1
        else:
            self.audio_s[row.index] = audio_s
            found.audio_s += audio_s
            found.num_guessed += not is_exact
            self.is_guess[row.index] = not is_exact


_OF_PART = ("offset_s", "duration_s", "channel", "max_s")


class _Opened(NamedTuple):
    """A file: its path or bytes (None where there are none), and what its header says or why it has none."""

    source: str | bytes | None
    header: Header | RowError


def _is_sure(header: Header, part: Clip) -> bool:
    """Whether a header tells to a frame what a part of its file holds."""
    if not header.is_exact or header.num_frames is None:
        return False
    return header.slack == 0 or part.stop(header.sample_rate) < header.num_readable - header.slack


def _unlike(part: Clip, audio_s: float) -> str:
    if part.duration_s - audio_s > LENGTH_SLACK_S:
        return f"the row states {part.duration_s:.2f} s, {audio_s:.2f} s are there"
    return f"the row states {part.duration_s:.2f} s, the file goes on after that"


def _by_file(files: np.ndarray) -> Iterator[np.ndarray]:
    """Arrays of rows, one for each file: rows ascending, files by their first row."""
    small = np.uint32 if len(files) < 2**32 else np.int64
    order = np.argsort(files, kind="stable").astype(small)
    in_order = files[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1]))).astype(small)
    del in_order
    by_first_row = np.argsort(order[starts], kind="stable").astype(small)
    ends = np.append(starts[1:], small(len(files)))
    for which in by_first_row:
        yield order[starts[which] : ends[which]]


def headers(findings: ProbeResults, manifest: Manifest) -> dict[str, Any]:
    kinds = [kind for kind in FIXES if findings.counts[kind]]
    return {
        "rows": findings.num_rows,
        "files": findings.num_files,
        "rows_failing": findings.num_failing,
        "counts": {kind: findings.counts[kind] for kind in kinds},
        "fixes": {kind: FIXES[kind] for kind in kinds},
        "examples": {
            kind: [{"row": row, "where": manifest.where(row), "text": text} for row, text in findings.examples[kind]]
            for kind in kinds
        },
        "measured_h": round(findings.audio_s / 3600, 6),
        "rows_guessed": findings.num_guessed,
        "rows_unknown": findings.num_unknown,
        "containers": dict(findings.containers.most_common()),
        "sample_rates_hz": dict(findings.sample_rates.most_common()),
    }
