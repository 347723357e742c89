"""A source written down: a small TOML file that says in place of a manifest what to read, and how.

    source = "hf://hf-audio/esb-datasets-test-only-sorted"
    config = "librispeech"
    split = "test.clean"

Knows the options' names, and nothing about any format.
"""

import os
import tomllib
from dataclasses import replace
from typing import Any

from .errors import ManifestError, UsageError
from .hub_names import is_data_set
from .manifest_sources import absolute
from .remote import scheme_of
from .rows import show
from .source_options import SourceOptions

ENDING = ".toml"
# Key: field of the options. Not --allow-pipes: whether commands are run is for whoever starts the run to say.
_KEYS = {
    "format": "format", "config": "dataset_config", "split": "split", "streaming": "streaming", "tars": "tars",
    "audio_column": "audio_column", "text_column": "text_column", "id_column": "id_column",
}  # fmt: skip


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
            said = tomllib.load(file)
    except (OSError, ValueError) as e:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise ManifestError(f"{path}: cannot be read as TOML: {e}") from e
    source = said.pop("source", None)
    if type(source) is not str or not source or source == "-" or source.endswith(ENDING):
        raise ManifestError(f'{path}: source = {show(source)}: must name what to read, such as "hf://owner/name" or a path')
    changes: dict[str, Any] = {}
    for key, value in said.items():
        if key not in _KEYS:
            raise ManifestError(f"{path}: {key}: is none of source, {', '.join(_KEYS)}; remove it")
        if type(value) is not (bool if key == "streaming" else str):
            kind = "true or false" if key == "streaming" else "a string"
            raise ManifestError(f"{path}: {key} = {show(value)}: must be {kind}")
        given = getattr(options, _KEYS[key])
        if given not in (None, False, value):
            option = f"--{key.replace('_', '-')}"
            raise UsageError(f"{option} {given}: {path} says {key} = {show(value)}; leave it out, or change the file")
        changes[_KEYS[key]] = value
    if scheme_of(source) is None:
        source = os.path.join(os.path.dirname(absolute(path)), source)
    return source, replace(options, **changes)
