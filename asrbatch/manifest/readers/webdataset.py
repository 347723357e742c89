"""WebDataset's tars: members that share a key, the name up to its first dot, are a row."""

import os
import re
from array import array
from functools import partial
from typing import Any

from asrbatch.errors import ManifestError, RowError, UsageError
from asrbatch.formatting import show, show_text
from asrbatch.manifest.columns import Columns
from asrbatch.manifest.readers.base import HashIndex, Reader
from asrbatch.manifest.readers.jsonl import parse_object
from asrbatch.manifest.readers.sniff import Names, bare_name, check_numbers, is_audio
from asrbatch.manifest.readers.tar import Tars, tars_in
from asrbatch.manifest.row import IN_CELL, InvalidRow, Row, parse_row
from asrbatch.manifest.source import ManifestSource
from asrbatch.types import AudioRef

_MOST_TEXT_BYTES = 16 << 20
_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
_TEXTS = ("txt", "text", "transcript")


class WebDatasetReader(Reader):
    """The samples of tars. Keeps some 30 bytes a row beside its key, and 18 for each member.

    A row's id is its key, or `tar/key` where two tars have a key in common. Members beside audio, JSON and text are
    passed over.

    Args:
        columns: fields of the JSON under other names; the audio is a member.

    Raises:
        ManifestError: a tar cannot be read, or has a key twice.
    """

    holds_audio = True

    def __init__(self, source: str, paths: list[str], columns: Columns):
        self.source, self._rename = source, columns.rename
        self._tars = Tars(paths)
        self._keys, self._tar_of, self._first = Names(), array("I"), array("Q")
        self._offsets, self._sizes, self._kinds = array("Q"), array("Q"), array("I")
        self._endings: dict[str, int] = {}
        for number, path in enumerate(paths):
            self._index(number, path)
        self._first.append(len(self._offsets))
        self._ending_names = list(self._endings)
        self.num_rows = len(self._keys)
        self._names_tar = HashIndex(array("q", (hash(self._keys[at]) for at in range(self.num_rows)))).has_repeats

    def row(self, index: int) -> Row:
        key, tar = self._keys[index], self._tars.paths[self._tar_of[index]]
        fields: dict[str, Any] = {}
        row_id = f"{os.path.basename(tar).removesuffix('.tar')}/{key}" if self._names_tar else key
        try:
            # JSON first: a `.txt` is the text only where the JSON has none.
            for ending, offset, size in self._members(index):
                if ending == "json":
                    text = self._text(index, offset, size)
                    fields |= parse_object(text.encode(), "write its .json member as one object")
            fields = self._rename(fields)
            for ending, offset, size in self._members(index):
                if ending in _TEXTS and "text" not in fields:
                    fields["text"] = self._text(index, offset, size).strip()
            # The JSON may name the file that the sample was made of; the audio is the member.
            if "audio_filepath" in fields:
                fields["original_audio_filepath"] = fields.pop("audio_filepath")
            endings = [ending for ending, *_ in self._members(index)]
            audio = [ending for ending in endings if is_audio(f"a.{ending}")]
            if len(audio) != 1:
                problem = "several clips in one row are not supported" if audio else "no audio member"
                value = f"{show_text(key)} with {', '.join(endings)}"
                raise InvalidRow(value, problem, "write one audio file for each key")
        except InvalidRow as invalid:
            invalid.fields = {"id": row_id, **fields}
            raise
        fields = {"audio_filepath": f"{os.path.basename(tar)}/{key}.{audio[0]}", **fields}
        return parse_row(fields, IN_CELL, row_id)

    def audio(self, index: int, row: Row) -> AudioRef:
        name = row.fields["audio_filepath"]
        _, offset, size = next(member for member in self._members(index) if is_audio(f"a.{member[0]}"))
        return AudioRef(name, load=partial(self._tars.read, self._tar_of[index], offset, size, name))

    def where(self, index: int) -> str:
        return f"{self._tars.paths[self._tar_of[index]]}:{self._keys[index]}"

    def _index(self, number: int, path: str) -> None:
        last, seen = None, set()
        for member in self._tars.members(number):
            # `._a.wav`, which a Mac puts into tars, is no audio.
            if os.path.basename(member.name).startswith("."):
                continue
            match = _KEY.fullmatch(member.name)
            if match is None:
                fix = "name members key.wav, key.txt, key.json"
                raise ManifestError(f"{path}: {show(member.name)} has no ending to tell what it is; {fix}")
            key, ending = match[1], match[2].lower()
            if key != last:
                # A key that comes back later would become two half rows.
                if hash(key) in seen:
                    fix = "members of one key must stand side by side, and keys be unique"
                    raise ManifestError(f"{path}: the key {show(key)} comes twice; {fix}")
                seen.add(hash(key))
                self._keys.append(key)
                self._tar_of.append(number)
                self._first.append(len(self._offsets))
                last = key
            self._offsets.append(member.offset)
            self._sizes.append(member.size)
            self._kinds.append(self._endings.setdefault(ending, len(self._endings)))

    def _members(self, index: int) -> list[tuple[str, int, int]]:
        """(ending, offset, size) of each member of a row."""
        endings = self._ending_names
        places = range(self._first[index], self._first[index + 1])
        return [(endings[self._kinds[at]], self._offsets[at], self._sizes[at]) for at in places]

    def _text(self, index: int, offset: int, size: int) -> str:
        if size > _MOST_TEXT_BYTES:
            raise InvalidRow(self._keys[index], f"{size} bytes of text", "at most 16 MB are read; is it a transcript?")
        try:
            return self._tars.read(self._tar_of[index], offset, size, self._keys[index]).decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise InvalidRow(self._keys[index], "its text is not UTF-8", "write it again in UTF-8") from e
        except RowError as e:
            raise InvalidRow(self._keys[index], e.message, "copy the tar again") from e


def open_webdataset(source: ManifestSource) -> Reader | None:
    if source.is_folder:
        files = tars_in(source.path)
        check_numbers(source.path, files)
    else:
        files = [file for file in source.files if bare_name(file).endswith(".tar") or source.options.format]
        if len(files) < len(source.files):
            return None
    if not files:
        return None
    if (name := source.options.audio_column) is not None:
        fix = "leave it out; --text-column and --id-column name fields of the JSON"
        problem = f"the audio of {source.path} is a member of its tars, known by its ending"
        raise UsageError(f"--audio-column {name}: {problem}; {fix}")
    return WebDatasetReader(source.path, files, Columns(source.options))
