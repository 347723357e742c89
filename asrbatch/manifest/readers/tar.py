"""Tars of audio: indexed once by their headers, members read by offset when their turn has come; nothing is unpacked.

Two kinds of manifest: NeMo's, whose JSON Lines name members, and WebDataset's, where members that share a key are a
row.

Opening tars: NeMo's, whose members a manifest names, and WebDataset's. Each returns None for what is not its own.
"""

import glob
import io
import os
import re
import tarfile
from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from asrbatch.errors import ManifestError, RowError, UsageError
from asrbatch.formatting import show, show_text
from asrbatch.manifest.columns import Columns
from asrbatch.manifest.readers.base import Reader, join, open_texts
from asrbatch.manifest.readers.jsonl import JsonlReader, is_jsonl, parse_object
from asrbatch.manifest.readers.sniff import Names, bare_name, check_numbers, is_audio
from asrbatch.manifest.readers.text import LocalFile
from asrbatch.manifest.row import IN_CELL, InvalidRow, Row, parse_row
from asrbatch.manifest.source import ManifestSource, choose_split, expand
from asrbatch.storage.remote import MOST_BYTES, RemoteFile, is_remote, open_remote
from asrbatch.types import AudioRef

_MOST_OPEN = 64
_REMOTE_BYTES = 64 << 10  # a request each: headers are 512 bytes, with the audio between them passed over
_MOST_TEXT_BYTES = 16 << 20
# WebDataset: the key is the path up to the first dot of the name.
_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
_SUB = re.compile(r"-sub\d+(?=\.[^.]*$|$)")  # NeMo's second row of one file: a-sub1.wav is in the tar as a.wav
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
_TEXTS = ("txt", "text", "transcript")


class Member(NamedTuple):
    """A file in a tar: its bytes are [offset, offset + size) of the tar."""

    name: str
    offset: int
    size: int


class Tars:
    """Several tars, and their members by number of tar, offset and size.

    Raises:
        ManifestError: one cannot be opened.
    """

    def __init__(self, paths: list[str]):
        self.paths = paths
        keep_open = len(paths) <= _MOST_OPEN
        self._files = [RemoteFile(path) if is_remote(path) else LocalFile(path, keep_open) for path in paths]

    def members(self, number: int) -> Iterator[Member]:
        """Files of one tar, in order. Raises ManifestError: it is packed, damaged or cut off, or
        goes on after its end.
        """
        path, size = self.paths[number], self._files[number].size
        try:
            with _open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                while (found := tar.next()) is not None:
                    tar.members.clear()  # or it keeps them all
                    if found.isfile() and not found.issparse():
                        if found.offset_data + found.size > size:
                            raise tarfile.ReadError(f"{found.name} is cut off")
                        yield Member(found.name.removeprefix("./"), found.offset_data, found.size)
                    elif not found.isdir():
                        raise tarfile.ReadError(f"{found.name} is a link or a device; only plain files can be read")
                file.seek(tar.offset)
                while rest := file.read(1 << 20):
                    if rest.strip(b"\0"):
                        raise tarfile.ReadError("it goes on after its end; were tars joined with cat?")
        except (tarfile.TarError, OSError, EOFError) as e:
            fix = "give plain tars, whole (a packed one has no offsets to read members by)"
            raise ManifestError(f"{path}: cannot be read as a tar: {e}; {fix}") from e

    def read(self, number: int, offset: int, size: int, name: str) -> bytes:
        """Raises RowError unreadable, ManifestError when the tar changed."""
        if size > MOST_BYTES:
            raise RowError("unreadable", f"{name}: {size} bytes in a tar; at most {MOST_BYTES} are read")
        file = self._files[number]
        file.check()
        data = file.pread(size, offset)
        if len(data) != size:
            raise RowError("unreadable", f"{name}: the tar gave {len(data)} of {size} bytes")
        return data


def _open(path: str) -> BinaryIO:
    return io.BufferedReader(open_remote(path), _REMOTE_BYTES) if is_remote(path) else open(path, "rb")


class TarIndex:
    """Members of tars by name: 24 bytes each.

    Names are compared by 64-bit hashes.

    Raises:
        ManifestError: a tar cannot be read, or holds a name twice.
    """

    def __init__(self, paths: list[str]):
        self.tars = Tars(paths)
        keys, offsets, sizes = array("q"), array("Q"), array("Q")
        for number in range(len(paths)):
            for member in self.tars.members(number):
                keys.append(hash((number, member.name)))
                offsets.append(member.offset)
                sizes.append(member.size)
        hashes = np.frombuffer(keys, np.int64) if keys else np.empty(0, np.int64)
        order = np.argsort(hashes, kind="stable")
        self._keys = hashes[order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise ManifestError(f"{paths[0]}: a tar holds a name twice; which is meant? write it again")
        self._offsets = np.frombuffer(offsets, np.uint64)[order] if offsets else None
        self._sizes = np.frombuffer(sizes, np.uint64)[order] if sizes else None

    def find(self, name: str, number: int | None) -> list[tuple[int, int, int]]:
        """(tar, offset, size) of the members of that name, in one tar or in all."""
        found = []
        for tar in range(len(self.tars.paths)) if number is None else (number,):
            wanted = hash((tar, name))
            at = int(np.searchsorted(self._keys, wanted))
            if at < len(self._keys) and self._keys[at] == wanted:
                found.append((tar, int(self._offsets[at]), int(self._sizes[at])))
        return found


class NemoMembers:
    """Which member of which tar a row of a NeMo manifest means: `check` and `locate` of a `JsonlReader`.

    `shard_id` is the number in a tar's name, as NeMo writes both; where names are not numbered alike it counts tars
    from 0."""

    def __init__(self, paths: list[str]):
        self._index = TarIndex(paths)
        self._numbers = _numbers_in(paths)

    def check(self, fields: dict[str, Any]) -> None:
        """Raises BadRow: no tar holds the row's member."""
        name = fields.get("audio_filepath")
        if type(name) is str and name:
            self._find(name, fields)

    def locate(self, row: Row) -> AudioRef:
        number, offset, size = self._find(row.path, row.fields)
        return AudioRef(row.path, load=partial(self._index.tars.read, number, offset, size, row.path))

    def _find(self, name: str, fields: dict[str, Any]) -> tuple[int, int, int]:
        paths = self._index.tars.paths
        try:
            shard = self._tar_of(fields.get("shard_id"))
            for each in (name, name.removeprefix("./"), _SUB.sub("", name)):
                if found := self._index.find(each, shard):
                    break
            if not found:
                where = "no tar holds it" if shard is None else f"{os.path.basename(paths[shard])} does not hold it"
                raise InvalidRow(
                    f"audio_filepath = {show(name)}", where, "give the tars this manifest was written with (--tars)"
                )
            if len(found) > 1:
                fix = "give the rows shard_id, or one tar at a time"
                raise InvalidRow(f"audio_filepath = {show(name)}", f"{len(found)} tars hold one of this name", fix)
        except InvalidRow as bad:
            bad.fields = fields
            raise
        return found[0]

    def _tar_of(self, shard: Any) -> int | None:
        """The place of a shard's tar among all; None where the row does not say. Raises BadRow: there is none."""
        if shard is None:
            return None
        paths, numbers = self._index.tars.paths, self._numbers
        if type(shard) is int and shard in numbers:
            return numbers[shard]
        if list(numbers.items()) == [(place, place) for place in range(len(paths))]:
            raise InvalidRow(
                f"shard_id = {show(shard)}", f"there are {len(paths)} tars", "give the tars of all shards, in order"
            )
        fix = "give the tars of all shards, named by their shard_id"
        raise InvalidRow(f"shard_id = {show(shard)}", f"none of the {len(paths)} tars has that number in its name", fix)


def _numbers_in(paths: list[str]) -> dict[int, int]:
    """Place of each shard's tar: by the last number in their names where these are alike but for it, otherwise in
    order.
    """
    found = [
        _LAST_NUMBER.fullmatch(os.path.basename(path.partition("?")[0] if is_remote(path) else path)) for path in paths
    ]
    if all(found) and len({(match[1], match[3]) for match in found}) == 1:
        places = {int(match[2]): place for place, match in enumerate(found)}
        if len(places) == len(paths):
            return places
    return {place: place for place in range(len(paths))}


class WebDatasetReader:
    """The samples of tars; see `manifest_scan.Reader`. Keeps some 30 bytes a row beside its key, and 18 for each
    member.

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
        self._names_tar = self._have_common_keys()
        self.num_rows = len(self._keys)

    def rows(self) -> Iterator[Row | InvalidRow]:
        for index in range(len(self._keys)):
            try:
                yield self.row(index)
            except InvalidRow as bad:
                yield bad

    def row(self, index: int) -> Row:
        key, tar = self._keys[index], self._tars.paths[self._tar_of[index]]
        fields: dict[str, Any] = {}
        row_id = f"{os.path.basename(tar).removesuffix('.tar')}/{key}" if self._names_tar else key
        try:
            audio = [(ending, *place) for ending, *place in self._members(index) if is_audio(f"a.{ending}")]
            for ending, offset, size in self._members(index):
                if ending == "json":
                    fields |= parse_object(
                        self._text(index, offset, size).encode(), "write its .json member as one object"
                    )
            fields = self._rename(fields)
            for ending, offset, size in self._members(index):
                if ending in _TEXTS and "text" not in fields:
                    fields["text"] = self._text(index, offset, size).strip()
            if "audio_filepath" in fields:
                fields["original_audio_filepath"] = fields.pop("audio_filepath")
            if len(audio) != 1:
                problem = "several clips in one row are not supported" if audio else "no audio member"
                found = ", ".join(ending for ending, *_ in self._members(index))
                raise InvalidRow(f"{show_text(key)} with {found}", problem, "write one audio file for each key")
        except InvalidRow as bad:
            bad.fields = {"id": row_id, **fields}
            raise
        fields = {"audio_filepath": f"{os.path.basename(tar)}/{key}.{audio[0][0]}", **fields}
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
            if os.path.basename(member.name).startswith("."):
                continue
            match = _KEY.fullmatch(member.name)
            if match is None:
                fix = "name members key.wav, key.txt, key.json"
                raise ManifestError(f"{path}: {show(member.name)} has no ending to tell what it is; {fix}")
            key, ending = match[1], match[2].lower()
            if key != last:
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

    def _have_common_keys(self) -> bool:
        hashes = np.fromiter((hash(self._keys[index]) for index in range(len(self._keys))), np.int64, len(self._keys))
        hashes.sort()
        return bool((hashes[1:] == hashes[:-1]).any())

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


_NEMO_MANIFEST = "tarred_audio_manifest.json"


def open_nemo_tars(source: ManifestSource) -> Reader | None:
    tars, manifest = source.options.tars, os.path.join(source.path, _NEMO_MANIFEST)
    if not os.path.isfile(manifest) if source.is_folder else tars is None:
        return None
    if not source.is_folder and source.format is None and not (source.files and is_jsonl(source.files[0])):
        return None  # so that --tars is refused for what it is
    if source.is_folder:
        source = ManifestSource(source.path, (manifest,), source.options)
    if tars is not None:
        paths = _in_order(tars)
        if not paths:
            raise ManifestError(
                f"--tars {tars}: no file matches; give a path, a glob, a list or an _OP_0..7_CL_ pattern"
            )
    else:
        paths = sorted(
            (os.path.join(source.path, n) for n in os.listdir(source.path) if n.endswith(".tar")), key=_by_numbers
        )
        if not paths:
            raise ManifestError(f"{source.path}: has a {_NEMO_MANIFEST} and no tars; name them with --tars")
        check_numbers(source.path, paths)
    choose_split(source.path, [], source.options.split)
    members, columns = NemoMembers(paths), Columns(source.options)
    check, locate = members.check, members.locate
    return join(source, [JsonlReader(text, "", columns, check=check, locate=locate) for text in open_texts(source)])


def open_webdataset(source: ManifestSource) -> Reader | None:
    if source.is_folder:
        files = sorted(os.path.join(source.path, name) for name in os.listdir(source.path) if name.endswith(".tar"))
        check_numbers(source.path, files)
    else:
        files = [file for file in source.files if bare_name(file).endswith(".tar") or source.format]
        if len(files) < len(source.files):
            return None
    if not files:
        return None
    choose_split(source.path, [], source.options.split)
    if (name := source.options.audio_column) is not None:
        fix = "leave it out; --text-column and --id-column name fields of the JSON"
        raise UsageError(
            f"--audio-column {name}: the audio of {source.path} is a member of its tars, known by its ending; {fix}"
        )
    return WebDatasetReader(source.path, files, Columns(source.options))


def _in_order(given: str) -> list[str]:
    """The tars that are named: those of a glob by their numbers, all else as it was given."""
    paths = expand(given)
    if "," in given and len(paths) > 1 and not is_remote(given):
        return [path for part in filter(None, map(str.strip, given.split(","))) for path in _in_order(part)]
    return sorted(paths, key=_by_numbers) if glob.has_magic(given) else paths


def _by_numbers(name: str) -> list[int | str]:
    """audio_2.tar before audio_10.tar."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
