"""Reads the header of every file a manifest names, in parallel, or decodes it, and finds which rows will fail.

A hostile file can neither crash nor hang it: files are read in decoder processes, killed at a timeout. Every header is
read once (for each track that is named) however many rows name its file, and rows are taken file by file for that; what
is kept is some 35 bytes a row. Knows what `header.predict_decoding` says of a row, not how headers are read, and shows
nothing."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np

from asrbatch.audio.clip import LENGTH_SLACK_S, Clip
from asrbatch.audio.decoder import Decoder
from asrbatch.audio.decoder_process import DecodeRequest, HeaderRequest
from asrbatch.audio.header import Header, predict_decoding
from asrbatch.audio.windows import WindowConfig
from asrbatch.errors import RowError
from asrbatch.manifest.issues import OnIssue
from asrbatch.manifest.manifest import Manifest
from asrbatch.manifest.probe_results import FIXES, FLAGS, MISMATCH, SILENT, ProbeResults
from asrbatch.manifest.survey import file_of
from asrbatch.types import Issue, Utterance

# A header is a few kilobytes: what takes longer hangs. Less than a whole file may take.
MOST_TIMEOUT_S = 60.0
# Which rows are decoded: none; those of whose length the header is not sure to a frame; all.
NEVER, UNSURE, ALWAYS = "never", "unsure", "always"
_KINDS = tuple(FIXES)


class AudioProbe:
    """Every row of a manifest held against its file.

    Attributes:
        results: what was found.
        audio_s: float64 [rows], seconds each row will yield; NaN where headers do not tell, 0 for rows that will fail.
        is_guess: bool [rows], whether that is a guess by the bit rate.
        decodes_all: whether every row was decoded.

    Args:
        files: int64 [rows], equal for rows of one file, as `ManifestStats.files`.
        num_workers: threads, each with a decoder process.
        timeout_s: seconds a header, or 30 s to decode, may take in each of two tries; for a header at most a minute.
        config: what the model can take; None leaves out whether rows are too long or too short for it.
        track: of rows that name none; None means that of the config, or the one that would be chosen.
        decode: `NEVER`, `UNSURE` or `ALWAYS`. Without a config the length is then exact to a frame of the file.
        judge_bad: count rows as `bad_row` that are bad in themselves; otherwise they are passed over.
        observe: called a few times a second with (rows done, rows that will fail).
        on_issue: called by any thread with everything that is found; the text ends with what to do.

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
        config: WindowConfig | None = None,
        track: int | None = None,
        decode: str = NEVER,
        judge_bad: bool = True,
        observe: Callable[[int, int], None] = lambda done, failing: None,
        on_issue: OnIssue | None = None,
    ):
        self._manifest, self._config, self._decode, self._judge_bad = manifest, config, decode, judge_bad
        self._on_issue, self.decodes_all = on_issue, decode == ALWAYS
        self._track = config.track if track is None and config else track
        self.audio_s = np.full(len(manifest), np.nan)
        self.is_guess = np.zeros(len(manifest), bool)
        self._kinds = np.zeros(len(manifest), np.uint8)  # 0: nothing was found
        self._groups = _by_file(files)
        self.results, self._lock, self._stopping = ProbeResults(), threading.Lock(), False
        # A header that takes longer hangs, and thousands on a dead file system would each cost the time of a whole
        # file.
        timeout_s = min(timeout_s, MOST_TIMEOUT_S) if decode == NEVER else timeout_s
        self._run([Decoder(timeout_s=timeout_s) for _ in range(num_workers)], observe)

    def _run(self, decoders: list[Decoder], observe: Callable[[int, int], None]) -> None:
        # Threads, not processes: they wait for decoder processes, and what is found needs no copying.
        with ThreadPoolExecutor(len(decoders), "asrbatch-probe") as pool:
            try:
                working = {pool.submit(self._work, decoder) for decoder in decoders}
                while working:
                    done, working = wait(working, 0.2, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    observe(self.results.num_rows, self.results.num_failing)
            finally:  # after an error or Ctrl-C the other threads must not go on
                self._stopping = True
                for decoder in decoders:
                    decoder.close()
        self.results.audio_s = float(np.nansum(self.audio_s))
        self.results.num_unknown = int(np.isnan(self.audio_s).sum())
        self.results.num_guessed = int(self.is_guess.sum())

    def kind_of(self, index: int) -> str | None:
        """What was found about a row, a key of `FIXES`; the first thing, where there are two. None: nothing."""
        kind = self._kinds[index]
        return _KINDS[kind - 1] if kind else None

    @property
    def num_found(self) -> int:
        """Rows about which anything was found."""
        return int(np.count_nonzero(self._kinds))

    def _work(self, decoder: Decoder) -> None:
        while (rows := self._take()) is not None:
            file: object = None
            opened: dict[int | None, _Opened] = {}  # by track
            for index in rows:
                if self._stopping:
                    return
                row = self._manifest.read(index)
                # Until it is known to yield anything: a row that fails yields nothing.
                self.audio_s[row.index] = 0.0
                if row.problem is None:
                    if not opened or file_of(row) != file:  # equal hashes of two files: rare, and harmless
                        file, opened = file_of(row), {}
                    track = self._track_of(row)
                    if track not in opened:
                        opened[track] = self._open(row, decoder, is_first=not opened)
                    try:
                        self._measure(row, opened[track], decoder)
                    except RowError as e:
                        self._add(row, e.kind, e.message, e.has_fix)
                elif self._judge_bad:
                    self._add(row, "bad_row", row.problem, has_fix=True)
                with self._lock:
                    self.results.num_rows += 1

    def _take(self) -> np.ndarray | None:
        with self._lock:
            return next(self._groups, None)

    def _add(self, row: Utterance, kind: str, text: str, has_fix: bool = False) -> None:
        with self._lock:
            self.results.add(row.index, kind, text)
        if self._on_issue is not None:
            text = text if has_fix else f"{text}; {FIXES[kind]}"
            self._on_issue(Issue(row.index, self._manifest.where(row.index), row.id, "audio", kind, text))
        self._kinds[row.index] = self._kinds[row.index] or _KINDS.index(kind) + 1

    def _track_of(self, row: Utterance) -> int | None:
        return self._track if row.track is None else row.track

    def _open(self, row: Utterance, decoder: Decoder, is_first: bool) -> "_Opened":
        source = None
        try:
            source = row.audio.resolve()
            header = decoder.read_header(HeaderRequest(source, Clip(row.audio.name, track=self._track_of(row))))
        except RowError as e:
            header = e
        if is_first:
            with self._lock:
                self.results.add_file(header)
        return _Opened(source, header)

    def _measure(self, row: Utterance, opened: "_Opened", decoder: Decoder) -> None:
        """Adds what a row will yield. Raises RowError when it will fail."""
        header, config = opened.header, self._config
        if isinstance(header, RowError):
            raise header
        max_s = config.max_s if config else None
        clip = Clip(row.audio.name, row.offset_s, row.duration_s, row.channel, max_s, self._track_of(row))
        needs = {"sample_rate": config.sample_rate, "min_samples": config.min_samples} if config else {}
        audio_s, mismatch, is_exact, flags = None, None, header.is_exact, header.flags
        if not self.decodes_all:
            audio_s, mismatch = predict_decoding(header, clip, **needs)
        if self.decodes_all or (self._decode == UNSURE and not _is_sure(header, clip)):
            # Without a model nothing is resampled: the length is then that of the file, to the frame.
            needs = needs or {"sample_rate": header.sample_rate}
            stream = decoder.stream(DecodeRequest(opened.source, clip, **needs))
            for _ in stream:
                pass
            audio_s, is_exact = stream.num_samples / stream.sample_rate, True
            mismatch = f"{clip.name}: {_describe_mismatch(clip, audio_s)}" if MISMATCH in stream.flags else None
            flags = stream.flags
            if SILENT in flags:
                self._add(row, SILENT, f"{clip.name}: {audio_s:.2f} s without a sound")
        for flag in FLAGS.keys() & set(flags):
            self._add(row, flag, f"{clip.name}: {FLAGS[flag]}")
        if mismatch:
            self._add(row, MISMATCH, mismatch)
        self.audio_s[row.index] = np.nan if audio_s is None else audio_s
        self.is_guess[row.index] = audio_s is not None and not is_exact


class _Opened(NamedTuple):
    """A file: its path or bytes (None where there are none), and what its header says or why it has none."""

    source: str | bytes | None
    header: Header | RowError


def _is_sure(header: Header, clip: Clip) -> bool:
    """Whether a header tells to a frame what a clip of its file holds."""
    if not header.is_exact or header.num_frames is None:
        return False
    return header.slack == 0 or clip.stop(header.sample_rate) < header.num_readable - header.slack


def _describe_mismatch(clip: Clip, audio_s: float) -> str:
    if clip.duration_s - audio_s > LENGTH_SLACK_S:
        return f"the row states {clip.duration_s:.2f} s, {audio_s:.2f} s are there"
    return f"the row states {clip.duration_s:.2f} s, the file goes on after that"


def _by_file(files: np.ndarray) -> Iterator[np.ndarray]:
    """Arrays of rows, one for each file: rows ascending, files by their first row."""
    # Half the memory of int64 while both sorts hold their results.
    small = np.uint32 if len(files) < 2**32 else np.int64
    order = np.argsort(files, kind="stable").astype(small)
    in_order = files[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1]))).astype(small)
    del in_order
    # Files in the order of their first rows: a hub or tar is then read forwards.
    by_first_row = np.argsort(order[starts], kind="stable").astype(small)
    ends = np.append(starts[1:], small(len(files)))
    for which in by_first_row:
        yield order[starts[which] : ends[which]]
