"""What files and folders are, by their first bytes and their names, before any of their rows is read.

First bytes, packed or not, here or behind a URL; which names are those of audio; and three things by which rows would
be lost without a word: a shard that is missing, a gap in numbered files, files of another kind in the same folder.
Knows nothing of readers.
"""

import errno
import glob
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from asrbatch.errors import ManifestError
from asrbatch.formatting import first_of, show
from asrbatch.manifest.readers.text import GZIP, ZSTD, open_text
from asrbatch.manifest.source import ManifestSource
from asrbatch.storage.jsonl import known_head
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.remote import RemoteFile, is_remote

HEAD_BYTES = 4096


def bare_name(path: str) -> str:
    """In small letters, without query and the ending of what it is packed with."""
    name = path.partition("?")[0] if is_remote(path) else path
    return name.lower().removesuffix(".gz").removesuffix(".zst")


def describe(source: ManifestSource) -> str:
    """What was found instead of a manifest."""
    path = source.path
    if not source.files:
        return "no file matches" if glob.has_magic(path) else "does not exist"
    if not source.is_one:
        return f"names {first_of(source.files, _SHOWN)}, which are no manifests"
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        return f"is a folder with {first_of(names, _SHOWN_SHARDS)}" if names else "is an empty folder"
    if not is_file(path):
        return "is not a regular file"
    head = unpacked_head(path)
    if known := known_head(head):
        return f"is {known[0]}, {known[1]}"
    first_line = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].decode("utf-8", "backslashreplace")
    return f"starts with {show(first_line)}"


def is_file(path: str) -> bool:
    return is_remote(path) or os.path.isfile(path)


def head_of(path: str) -> bytes:
    if is_remote(path):
        return RemoteFile(path).pread(HEAD_BYTES, 0)
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as e:
        raise ManifestError(f"{path}: cannot be opened: {e.strerror}") from e


def unpacked_head(path: str) -> bytes:
    """The first bytes of a file's text, also where it is packed."""
    # Only a packed file needs a decoder to show how its text begins.
    head = head_of(path)
    return open_text(path).pread(HEAD_BYTES, 0) if head.startswith((GZIP, ZSTD)) else head


# Of what libsndfile and FFmpeg are let read (`audio/`), a line for each container; not those that mostly name something
# else (.mat, .htk, .dat), nor headerless sound, whose rate nobody knows (.raw, .pcm). By hand: the libraries list their
# own, which are here too, but those of phones, cameras and shops are not among them.
ENDINGS = frozenset((
    ".wav", ".wave", ".bwf", ".rf64", ".w64",
    ".flac", ".fla", ".wv", ".tta", ".ape", ".mac",
    ".mp3", ".mp2", ".mp1", ".mpga", ".mpa", ".m2a", ".aac", ".adts", ".ac3", ".eac3", ".ec3",
    ".ogg", ".oga", ".ogv", ".ogx", ".ogm", ".opus", ".spx",
    ".mp4", ".m4a", ".m4b", ".m4p", ".m4r", ".m4v", ".mov", ".qt", ".f4v", ".f4a", ".f4p", ".mj2", ".psp", ".lrv",
    ".3gp", ".3gpp", ".3g2", ".3gp2", ".3gpp2", ".3ga", ".ism", ".isma", ".ismv",
    ".webm", ".weba", ".mkv", ".mka", ".mk3d",
    ".asf", ".wma", ".wmv", ".wm", ".avi", ".divx", ".flv",
    ".ts", ".mts", ".m2t", ".m2ts", ".tod", ".trp", ".mpg", ".mpeg", ".mpe", ".mod", ".m2p", ".vob",
    ".aif", ".aiff", ".aifc", ".afc", ".caf", ".au", ".snd", ".sph", ".nist", ".voc", ".amr", ".awb", ".g722",
    ".ircam", ".sf", ".paf", ".fap", ".pvf", ".avr", ".sds", ".svx", ".8svx", ".wve",
))  # fmt: skip


def is_audio(name: str) -> bool:
    """By its ending; hidden files (`._a.wav` of a Mac) are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in ENDINGS and not base.startswith(".")


def walk_files(folder: str) -> Iterator[str]:
    """Files in a folder and all below it, without hidden ones; paths relative to the folder, in no order.

    Links are followed, but not into a folder that the link is in. A folder with two names is two folders, as to `find
    -L`: else the one that came first would decide what its files are called.

    Raises:
        ManifestError: a folder cannot be read.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        inner, above = waiting.pop()
        path = os.path.join(folder, inner)
        try:
            state = os.stat(path)
            if (state.st_dev, state.st_ino) in above:
                continue
            with os.scandir(path) as entries:
                found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
        except OSError as e:
            path, fix = e.filename or path, "give permission, or a glob that leaves it out"
            if e.errno == errno.ELOOP:
                fix = "remove the link, which leads to itself, or give a glob that leaves it out"
            raise ManifestError(f"{path}: cannot be read: {e.strerror}; {fix}") from e
        above |= {(state.st_dev, state.st_ino)}
        for name, is_folder in found:
            if is_folder:
                waiting.append((os.path.join(inner, name), above))
            else:
                yield os.path.join(inner, name)


class Names:
    """A list of strings at their own length and 8 bytes each."""

    def __init__(self, names: Iterable[str] = ()):
        self._bytes, self._ends = bytearray(), array("Q")
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        self._bytes += os.fsencode(name)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self._ends):
            raise IndexError(index)
        return os.fsdecode(bytes(self._bytes[self._ends[index - 1] if index else 0 : self._ends[index]]))


# The hub's names: split, number, of how many, and a hash that some have.
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")
_SHOWN_SHARDS = 5


def shard_of(path: str) -> tuple[str, int, int] | None:
    """(split, number from 0, how many); None when the file is not called like a shard."""
    match = _SHARD.fullmatch(os.path.splitext(os.path.basename(path))[0])
    return (match[1], int(match[2]), int(match[3])) if match else None


def check_shards(what: str, files: Iterable[str]) -> bool:
    """Makes sure that the shards of one split are all there: one that is not would be rows lost without a word.

    Args:
        what: the data set and split, for messages.

    Returns:
        False when the files are not called like shards, which leaves open whether any is missing.

    Raises:
        ManifestError: some are missing, or there are those of two downloads.
    """
    shards = [shard_of(file) for file in files]
    if not shards or None in shards:
        return False
    totals = sorted({total for _, _, total in shards})
    # Shards of two downloads in one folder: read together, rows would come twice.
    if len(totals) > 1:
        found = " and ".join(f"of {total}" for total in totals)
        raise ManifestError(f"{what} is there in shards {found}; keep those of one, or give a glob of them")
    if missing := sorted(set(range(totals[0])) - {number for _, number, _ in shards}):
        names = first_of([f"{number:05}" for number in missing], _SHOWN_SHARDS)
        fix = "fetch them, or give one file to run it alone"
        raise ManifestError(f"{what}: {len(missing)} of {totals[0]} shards are missing ({names}); {fix}")
    if len(shards) > totals[0]:
        raise ManifestError(f"{what}: {len(shards)} files for {totals[0]} shards; remove those of another download")
    return True


# The ending of what is read, by format. A Kaldi folder, a copy of the hub's and save_to_disk say themselves what is
# theirs.
_ENDINGS = {"parquet": ".parquet", "arrow": ".arrow", "webdataset": ".tar", "nemo-tar": ".tar", "folder": "audio"}
JSONL_ENDINGS = (".jsonl", ".json", ".ndjson", ".manifest")
_NUMBERED = re.compile(r"(.*?)(\d+)\.[^.]*", re.DOTALL)
_SHOWN = 3


def check_alone(folder: str, name: str) -> None:
    """Makes sure that a folder holds nothing that would be left out when it is read as that format.

    Raises:
        ManifestError: it also holds files of another kind, or of the same kind in folders below, or tars a list of
            their members.
    """
    if name not in _ENDINGS:
        return
    if name == "webdataset" and (lists := [each for each in sorted(os.listdir(folder)) if _is_list(folder, each)]):
        fix = f"give that with --tars '{os.path.join(folder, '*.tar')}', or say --format webdataset"
        found = f"a list of audio ({first_of(lists, _SHOWN)})"
        raise ManifestError(f"{folder}: would be read as {name}, and also holds {found}; {fix}")
    left: defaultdict[str, list[str]] = defaultdict(list)
    for file in walk_files(folder):
        kind = "audio" if is_audio(file) else os.path.splitext(file)[1]
        is_ours = kind == _ENDINGS[name]
        # A list of NeMo says which tars it means, and audio is read in all folders.
        is_read = is_ours and (name in ("folder", "nemo-tar") or not os.path.dirname(file))
        if kind in _ENDINGS.values() and not is_read and os.path.basename(file)[0] != "_":
            left[f"{kind}, in folders below" if is_ours else kind].append(file)
    for kind, files in sorted(left.items()):
        fix = "give a glob of what is meant, or say with --format which to read"
        found = f"{kind} ({len(files)}: {first_of(sorted(files), _SHOWN)})"
        raise ManifestError(f"{folder}: would be read as {name}, and also holds {found}; {fix}")


def check_numbers(folder: str, files: Iterable[str]) -> None:
    """Makes sure that no number is left out among files that count: a gap is a file that was not copied.

    Files count when fewer numbers are missing between the first and the last of one beginning than are there; dates do
    not.

    Raises:
        ManifestError: there is a gap.
    """
    series: defaultdict[str, dict[int, int]] = defaultdict(dict)
    shards: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        if shard := shard_of(file):
            shards[shard[0]].append(file)
        elif match := _NUMBERED.fullmatch(os.path.basename(file)):
            series[match[1]][int(match[2])] = len(match[2]) if match[2].startswith("0") else 0
    for split, each in sorted(shards.items()):
        check_shards(f"{folder}: {split}", each)
    for beginning, widths in sorted(series.items()):
        first, last = min(widths), max(widths)
        num_missing = last - first + 1 - len(widths)
        # Dates and ids leave more numbers out than they use; they do not count.
        if 0 < num_missing < len(widths):
            missing = [number for number in range(first, last + 1) if number not in widths]
            shown = first_of([f"{beginning}{number:0{widths[first]}}" for number in missing], _SHOWN)
            fix = "fetch them, or give a glob to read what is there"
            problem = f"{num_missing} of {last - first + 1} numbered files are missing ({shown})"
            raise ManifestError(f"{folder}: {problem}; {fix}")


def _is_list(folder: str, name: str) -> bool:
    """Whether it lists audio as NeMo does, and is no run's own file."""
    path = os.path.join(folder, name)
    if name.startswith(".") or not bare_name(name).endswith(JSONL_ENDINGS) or not os.path.isfile(path):
        return False
    # The rows file of a run lists audio too, and so does what it kept of standard input; neither is a manifest of these
    # tars.
    run = RunPaths(Path(path.removesuffix(".jsonl").removesuffix(".manifest") + ".jsonl"))
    return not run.record.exists() and b'"audio_filepath"' in unpacked_head(path)
