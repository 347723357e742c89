"""Kaldi data folders: `wav.scp`, `segments`, `text`, `utt2lang`, `utt2dur` joined to one row for each utterance.

Nothing is sorted or kept: of each file 16 bytes a line are, a hash of its key and where it stands. The rules are those
of Kaldi's `validate_data_dir.sh`: every utterance has a recording, every recording an utterance, and no key stands
twice. An utterance that two lines of a file speak of is a bad row, which names both lines."""

import os
from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from asrbatch.errors import ManifestError
from asrbatch.formatting import first_of, show_text
from asrbatch.manifest.readers.base import PIPE, Reader, check_pipe, run_pipe
from asrbatch.manifest.readers.text import LocalFile
from asrbatch.manifest.row import InvalidRow, Row, audio_ref, parse_row
from asrbatch.manifest.source import ManifestSource, choose_split
from asrbatch.types import AudioRef

_SHOWN = 5
_DIFFERENT_S = 0.1  # Kaldi rounds, and counts frames of 10 ms


class KaldiReader:
    """See `manifest_scan.Reader`.

    Args:
        folder: absolute path.
        allow_pipes: run commands that `wav.scp` holds, when a row's turn has come.

    Raises:
        ManifestError: the files contradict each other; all such keys are counted, and the first few named.
    """

    def __init__(self, folder: str, *, allow_pipes: bool = False):
        self.source, self._allow_pipes = folder, allow_pipes
        self._wavs = KeyedLines(os.path.join(folder, "wav.scp"))
        segments = os.path.join(folder, "segments")
        self._segments = KeyedLines(segments) if os.path.isfile(segments) else None
        self._utterances = self._segments or self._wavs
        others = {"text": "text", "lang": "utt2lang", "speaker": "utt2spk"}
        paths = {field: os.path.join(folder, name) for field, name in others.items()}
        self._others = {field: KeyedLines(path) for field, path in paths.items() if os.path.isfile(path)}
        durations = os.path.join(folder, "utt2dur")
        self._durations = KeyedLines(durations) if os.path.isfile(durations) else None
        self.num_rows = len(self._utterances)
        self._check_keys()
        self._base = self._choose_base()
        self.audio_folder = None if self._base == folder else self._base
        self.base_folder = self._base

    def rows(self) -> Iterator[Row | InvalidRow]:
        for index in range(len(self._utterances)):
            try:
                yield self.row(index)
            except InvalidRow as bad:
                yield bad
        for file in (self._utterances, self._wavs, self._durations, *self._others.values()):
            if file is not None:
                file.check()

    def row(self, index: int) -> Row:
        utterance, rest = self._utterances.line(index)
        fields: dict[str, Any] = {"id": utterance, "audio_filepath": None}
        try:
            place = rest
            if self._segments is not None:
                recording, timing = _segment(rest)
                place = self._wavs.get(recording)
                if place is None:
                    raise InvalidRow(
                        f"recording {show_text(recording)}", "wav.scp lacks it", "add it, or drop the utterance"
                    )
                fields["recording"] = recording
                fields |= timing
            fields["audio_filepath"] = self._path(place)
            if self._durations is not None and (stated := self._durations.get(utterance)) is not None:
                fields["duration"] = _duration(stated, fields.get("duration"))
            for field, file in self._others.items():
                if (value := file.get(utterance)) is not None:
                    fields[field] = value
        except InvalidRow as bad:
            bad.fields = fields
            raise
        return parse_row(fields, fields["audio_filepath"])

    def audio(self, index: int, row: Row) -> AudioRef:
        if row.path.startswith(PIPE):
            command = row.path.removeprefix(PIPE)
            return AudioRef(row.path, load=partial(run_pipe, command, row.path, self._base))
        return audio_ref(row.path, self._base)

    def where(self, index: int) -> str:
        return f"{self._utterances.path}:{self._utterances.line_number(index)}"

    def _path(self, place: str) -> str:
        if not place:
            raise InvalidRow("wav.scp", "no path behind the recording's name", "write `name path`")
        if place.endswith("|"):
            return check_pipe("wav.scp", place, self._allow_pipes)
        stem, colon, offset = place.rpartition(":")
        if colon and offset.isdecimal() and stem.endswith(".ark"):
            raise InvalidRow(
                f"wav.scp = {show_text(place)}",
                "audio in an ark is not supported",
                "give wav files (wav-copy writes them)",
            )
        return place

    def _check_keys(self) -> None:
        for name, file in self._others.items():
            unknown = file.keys_not_in(self._utterances)
            if unknown and name in ("text", "lang"):
                raise _stray(file.path, unknown, f"{os.path.basename(self._utterances.path)} lacks")
        if self._segments is not None:
            unused = self._wavs.keys_not_in_values(self._segments)
            if unused:
                raise _stray(self._wavs.path, unused, "no segment uses")

    def _choose_base(self) -> str:
        """What relative paths are relative to: this folder, or the current one where recipes run,
        by the first of them.
        """
        for index in range(len(self._wavs)):
            try:
                place = self._wavs.line(index)[1]
            except InvalidRow:  # reported with the others
                continue
            if place and not place.endswith("|") and not os.path.isabs(place) and "://" not in place:
                here = os.path.join(os.getcwd(), place)
                if not os.path.exists(os.path.join(self.source, place)) and os.path.exists(here):
                    return os.getcwd()
                break
        return self.source


def _segment(rest: str) -> tuple[str, dict[str, Any]]:
    """`recording start end [channel]`."""
    parts = rest.split()
    if len(parts) not in (3, 4):
        raise InvalidRow(
            f"segments = {show_text(rest)}", "not `recording start end`", "write recording, start and end in seconds"
        )
    try:
        start_s, end_s = float(parts[1]), float(parts[2])
    except ValueError as e:
        raise InvalidRow(
            f"segments = {show_text(rest)}", "start and end must be numbers of seconds", "correct the line"
        ) from e
    timing: dict[str, Any] = {"offset": start_s}
    if end_s != -1:  # Kaldi: to the end
        if not start_s < end_s:
            raise InvalidRow(
                f"segments = {show_text(rest)}", "must end after it starts", "correct the line, or drop it"
            )
        timing["duration"] = round(end_s - start_s, 6)
    if len(parts) == 4:
        if not parts[3].isdecimal():
            raise InvalidRow(
                f"segments = {show_text(rest)}", "the channel must be a whole number from 0", "correct the line"
            )
        timing["channel"] = int(parts[3])
    return parts[0], timing


def _duration(stated: str, of_segment_s: float | None) -> float:
    """Seconds by `utt2dur`, checked for what they are as any duration is later; a segment keeps its own."""
    try:
        duration_s = float(stated)
    except ValueError as e:
        raise InvalidRow(
            f"utt2dur = {show_text(stated)}", "must be a number of seconds", "correct the line, or drop it"
        ) from e
    if of_segment_s is None:
        return duration_s
    if not abs(duration_s - of_segment_s) <= _DIFFERENT_S:
        problem = f"segments says another duration: {of_segment_s:g}"
        raise InvalidRow(
            f"utt2dur = {show_text(stated)}", problem, "make utt2dur again (utils/data/get_utt2dur.sh), or remove it"
        )
    return of_segment_s


class KeyedLines:
    """A file of lines `key value`, by line and by key.

    Raises:
        ManifestError: it cannot be opened, or is not UTF-8.
    """

    def __init__(self, path: str):
        self.path = path
        self._file = LocalFile(path)
        self._starts, self._numbers, hashes, values = array("Q"), array("Q"), array("q"), array("q")
        end = number = 0
        with self._file.open() as lines:
            for line in lines:
                start, end, number = end, end + len(line), number + 1
                words = line.split(None, 2)
                if words:
                    self._starts.append(start)
                    self._numbers.append(number)
                    hashes.append(hash(words[0]))
                    values.append(hash(words[1]) if len(words) > 1 else 0)
        self._starts.append(end)
        self._hashes = np.frombuffer(hashes, np.int64) if hashes else np.empty(0, np.int64)
        self._first_words = np.frombuffer(values, np.int64) if values else np.empty(0, np.int64)
        self._order = np.argsort(self._hashes, kind="stable")
        self._sorted = self._hashes[self._order]

    def __len__(self) -> int:
        return len(self._numbers)

    def check(self) -> None:
        self._file.check()

    def line_number(self, index: int) -> int:
        return self._numbers[index]

    def line(self, index: int) -> tuple[str, str]:
        """Key and value of a line. Raises BadRow: not UTF-8."""
        data = self._data(index)
        try:
            key, _, value = (
                data.decode().partition(" ")
                if b"\t" not in data
                else data.decode().replace("\t", " ", 1).partition(" ")
            )
        except UnicodeDecodeError as e:
            where, fix = f"{self.path}:{self._numbers[index]}", "write the whole file in UTF-8"
            raise InvalidRow(show_text(data.decode("utf-8", "backslashreplace")), f"not UTF-8: {where}", fix) from e
        return key, value.strip()

    def get(self, key: str) -> str | None:
        """The value of a key; None where there is no such line. Raises BadRow: not UTF-8, or two lines have it."""
        wanted = hash(key.encode())
        at = int(np.searchsorted(self._sorted, wanted))
        first: tuple[int, str] | None = None  # number of the line, and its value
        while at < len(self._sorted) and self._sorted[at] == wanted:
            index = int(self._order[at])  # lines of one hash are in the order of the file
            found, value = self.line(index)
            if found == key:
                if first is not None:
                    name, fix = os.path.basename(self.path), "keep one of the lines"
                    both = f"{self.path}:{first[0]} and {self.path}:{self._numbers[index]}"
                    raise InvalidRow(show_text(key), f"key given twice in {name}: {both}", fix)
                first = self._numbers[index], value
            at += 1
        return None if first is None else first[1]

    def keys_not_in(self, other: "KeyedLines") -> list[str]:
        return self._strays(other._hashes)

    def keys_not_in_values(self, other: "KeyedLines") -> list[str]:
        """Keys that are the first word of no line's value."""
        return self._strays(other._first_words)

    def _strays(self, known: np.ndarray) -> list[str]:
        strays = np.flatnonzero(~np.isin(self._hashes, known))
        return [self._key(int(index)).decode("utf-8", "backslashreplace") for index in strays]

    def _data(self, index: int) -> bytes:
        start, end = self._starts[index], self._starts[index + 1]
        return self._file.read_at(start, end - start).strip()

    def _key(self, index: int) -> bytes:
        return self._data(index).split(None, 1)[0]


def _stray(path: str, keys: list[str], problem: str) -> ManifestError:
    shown = first_of([*map(show_text, keys)], _SHOWN)
    fix = "run Kaldi's utils/fix_data_dir.sh"
    return ManifestError(f"{path}: has {len(keys)} keys that {problem} ({shown}); {fix}")


def open_kaldi(source: ManifestSource) -> Reader | None:
    if not source.is_folder or not os.path.isfile(os.path.join(source.path, "wav.scp")):
        return None
    choose_split(source.path, [], source.options.split)
    return KaldiReader(source.path, allow_pipes=source.options.allow_pipes)
