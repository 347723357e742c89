"""Opening tars: NeMo's, whose members a manifest names, and WebDataset's. Each returns None for what is not its own."""

import glob
import os
import re

from .columns import Columns
from .errors import ManifestError, UsageError
from .folder_contents import check_numbers
from .formats_text import is_jsonl, join, open_texts
from .manifest_heads import bare_name
from .manifest_jsonl import JsonlReader
from .manifest_scan import Reader
from .manifest_sources import Source, choose_split, expand
from .manifest_tar import NemoMembers, WebDatasetReader
from .remote import is_remote

_NEMO_MANIFEST = "tarred_audio_manifest.json"


def open_nemo_tars(source: Source) -> Reader | None:
    tars, manifest = source.options.tars, os.path.join(source.path, _NEMO_MANIFEST)
    if not os.path.isfile(manifest) if source.is_folder else tars is None:
        return None
    if not source.is_folder and source.format is None and not (source.files and is_jsonl(source.files[0])):
        return None  # so that --tars is refused for what it is
    if source.is_folder:
        source = Source(source.path, (manifest,), source.options)
    if tars is not None:
        paths = _in_order(tars)
        if not paths:
            raise ManifestError(f"--tars {tars}: no file matches; give a path, a glob, a list or an _OP_0..7_CL_ pattern")
    else:
        paths = sorted((os.path.join(source.path, n) for n in os.listdir(source.path) if n.endswith(".tar")), key=_by_numbers)
        if not paths:
            raise ManifestError(f"{source.path}: has a {_NEMO_MANIFEST} and no tars; name them with --tars")
        check_numbers(source.path, paths)
    choose_split(source.path, [], source.options.split)
    members, columns = NemoMembers(paths), Columns(source.options)
    check, locate = members.check, members.locate
    return join(source, [JsonlReader(text, "", columns, check=check, locate=locate) for text in open_texts(source)])


def open_webdataset(source: Source) -> Reader | None:
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
        raise UsageError(f"--audio-column {name}: the audio of {source.path} is a member of its tars, known by its ending; {fix}")
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
