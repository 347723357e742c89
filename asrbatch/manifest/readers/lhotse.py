"""lhotse: each cut is a row, a piece of one recording; or each supervision, the cut that `trim_to_supervisions` makes
of it; or each recording, where there are no supervisions. Cuts are read by lhotse itself.

Audio that a cut would make out of others when it is loaded (mixed, padded, at another speed) is not made here: such
rows are bad. Only importer of lhotse; that takes 3 s, so it happens when there are cuts."""

import codecs
import os
import re
from array import array
from contextlib import suppress
from functools import partial
from typing import Any

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError
from asrbatch.formatting import first_of, install_line, one_line, show, show_text
from asrbatch.languages import primary
from asrbatch.manifest.readers.base import (
    PIPE,
    HashIndex,
    Reader,
    TextFormat,
    check_pipe,
    folder_of_first,
    is_relative,
    pipe_or_file,
    read_texts,
)
from asrbatch.manifest.readers.jsonl import JsonlReader, parse_object
from asrbatch.manifest.readers.sniff import JSONL_ENDINGS, bare_name, is_file, unpacked_head
from asrbatch.manifest.readers.text import TextFile, open_text
from asrbatch.manifest.row import InvalidRow, Row, annotate
from asrbatch.manifest.source import ManifestSource, choose_split
from asrbatch.storage.jsonl import is_array
from asrbatch.types import AudioRef

_CUT = re.compile(rb'\{.*"(supervisions|recording|tracks)"\s*:\s*[\[{]', re.DOTALL)
_CUT_TYPE = re.compile(rb'"type"\s*:\s*"\w*Cut"')
_CODE = re.compile(r"[a-z]{2,3}")
_RECORDINGS, _SUPERVISIONS = "recordings", "supervisions"
_OTHER = {_RECORDINGS: _SUPERVISIONS, _SUPERVISIONS: _RECORDINGS}
_RECORDING = re.compile(rb'\{.*"sources"\s*:\s*\[', re.DOTALL)
_OF_SUPERVISION = (b'"id"', b'"recording_id"', b'"start"', b'"duration"')
_SHOWN = 5
_FIX = "save it as audio of its own (CutSet.save_audios)"


class LhotseReader(JsonlReader):
    """The cuts of one file. Relative paths are relative to its folder, or to the current one, see `folder_of_first`.

    Raises:
        ManifestError: lhotse is not installed.
    """

    def __init__(self, source: ManifestSource, file: TextFile):
        super().__init__(source, file)
        try:
            from lhotse.serialization import deserialize_item
        except ImportError as e:
            fix = install_line("lhotse")
            raise ManifestError(f"{file.path}: is lhotse's, and lhotse is not installed: {fix}") from e
        self._deserialize, self._allow_pipes, self.is_plain = deserialize_item, source.options.allow_pipes, False
        self._base: str | None = None

    @property
    def audio_folder(self) -> str | None:
        return None if self._base == self.base_folder else self._base

    def audio(self, index: int, row: Row) -> AudioRef:
        return pipe_or_file(row.path, self._base_of(row.path))

    def _fields(self, line: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {"id": line.get("id")}
        with annotate(fields):
            custom = line.get("custom")  # before lhotse, which takes it out of the line
            cut = self._cut(line)
            fields |= self._audio_fields(cut)
            self._base_of(fields["audio_filepath"])
            fields |= _transcript(cut.supervisions)
        if custom is not None:
            fields["custom"] = custom
        return fields

    def _cut(self, line: dict[str, Any]) -> Any:
        kind = line.get("type")
        if kind in ("MixedCut", "PaddingCut"):
            raise InvalidRow(f"type = {show(kind)}", "its audio is mixed when it is loaded", _FIX)
        if kind not in ("MonoCut", "MultiCut"):
            fix = "give cuts; lhotse makes them of recordings and supervisions (`lhotse cut simple`)"
            raise InvalidRow(f"type = {show(kind)}", "not a cut", fix)
        try:
            cut = self._deserialize(line)
        except Exception as e:  # lhotse makes objects of whatever stands there
            problem = f"lhotse cannot read it: {show_text(one_line(e))}"
            raise InvalidRow(f"id = {show(line.get('id'))}", problem, "write the cuts again") from e
        if cut.recording is None:
            raise InvalidRow(f"id = {show(cut.id)}", "a cut without a recording", "save the cuts with their recordings")
        changed = [
            each["name"] if isinstance(each, dict) else type(each).__name__ for each in cut.recording.transforms or ()
        ]
        if others := [name for name in changed if name != "Resample"]:  # every row is resampled anyway
            problem = f"its audio is changed when it is loaded ({', '.join(others)})"
            raise InvalidRow(f"id = {show(cut.id)}", problem, _FIX)
        return cut

    def _audio_fields(self, cut: Any) -> dict[str, Any]:
        # `MultiCut` has a list of channels, `MonoCut` one number.
        channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
        found = [source for source in cut.recording.sources if set(channels) & set(source.channels)]
        if len(found) != 1 or not set(channels) <= set(found[0].channels):
            problem = f"{len(found)} files hold its channels {show(channels)}"
            raise InvalidRow(f"id = {show(cut.id)}", problem, "several clips in one row are not supported; " + _FIX)
        (source,) = found
        if source.type not in ("file", "url", "command"):
            raise InvalidRow(f"id = {show(cut.id)}", f"audio of type {show(source.type)} is not supported", _FIX)
        path = source.source
        if source.type == "command":
            path = check_pipe("recording", path, self._allow_pipes)
        fields = {"audio_filepath": path, "offset": cut.start, "duration": cut.duration}
        if len(channels) == 1 and len(source.channels) > 1:
            # lhotse numbers channels by recording, a decoder by file.
            fields["channel"] = source.channels.index(channels[0])
        elif len(channels) < len(source.channels):
            fix = "give one channel, or all of them to have their mean"
            raise InvalidRow(f"id = {show(cut.id)}", f"some of the channels ({show(channels)})", fix)
        fields["recording"] = cut.recording.id
        return fields

    def _base_of(self, path: str) -> str:
        if self._base is None and path.startswith(PIPE):
            self._base = os.getcwd()  # where lhotse would run it
        elif self._base is None and is_relative(path):
            self._base = folder_of_first(path, self.base_folder)
        return self._base or self.base_folder


def _transcript(supervisions: list[Any]) -> dict[str, Any]:
    """Text, language and speaker of a cut; where it has several, the texts joined in order."""
    fields: dict[str, Any] = {}
    # A cut may hold several utterances; supervisions stand in any order.
    texts = [s.text for s in sorted(supervisions, key=lambda s: s.start) if s.text]
    if texts:
        fields["text"] = " ".join(texts)
    languages = {s.language for s in supervisions if s.language}
    if len(languages) == 1:
        (language,) = languages
        # What is no language that can be looked up tells a person something.
        fields["lang" if _CODE.fullmatch(primary(language)) else "language_name"] = language
    speakers = {s.speaker for s in supervisions if s.speaker}
    if len(speakers) == 1:
        fields |= {"speaker": speakers.pop()}
    return fields


def is_lhotse(path: str, head: bytes, options: SourceOptions) -> bool:
    """Whether a text that begins so holds cuts."""
    first = first_object(head)
    return b'"audio_filepath"' not in first and bool(_CUT.match(first) or _CUT_TYPE.search(first))


def first_object(head: bytes) -> bytes:
    """How the first object of a text that begins so begins; of an array it may be spread over lines."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    return start[1:].lstrip() if is_array(head) else start.partition(b"\n")[0]


LHOTSE = TextFormat(is_lhotse, LhotseReader)


class Recordings:
    """The recordings of some files, by their ids.

    Raises:
        ManifestError: a file cannot be opened, or holds something else.
    """

    def __init__(self, files: list[str], source: ManifestSource):
        self._files = [JsonlReader(source, open_text(file)) for file in files]
        self._file_of, self._number, hashes = array("I"), array("Q"), array("q")
        for at, reader in enumerate(self._files):
            for number, text in enumerate(reader.texts()):
                try:
                    hashes.append(hash(parse_object(text).get("id")))
                except (InvalidRow, TypeError) as e:
                    raise ManifestError(f"{reader.where(number)}: {e}; write the recordings again") from e
                self._file_of.append(at)
                self._number.append(number)
        self._index = HashIndex(hashes)
        self._is_used = bytearray(len(hashes))
        self._last: tuple[str, bytes] | None = None  # neighbouring supervisions are of one recording

    def find(self, recording_id: Any) -> dict[str, Any]:
        """A recording as it is written. Raises InvalidRow: there is none, or two."""
        last = self._last  # another thread may put another in its place
        if last is not None and last[0] == recording_id:
            return parse_object(last[1])
        # Equal hashes need not be equal ids: each of these is read.
        same = self._index.find(hash(recording_id)) if isinstance(recording_id, str) else []
        found = {at: text for at in same if parse_object(text := self._text(at)).get("id") == recording_id}
        if len(found) != 1:
            both = " and ".join(self._where(at) for at in [*found][:2])
            problem = f"given twice: {both}" if found else "the recordings lack it"
            raise InvalidRow(
                f"recording_id = {show(recording_id)}", problem, "correct that (lhotse fix), or drop the row"
            )
        (at, text) = found.popitem()
        self._is_used[at], self._last = True, (recording_id, text)
        return parse_object(text)

    def unused(self) -> str | None:
        """Which recordings nobody asked for, as a message; None for none."""
        places = [at for at, used in enumerate(self._is_used) if not used]
        if not places:
            return None
        names = [show(parse_object(self._text(at)).get("id")) for at in places[:_SHOWN]]
        count = "1 recording has" if len(places) == 1 else f"{len(places)} recordings have"
        return f"{self._files[0].source}: {count} no supervision ({first_of(names, _SHOWN, len(places))}), so no row"

    def _text(self, at: int) -> bytes:
        return self._files[self._file_of[at]].text_of(self._number[at])

    def _where(self, at: int) -> str:
        return self._files[self._file_of[at]].where(self._number[at])


class SupervisionReader(LhotseReader):
    """The supervisions of one file.

    Args:
        recordings: what they are of; None where the file holds recordings itself.
    """

    def __init__(self, source: ManifestSource, file: TextFile, recordings: Recordings | None):
        super().__init__(source, file)
        self._recordings = recordings

    @property
    def left_out(self) -> str | None:
        return self._recordings and self._recordings.unused()

    def line(self, index: int) -> bytes | None:
        return None  # elsewhere it would be without its recording

    def _fields(self, line: dict[str, Any]) -> dict[str, Any]:
        with annotate({"id": line.get("id")}):
            cut = self._whole(line) if self._recordings is None else self._supervised(line, self._recordings)
        return super()._fields(cut)

    def _whole(self, recording: dict[str, Any]) -> dict[str, Any]:
        of_files = [channel for source in _list(recording.get("sources")) for channel in _list(source.get("channels"))]
        channels = recording.get("channel_ids") or of_files
        return _cut(recording.get("id"), 0, recording.get("duration"), channels, recording, [])

    def _supervised(self, line: dict[str, Any], recordings: Recordings) -> dict[str, Any]:
        if "recording_id" not in line:
            raise InvalidRow(f"has {show([*line])}", "not a supervision", "give recordings and their supervisions")
        recording = recordings.find(line["recording_id"])
        place = line.get("start"), line.get("duration"), line.get("channel", 0)
        cut = _cut(line.get("id"), *place, recording, [{**line, "start": 0.0}])
        return cut | ({"custom": line["custom"]} if line.get("custom") else {})


def _cut(row_id: Any, start: Any, duration: Any, channel: Any, recording: Any, supervisions: list) -> dict[str, Any]:
    kind = "MultiCut" if isinstance(channel, list) else "MonoCut"
    place = {"id": row_id, "start": start, "duration": duration, "channel": channel}
    return {**place, "supervisions": supervisions, "recording": recording, "type": kind}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def open_lhotse(source: ManifestSource) -> Reader | None:
    return open_pair(source) or LHOTSE.open(source)


def open_pair(source: ManifestSource) -> Reader | None:
    """Recordings, supervisions, or both: files, or a folder with them. Of one the other is looked for beside it.

    Raises:
        ManifestError: supervisions without recordings, or a folder of several pairs and no --split.
    """
    found: dict[str, list[str]] = {_RECORDINGS: [], _SUPERVISIONS: []}
    for file in files_in_folder(source) if source.is_folder else source.files:
        if (kind := _kind_of(file)) is None:
            return None
        found[kind].append(file)
    for kind, other in _OTHER.items():
        found[other] += [] if found[other] else filter(None, (_beside(file, kind) for file in found[kind]))
    recordings, supervisions = found[_RECORDINGS], found[_SUPERVISIONS]
    if not recordings and not supervisions:
        return None
    if not recordings:
        fix = "give both, with a comma between them"
        raise ManifestError(f"{source.path}: holds supervisions, and no recordings are beside it; {fix}")
    index = Recordings(recordings, source) if supervisions else None
    rows = ManifestSource(source.path, tuple(supervisions or recordings), source.options)
    return read_texts(rows, partial(SupervisionReader, recordings=index))


def _kind_of(file: str) -> str | None:
    if not is_file(file):
        return None
    head = unpacked_head(file)
    first = first_object(head)
    if b'"audio_filepath"' in first or LHOTSE.is_ours(file, head, SourceOptions()):
        return None
    if all(name in first for name in _OF_SUPERVISION):
        return _SUPERVISIONS
    return _RECORDINGS if _RECORDING.match(first) else None


def _beside(file: str, kind: str) -> str | None:
    """The other file of a pair, where it is there: `x_recordings_test.jsonl.gz` of `x_supervisions_test.jsonl.gz`."""
    folder, name = os.path.split(file)
    other = os.path.join(folder, _OTHER[kind].join(name.rsplit(kind, 1)))
    with suppress(ManifestError):  # behind a URL, where only reading tells
        return other if other != file and _kind_of(other) == _OTHER[kind] else None
    return None


def files_in_folder(source: ManifestSource) -> list[str]:
    """The recordings of one split in a folder, and its supervisions."""
    splits: dict[str, list[str]] = {}
    for name in sorted(os.listdir(source.path)):
        bare = bare_name(name)
        kind = next((kind for kind in _OTHER if kind in bare), None)
        if kind and bare.endswith(JSONL_ENDINGS) and _kind_of(os.path.join(source.path, name)) == kind:
            label = os.path.splitext(bare.replace(kind, ""))[0].strip("_-.").replace("__", "_") or "all"
            splits.setdefault(label, []).append(os.path.join(source.path, name))
    if not splits:
        return []
    return splits[choose_split(source.path, splits, source.options.split) or ""]
