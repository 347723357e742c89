"""Kaldi data folders: `wav.scp`, `segments`, `text`, `utt2lang`, `utt2dur` joined to one row for each utterance.

Nothing is sorted or kept: of each file 16 bytes a line are, a hash of its key and where it stands. The rules are those
of Kaldi's `validate_data_dir.sh`: every utterance has a recording, every recording an utterance, and no key stands
twice. An utterance that two lines of a file speak of is a bad row, which names both lines."""

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from asrbatch.errors import ManifestError
from asrbatch.formatting import first_of, show_text
from asrbatch.manifest.readers.base import HashIndex, Reader, check_pipe, folder_of_first, is_relative, pipe_or_file
from asrbatch.manifest.readers.text import LocalFile
from asrbatch.manifest.row import InvalidRow, Row, annotate, parse_row
from asrbatch.manifest.source import ManifestSource
from asrbatch.types import AudioRef

_SHOWN = 5
_DIFFERENT_S = 0.1  # Kaldi rounds, and counts frames of 10 ms
_OTHERS = {"text": "text", "lang": "utt2lang", "speaker": "utt2spk"}
KALDI_FILES = ("wav.scp", "segments", "utt2dur", *_OTHERS.values())


class KaldiReader(Reader):
    """The utterances of one folder.

    Args:
        folder: absolute path.
        allow_pipes: run commands that `wav.scp` holds, when a row's turn has come.

    Raises:
        ManifestError: the files contradict each other; all such keys are counted, and the first few named.
    """

    def __init__(self, folder: str, *, allow_pipes: bool = False):
        self.source, self._allow_pipes = folder, allow_pipes
        paths = {name: os.path.join(folder, name) for name in KALDI_FILES}
        self._files = {name: KeyedLines(path) for name, path in paths.items() if os.path.isfile(path)}
        self._wavs, self._segments, self._durations = map(self._files.get, KALDI_FILES[:3])
        self._utterances = self._segments or self._wavs
        self._others = {field: self._files[name] for field, name in _OTHERS.items() if name in self._files}
        self.num_rows = len(self._utterances)
        self._check_keys()
        self.base_folder = self._choose_base()
        self.audio_folder = None if self.base_folder == folder else self.base_folder

    def rows(self) -> Iterator[Row | InvalidRow]:
        yield from super().rows()
        # A file that grew during the pass would have rows that were not counted.
        for file in self._files.values():
            file.check()

    def row(self, index: int) -> Row:
        utterance, rest = self._utterances.line(index)
        fields: dict[str, Any] = {"id": utterance, "audio_filepath": None}
        with annotate(fields):
            place = rest
            if self._segments is not None:
                recording, timing = _segment(rest)
                place = self._wavs.get(recording)
                if place is None:
                    fix = "add it, or drop the utterance"
                    raise InvalidRow(f"recording {show_text(recording)}", "wav.scp lacks it", fix)
                fields["recording"] = recording
                fields |= timing
            fields["audio_filepath"] = self._path(place)
            if self._durations is not None and (stated := self._durations.get(utterance)) is not None:
                fields["duration"] = _duration(stated, fields.get("duration"))
            for field, file in self._others.items():
                if (value := file.get(utterance)) is not None:
                    fields[field] = value
        return parse_row(fields, fields["audio_filepath"])

    def audio(self, index: int, row: Row) -> AudioRef:
        return pipe_or_file(row.path, self.base_folder)

    def where(self, index: int) -> str:
        return f"{self._utterances.path}:{self._utterances.numbers[index]}"

    def _path(self, place: str) -> str:
        if not place:
            raise InvalidRow("wav.scp", "no path behind the recording's name", "write `name path`")
        if place.endswith("|"):
            return check_pipe("wav.scp", place, self._allow_pipes)
        # `archive.ark:1234` is a place inside an archive.
        stem, colon, offset = place.rpartition(":")
        if colon and offset.isdecimal() and stem.endswith(".ark"):
            fix = "give wav files (wav-copy writes them)"
            raise _invalid_line("wav.scp", place, "audio in an ark is not supported", fix)
        return place

    def _check_keys(self) -> None:
        # As in `validate_data_dir.sh`. `utt2spk` may have more: it decides nothing here.
        for name, file in self._others.items():
            unknown = file.keys_not_in(self._utterances.hashes)
            if unknown and name in ("text", "lang"):
                raise _stray(file.path, unknown, f"{os.path.basename(self._utterances.path)} lacks")
        if self._segments is not None and (unused := self._wavs.keys_not_in(self._segments.first_words)):
            raise _stray(self._wavs.path, unused, "no segment uses")

    def _choose_base(self) -> str:
        """What relative paths are relative to; see `folder_of_first`."""
        for index in range(len(self._wavs)):
            with suppress(InvalidRow):  # reported with the others
                place = self._wavs.line(index)[1]
                if place and not place.endswith("|") and is_relative(place):
                    return folder_of_first(place, self.source)
        return self.source


def _segment(rest: str) -> tuple[str, dict[str, Any]]:
    """`recording start end [channel]`."""
    parts = rest.split()
    if len(parts) not in (3, 4):
        fix = "write recording, start and end in seconds"
        raise _invalid_line("segments", rest, "not `recording start end`", fix)
    try:
        start_s, end_s = float(parts[1]), float(parts[2])
    except ValueError as e:
        raise _invalid_line("segments", rest, "start and end must be numbers of seconds", "correct the line") from e
    timing: dict[str, Any] = {"offset": start_s}
    if end_s != -1:  # Kaldi: to the end
        if not start_s < end_s:
            raise _invalid_line("segments", rest, "must end after it starts", "correct the line, or drop it")
        # Differences of decimals in binary: 2.3 - 1.1 is 1.1999999999999997.
        timing["duration"] = round(end_s - start_s, 6)
    if len(parts) == 4:
        if not parts[3].isdecimal():
            raise _invalid_line("segments", rest, "the channel must be a whole number from 0", "correct the line")
        timing["channel"] = int(parts[3])
    return parts[0], timing


def _duration(stated: str, of_segment_s: float | None) -> float:
    """Seconds by `utt2dur`, checked for what they are as any duration is later; a segment keeps its own."""
    try:
        duration_s = float(stated)
    except ValueError as e:
        raise _invalid_line("utt2dur", stated, "must be a number of seconds", "correct the line, or drop it") from e
    if of_segment_s is None:
        return duration_s
    if not abs(duration_s - of_segment_s) <= _DIFFERENT_S:
        fix = "make utt2dur again (utils/data/get_utt2dur.sh), or remove it"
        raise _invalid_line("utt2dur", stated, f"segments says another duration: {of_segment_s:g}", fix)
    # `segments` is what a decoder cuts by; `utt2dur` is a rounded copy of it.
    return of_segment_s


def _invalid_line(file: str, line: str, problem: str, fix: str) -> InvalidRow:
    return InvalidRow(f"{file} = {show_text(line)}", problem, fix)


class KeyedLines:
    """A file of lines `key value`, by line and by key.

    Attributes:
        numbers: of its lines that are not blank, from 1.
        hashes, first_words: hashes of their keys, and of the first words of their values.

    Raises:
        ManifestError: it cannot be opened, or is not UTF-8.
    """

    def __init__(self, path: str):
        self.path = path
        self._file = LocalFile(path, is_text=True)
        self.check = self._file.check
        self._starts, self.numbers = array("Q"), array("Q")
        hashes, self.first_words = array("q"), array("q")
        end = number = 0
        for line in self._file.lines():
            start, end, number = end, end + len(line), number + 1
            words = line.split(None, 2)
            if words:
                self._starts.append(start)
                self.numbers.append(number)
                hashes.append(hash(words[0]))
                self.first_words.append(hash(words[1]) if len(words) > 1 else 0)
        self._starts.append(end)
        self._index = HashIndex(hashes)
        self.hashes = self._index.hashes

    def __len__(self) -> int:
        return len(self.numbers)

    def line(self, index: int) -> tuple[str, str]:
        """Key and value of a line. Raises InvalidRow: not UTF-8."""
        data = self._data(index)
        try:
            key, _, value = data.decode().replace("\t", " ", 1).partition(" ")
        except UnicodeDecodeError as e:
            where, fix = f"{self.path}:{self.numbers[index]}", "write the whole file in UTF-8"
            raise InvalidRow(show_text(data.decode("utf-8", "backslashreplace")), f"not UTF-8: {where}", fix) from e
        return key, value.strip()

    def get(self, key: str) -> str | None:
        """The value of a key; None where there is no such line. Raises InvalidRow: not UTF-8, or two lines have it."""
        # Equal hashes need not be equal keys: each of these lines is read.
        found = {index: self.line(index) for index in self._index.find(hash(key.encode()))}
        values = {index: value for index, (its_key, value) in found.items() if its_key == key}
        if len(values) > 1:
            name, fix = os.path.basename(self.path), "keep one of the lines"
            both = " and ".join(f"{self.path}:{self.numbers[index]}" for index in list(values)[:2])
            raise InvalidRow(show_text(key), f"key given twice in {name}: {both}", fix)
        return next(iter(values.values()), None)

    def keys_not_in(self, hashes: Iterable[int]) -> list[str]:
        """Keys with none of these hashes."""
        keys = (self._data(index).split(None, 1)[0] for index in self._index.positions_not_in(hashes))
        return [key.decode("utf-8", "backslashreplace") for key in keys]

    def _data(self, index: int) -> bytes:
        start, end = self._starts[index], self._starts[index + 1]
        return self._file.pread(end - start, start).strip()


def _stray(path: str, keys: list[str], problem: str) -> ManifestError:
    shown = first_of(list(map(show_text, keys)), _SHOWN)
    fix = "run Kaldi's utils/fix_data_dir.sh"
    return ManifestError(f"{path}: has {len(keys)} keys that {problem} ({shown}); {fix}")


def open_kaldi(source: ManifestSource) -> Reader | None:
    if not source.is_folder or not os.path.isfile(os.path.join(source.path, "wav.scp")):
        return None
    return KaldiReader(source.path, allow_pipes=source.options.allow_pipes)
