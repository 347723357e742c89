"""Tars of audio: indexed once by their headers, members read by offset when their turn has come; nothing is unpacked.

Also NeMo's tars, whose members a manifest in JSON Lines names; WebDataset's, which need none, are in `webdataset.py`.
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

from asrbatch.errors import ManifestError, RowError
from asrbatch.manifest.readers.base import HashIndex, Reader, read_texts
from asrbatch.manifest.readers.jsonl import JSONL, JsonlReader
from asrbatch.manifest.readers.sniff import check_numbers
from asrbatch.manifest.readers.text import LocalFile, TextFile
from asrbatch.manifest.row import Row, annotate, invalid_field
from asrbatch.manifest.source import ManifestSource, expand
from asrbatch.storage.filenames import same_name
from asrbatch.storage.remote import MOST_BYTES, RemoteFile, is_remote
from asrbatch.types import AudioRef

_MOST_OPEN = 64
_REMOTE_BYTES = 64 << 10  # a request each: headers are 512 bytes, with the audio between them passed over
_SUB = re.compile(r"-sub\d+(?=\.[^.]*$|$)")  # NeMo's second row of one file: a-sub1.wav is in the tar as a.wav
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
NEMO_MANIFEST = "tarred_audio_manifest.json"


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
        """Files of one tar, in order. Raises ManifestError: packed, damaged, cut off, or going on after its end."""
        path, size = self.paths[number], self._files[number].size
        try:
            with _open(self._files[number]) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                while (found := tar.next()) is not None:
                    tar.members.clear()  # or it keeps them all
                    if found.isfile() and not found.issparse():
                        # `tarfile` does not notice: it seeks over the data of a member.
                        if found.offset_data + found.size > size:
                            raise tarfile.ReadError(f"{found.name} is cut off")
                        yield Member(found.name.removeprefix("./"), found.offset_data, found.size)
                    elif not found.isdir():
                        raise tarfile.ReadError(f"{found.name} is a link or a device; only plain files can be read")
                # `tarfile` stops at the first end mark; what follows would be lost without a word.
                file.seek(tar.offset)
                while rest := file.read(1 << 20):
                    if rest.strip(b"\0"):
                        raise tarfile.ReadError("it goes on after its end; were tars joined with cat?")
        except (tarfile.TarError, OSError, EOFError) as e:
            fix = "give complete tars that are not compressed"
            raise ManifestError(f"{path}: cannot be read as a tar: {e}; {fix}") from e

    def read(self, number: int, offset: int, size: int, name: str) -> bytes:
        """Raises RowError unreadable, ManifestError when the tar changed."""
        if size > MOST_BYTES:
            raise RowError("unreadable", f"{name}: {size} bytes in a tar; at most {MOST_BYTES} are read")
        file = self._files[number]
        data = file.pread(size, offset)
        # Behind the read: what was written before it is noticed, and what is written now is not in it.
        file.check()
        if len(data) != size:
            raise RowError("unreadable", f"{name}: the tar gave {len(data)} of {size} bytes")
        return data


def _open(file: RemoteFile | LocalFile) -> BinaryIO:
    return io.BufferedReader(file.again(), _REMOTE_BYTES) if isinstance(file, RemoteFile) else open(file.path, "rb")


class NemoMembers:
    """Which member of which tar a row of a NeMo manifest means. 32 bytes a member; names are compared by 64-bit hashes.

    `shard_id` is the number in a tar's name, as NeMo writes both; where names are not numbered alike it counts tars
    from 0.

    Raises:
        ManifestError: a tar cannot be read, or holds a name twice.
    """

    def __init__(self, paths: list[str]):
        self._paths, self._tars, self._numbers = paths, Tars(paths), _numbers_in(paths)
        hashes, self._offsets, self._sizes = array("q"), array("Q"), array("Q")
        for number in range(len(paths)):
            for member in self._tars.members(number):
                hashes.append(hash((number, same_name(member.name))))
                self._offsets.append(member.offset)
                self._sizes.append(member.size)
        self._index = HashIndex(hashes)
        if self._index.has_repeats:
            raise ManifestError(f"{paths[0]}: a tar has two members of one name; write it again")

    def locate(self, row: Row) -> AudioRef:
        """Raises InvalidRow: no tar, or more than one, holds the row's member."""
        with annotate(row.fields):
            tar, at = self._find(row.path, self._tar_of(row.fields.get("shard_id")))
        read = partial(self._tars.read, tar, self._offsets[at], self._sizes[at], row.path)
        return AudioRef(row.path, load=read)

    def _find(self, name: str, shard: int | None) -> tuple[int, int]:
        """(tar, member) of that name, in one tar or in all."""
        tars = range(len(self._paths)) if shard is None else (shard,)
        # As NeMo looks them up: as written, without `./`, and as the file that several rows share.
        for each in (name, name.removeprefix("./"), _SUB.sub("", name)):
            found = [(tar, at) for tar in tars for at in self._index.find(hash((tar, same_name(each))))]
            if len(found) > 1:
                fix = "give the rows shard_id, or one tar at a time"
                raise invalid_field("audio_filepath", name, f"{len(found)} tars hold one of this name", fix)
            if found:
                return found[0]
        problem = "no tar holds it" if shard is None else f"{os.path.basename(self._paths[shard])} does not hold it"
        raise invalid_field("audio_filepath", name, problem, "give the tars this manifest was written with (--tars)")

    def _tar_of(self, shard: Any) -> int | None:
        """The place of a shard's tar among all; None where the row does not say. Raises InvalidRow: there is none."""
        if shard is None:
            return None
        paths, numbers = self._paths, self._numbers
        if type(shard) is int and shard in numbers:
            return numbers[shard]
        problem, fix = f"there are {len(paths)} tars", "give the tars of all shards, in order"
        if list(numbers.items()) != [(place, place) for place in range(len(paths))]:
            problem = f"none of the {len(paths)} tars has that number in its name"
            fix = "give the tars of all shards, named by their shard_id"
        raise invalid_field("shard_id", shard, problem, fix)


class NemoReader(JsonlReader):
    """The rows of one manifest of NeMo, whose audio is in tars."""

    holds_audio = True

    def __init__(self, source: ManifestSource, file: TextFile, members: NemoMembers):
        super().__init__(source, file)
        self._members, self.base_folder, self.is_plain = members, None, False

    def audio(self, index: int, row: Row) -> AudioRef:
        return self._members.locate(row)

    def _parse(self, line: bytes) -> Row:
        row = super()._parse(line)
        self._members.locate(row)  # a row whose member is not there is a bad one
        return row


def _numbers_in(paths: list[str]) -> dict[int, int]:
    """Place of each shard's tar: by the last number in names that are alike but for it, otherwise in order."""
    names = [os.path.basename(path.partition("?")[0] if is_remote(path) else path) for path in paths]
    found = [_LAST_NUMBER.fullmatch(name) for name in names]
    # A number in the folder or a date is no number of shards: the rest of the names must be alike.
    if all(found) and len({(match[1], match[3]) for match in found}) == 1:
        places = {int(match[2]): place for place, match in enumerate(found)}
        if len(places) == len(paths):
            return places
    return {place: place for place in range(len(paths))}


def open_nemo_tars(source: ManifestSource) -> Reader | None:
    tars, manifest = source.options.tars, os.path.join(source.path, NEMO_MANIFEST)
    if not os.path.isfile(manifest) if source.is_folder else tars is None:
        return None
    if not source.is_folder and not JSONL.recognises(source):
        return None  # so that --tars is refused for what it is
    if source.is_folder:
        source = ManifestSource(source.path, (manifest,), source.options)
    if tars is not None:
        paths = _in_order(tars)
        if not paths:
            fix = "give a path, a glob, a list or an _OP_0..7_CL_ pattern"
            raise ManifestError(f"--tars {tars}: no file matches; {fix}")
    else:
        paths = sorted(tars_in(source.path), key=_by_numbers)
        if not paths:
            raise ManifestError(f"{source.path}: has a {NEMO_MANIFEST} and no tars; name them with --tars")
        check_numbers(source.path, paths)
    members = NemoMembers(paths)
    return read_texts(source, partial(NemoReader, members=members))


def tars_in(folder: str) -> list[str]:
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".tar"))


def _in_order(given: str) -> list[str]:
    """The tars that are named: those of a glob by their numbers, all else as it was given."""
    paths = expand(given)
    if "," in given and len(paths) > 1 and not is_remote(given):
        return [path for part in filter(None, map(str.strip, given.split(","))) for path in _in_order(part)]
    return sorted(paths, key=_by_numbers) if glob.has_magic(given) else paths


def _by_numbers(name: str) -> list[int | str]:
    """audio_2.tar before audio_10.tar."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
