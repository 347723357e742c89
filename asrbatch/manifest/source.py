"""What one argument names: a file, a folder, a URL, a data set of the Hugging Face hub, a pattern or list of files.

A source may be written down: a small TOML file says in place of a manifest what to read, and how.

    source = "hf://hf-audio/esb-datasets-test-only-sorted"
    config = "librispeech"
    split = "test.clean"

Knows names, and options by their names; nothing about any format, and reads nothing but such a TOML file.
"""

import glob
import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from asrbatch.config import SourceOptions, descriptor_of
from asrbatch.errors import ManifestError, UsageError
from asrbatch.formatting import first_of, show
from asrbatch.options import flag
from asrbatch.storage.filenames import expand_home, find_file, forms_of
from asrbatch.storage.remote import absolute, is_remote, list_remote, scheme_of

# NeMo's `audio__OP_0..127_CL_.tar`, also written `audio_{0..127}.tar`.
_RANGE = re.compile(r"(?:_OP_|\{)(\d+)\.\.(\d+)(?:_CL_|\})")
_MOST_FILES, _MOST_SHOWN = 1_000_000, 10


@dataclass(frozen=True)
class ManifestSource:
    """One argument.

    Attributes:
        path: absolute path, glob, pattern or URL; for messages.
        files: what it names, in order: absolute paths or URLs. A folder is one of them, itself. Empty when nothing
            matches.
        options: how to read it.
    """

    path: str
    files: tuple[str, ...]
    options: SourceOptions

    @property
    def is_one(self) -> bool:
        return self.files == (self.path,)

    @property
    def is_folder(self) -> bool:
        return self.is_one and os.path.isdir(self.path)


def expand(given: str) -> list[str]:
    """The files that a path, list, glob or `_OP_0..7_CL_` pattern names, as absolute paths or URLs; none if none match.

    Numbers of a pattern come in their order and globs in that of the names. A file that is called like a pattern is
    itself.

    Raises:
        ManifestError: of a list or a pattern of numbers, a file is missing.
    """
    path = find_file(absolute(given))
    if is_remote(given):
        if match := _RANGE.search(given):
            return _numbered(given, match)
        return list_remote(given) if glob.has_magic(given.partition("?")[0]) and "?" not in given else [given]
    # A file may be called like a pattern: what is there counts before what the name could mean.
    if os.path.lexists(path):
        return [path]
    if match := _RANGE.search(path):
        return [file for name in _numbered(path, match) for file in _must_be_there(name, path)]
    if "," in given:
        return [file for part in filter(None, map(str.strip, given.split(","))) for file in _must_be_there(part, given)]
    if not glob.has_magic(path):
        return []
    return sorted({file for each in forms_of(path) for file in glob.iglob(each, recursive=True)})


def _numbered(path: str, match: re.Match[str]) -> list[str]:
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= _MOST_FILES:
        raise ManifestError(f"{path}: {match[0]} must count upwards, at most {_MOST_FILES} files")
    # Padded with zeros where the first number is: `{000..127}`.
    width = len(match[1]) if match[1].startswith("0") and len(match[1]) > 1 else 0
    return [f"{path[: match.start()]}{number:0{width}}{path[match.end() :]}" for number in range(first, last + 1)]


def _must_be_there(name: str, of: str) -> list[str]:
    files = expand(name)
    if not files:
        raise ManifestError(f"{of}: names {name}, which does not exist; correct the list, or fetch the file")
    return files


def common_folder(files: list[str]) -> str:
    """The folder, or URL, that all of them are in."""
    if is_remote(files[0]):
        return "/".join(os.path.commonprefix([file.split("/")[:-1] for file in files]))
    return os.path.commonpath([os.path.dirname(file) for file in files])


def choose_split(path: str, splits: Iterable[str], split: str | None) -> str | None:
    """The split to read; None if the source knows of none. Raises ManifestError."""
    splits = list(splits)
    found = first_of(splits, _MOST_SHOWN)
    if split is None:
        if len(splits) > 1:
            raise ManifestError(f"{path}: holds several splits ({found}); choose one with --split")
        return splits[0] if splits else None
    if not splits:
        raise ManifestError(f"{path}: has no splits, so --split {split} means nothing; leave it out")
    if split not in splits:
        raise ManifestError(f"{path}: has no split {show(split)}; there is {found}")
    return split


PREFIX = "hf://"
_DATA_SET = re.compile(r"hf://(?:datasets/)?([\w.-]+(?:/[\w.-]+)?)(?:@(refs/\w+/[\w.-]+|[^/@]+))?")


def is_data_set(given: str) -> bool:
    """Whether it names a data set, `hf://NAME` or `hf://NAME@REVISION`, and not a file in one."""
    return _DATA_SET.fullmatch(given) is not None


def parse_name(given: str) -> tuple[str, str | None]:
    """(name, revision) of what `is_data_set`."""
    match = _DATA_SET.fullmatch(given)
    return match[1], match[2]


ENDING = ".toml"
# Not --allow-pipes: whether commands are run is for whoever starts the run to say.
_NO_KEYS = ("audio_folder", "allow_pipes", "on_bad_row")
_KEYS = {
    flag(each).removeprefix("--").replace("-", "_"): each for each in fields(SourceOptions) if each.name not in _NO_KEYS
}


def is_source_file(given: str) -> bool:
    return given.endswith(ENDING) and os.path.isfile(given)


def names_data_set(given: str) -> bool:
    """Whether it is a data set on the hub, or a source file that names one. One that cannot be read names none."""
    if is_source_file(given):
        try:
            given = read_source_file(given, SourceOptions())[0]
        except ManifestError:
            return False
    return is_data_set(given)


def read_source_file(path: str, options: SourceOptions) -> tuple[str, SourceOptions]:
    """What a source file names, a relative path being relative to it, and how to read that.

    Args:
        options: given beside it; they may add to what the file says, not contradict it.

    Raises:
        ManifestError: it cannot be read, or says what it cannot say.
        UsageError: an option contradicts it.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    # UnicodeDecodeError and TOMLDecodeError are ValueErrors; brackets nested some hundreds deep raise RecursionError.
    except (OSError, ValueError, RecursionError) as e:
        raise ManifestError(f"{path}: cannot be read as TOML: {e}") from e
    source = values.pop("source", None)
    if type(source) is not str or not source or descriptor_of(source) is not None or source.endswith(ENDING):
        problem = 'must name what to read, such as "hf://owner/name" or a path'
        raise ManifestError(f"{path}: source = {show(source)}: {problem}")
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in _KEYS:
            raise ManifestError(f"{path}: {key}: is none of source, {', '.join(_KEYS)}; remove it")
        # TOML tells a string from a number: `split = 1` would otherwise become a split that is called 1.
        option = _KEYS[key]
        if type(value) is not (bool if option.type is bool else str):
            kind = "true or false" if option.type is bool else "a string"
            raise ManifestError(f"{path}: {key} = {show(value)}: must be {kind}")
        # An option may repeat what the file says, or add to it. Which of two would win, nobody should have to know.
        given = getattr(options, option.name)
        if given not in (None, False, value):
            fix = "leave it out, or change the file"
            raise UsageError(f"{flag(option)} {given}: {path} says {key} = {show(value)}; {fix}")
        changes[option.name] = value
    # So that the file and what it names can be moved together.
    if scheme_of(source) is None:
        source = os.path.join(os.path.dirname(absolute(path)), expand_home(source))
    return source, replace(options, **changes)
