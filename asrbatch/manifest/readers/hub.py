"""Data sets of the Hugging Face hub, and folders that are copies of one: which files hold the rows of a split.

Configurations and splits are found by `datasets`, from the data set's card or the names of its files; its loading,
which copies all audio into a cache of its own, is not used. The files found are read as those of any other source."""

import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError
from asrbatch.formatting import first_of, one_line, show, show_text
from asrbatch.manifest.readers.base import Reader
from asrbatch.manifest.readers.columnar import table_reader
from asrbatch.manifest.readers.csv import CSV
from asrbatch.manifest.readers.jsonl import JSONL
from asrbatch.manifest.readers.sniff import check_shards
from asrbatch.manifest.readers.webdataset import open_webdataset
from asrbatch.manifest.source import PREFIX, ManifestSource, choose_split, is_data_set, parse_name

_TIMEOUT_S = 20.0
_MOST_SHOWN = 10
# What else data files may be, by the name of the module in datasets.
_OTHER_KINDS: dict[str, tuple[str, Callable[[ManifestSource], Reader | None]]] = {
    "json": ("jsonl", JSONL.open),
    "csv": ("csv", CSV.open),
    "webdataset": ("webdataset", open_webdataset),
}


def open_hub(source: ManifestSource) -> Reader | None:
    """A data set on the hub, or a folder that is a copy of one."""
    if is_data_set(source.path):
        found = find_on_hub(source.path, source.options)
    elif source.is_folder and is_copy(source.path):
        if source.options.streaming:
            problem = "--streaming is for data sets on the hub; this one is here already"
            raise ManifestError(f"{source.path}: {problem}, leave it out")
        found = _find(source.path, source.path, None, source.options, folder=source.path)
    else:
        return None
    reader = _read(found, source.options)
    if reader is None and found.folder == found.source and source.options.format is None:
        return None  # a folder here: perhaps one of audio
    if reader is None:
        problem = f"holds files that datasets reads as {found.kind}, which is not supported"
        fix = "the hub keeps most data sets as Parquet as well: add @refs/convert/parquet to the name"
        raise ManifestError(f"{found.source}: {problem}; {fix}")
    if None not in (found.num_rows, reader.num_rows) and reader.num_rows != found.num_rows:
        problem = f"its card says that {found.split} has {found.num_rows} rows, its files hold {reader.num_rows}"
        raise ManifestError(f"{found.source}: {problem}; fetch it again, or give the files themselves to run those")
    return reader


def _read(found: "HubFiles", options: SourceOptions) -> Reader | None:
    """None where no reader of ours is for files of that kind."""
    format, open_files = _OTHER_KINDS.get(found.kind, (None, None))
    options = replace(options, format=format, split=None, audio_folder=found.folder)
    source = ManifestSource(found.source, found.files, options)
    if found.kind in ("parquet", "arrow"):
        return table_reader(source, found.kind, list(found.files), found.split, found.folder)
    return open_files and open_files(source)


@dataclass(frozen=True)
class HubFiles:
    """The files of one split.

    Attributes:
        source: what to call it in messages, with the commit where it came from the hub.
        kind: the module of `datasets` that reads it: `parquet`, `json`, `csv`, `arrow`, `webdataset`, …
        split: its name.
        files: local paths or URLs, in order.
        folder: what relative audio paths are relative to; a folder or a URL.
        num_rows: as the card says; None where it does not.
    """

    source: str
    kind: str
    split: str
    files: tuple[str, ...]
    folder: str
    num_rows: int | None


def is_copy(folder: str) -> bool:
    """Whether a folder has a data set card that says where its rows are."""
    try:
        with open(os.path.join(folder, "README.md"), encoding="utf-8", errors="replace") as file:
            card = file.read(1 << 20)
    except OSError:
        return False
    front = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    return front is not None and re.search(r"^(configs|dataset_info):", front[1], re.MULTILINE) is not None


def find_on_hub(given: str, options: SourceOptions) -> HubFiles:
    """The files of `hf://NAME[@REVISION]`: fetched into the hub's cache, or URLs when `options.streaming`.

    Without a network, the cache is used where its copy can be proved whole.

    Raises:
        ManifestError: there is no such data set, configuration or split, the hub does not answer, or a file is missing.
    """
    name, revision = parse_name(given)
    # Everything after this is of one commit: files of two revisions cannot be mixed when the data set is pushed
    # meanwhile.
    commit = _commit(name, revision)
    if commit is None:
        return _find_in_cache(given, name, revision, options)
    source = f"{PREFIX}{name}@{commit}"
    found = _find(source, name, commit, options, folder=f"{PREFIX}datasets/{name}@{commit}")
    if options.streaming:
        return found
    return replace(found, files=_fetch(found, name, commit, revision))


def _find(
    source: str,
    path: str,
    commit: str | None,
    options: SourceOptions,
    *,
    folder: str,
    patterns: dict[str, list[str]] | None = None,
) -> HubFiles:
    """The files of a split; `patterns` are those of its files, where those of other splits need not be there."""
    import datasets

    try:
        configs = datasets.get_dataset_config_names(path, revision=commit, data_files=patterns)
        config = _choose_config(source, configs, options.dataset_config)
        builder = datasets.load_dataset_builder(path, config, revision=commit, data_files=patterns)
    except ManifestError:
        raise
    except Exception as e:  # datasets, its hub library and fsspec each have errors of their own for what does not fit
        raise ManifestError(f"{source}: its files cannot be found: {one_line(e)}") from e
    of_split = {str(split): tuple(map(str, files)) for split, files in (builder.config.data_files or {}).items()}
    if not of_split:
        raise ManifestError(f"{source}: {config}: names no data files; give the files themselves")
    split = choose_split(source, of_split, options.split)
    # A card may state how many rows there are; then a missing file is noticed by the count as well.
    stated = (builder.info.splits or {}).get(split)
    kind = builder.__module__.rpartition(".")[2]
    files = of_split[split]
    check_shards(f"{source}: {split}", files)
    _check_whole(source, files)
    return HubFiles(source, kind, split, files, folder, stated.num_examples if stated else None)


def _choose_config(source: str, configs: list[str], config: str | None) -> str:
    if config is None and ("default" in configs or len(configs) == 1):
        return "default" if "default" in configs else configs[0]
    if config in configs:
        return config
    names = first_of(configs, _MOST_SHOWN)
    if config is None:  # datasets would take the first
        raise ManifestError(f"{source}: has several configurations ({names}); choose one with --config")
    raise ManifestError(f"{source}: has no configuration {show(config)}; there is {names}")


def _check_whole(source: str, files: tuple[str, ...]) -> None:
    """The hub converts the first 5 GB of a data set only, and says so in the name of a folder."""
    if part := next((file for file in files if os.path.basename(os.path.dirname(file)).startswith("partial-")), None):
        name = "/".join(part.split("/")[-2:])
        problem = f"is only a part of the data set ({show_text(name)}): the hub converts the first 5 GB"
        raise ManifestError(f"{source}: {problem}; give the data set itself, or that folder's files to run the part")


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that is meant; None when the hub does not answer. Raises ManifestError: it has no such data set."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT_S).sha
    except errors.RevisionNotFoundError as e:
        raise ManifestError(f"{PREFIX}{name}: has no revision {show(revision)}; correct it, or leave it out") from e
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as e:
        fix = "correct the name (owner/name), or log in with `hf auth login`"
        raise ManifestError(f"{PREFIX}{name}: the hub has no such data set, or it is private; {fix}") from e
    except Exception:  # no network, no answer in time, HF_HUB_OFFLINE: each library in between has its own
        return None


def _find_in_cache(given: str, name: str, revision: str | None, options: SourceOptions) -> HubFiles:
    import huggingface_hub

    why = "HF_HUB_OFFLINE is set" if huggingface_hub.constants.HF_HUB_OFFLINE else "no answer from the network"
    fetch = f"fetch it where there is a network (hf download --repo-type dataset {name} --local-dir DIR) and give DIR"
    try:
        # The card alone: a cache with one split is complete for those who want that one.
        folder = huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=revision, local_files_only=True, allow_patterns="README.md"
        )
    except Exception as e:
        problem = f"the Hugging Face hub cannot be reached ({why}), and its cache here lacks the data set"
        raise ManifestError(f"{given}: {problem}; {fetch}") from e
    source = f"{PREFIX}{name}@{os.path.basename(folder)}"
    try:
        found = _find(source, folder, None, options, folder=folder, patterns=_patterns_of_split(folder, options))
    except ManifestError as e:
        e.add_note(f"{given}: the Hugging Face hub cannot be reached ({why}); its cache was looked at; else {fetch}")
        raise
    # A cache holds what was fetched so far: without a count or numbered shards, half a data set looks like a small
    # one.
    if found.num_rows is None and not check_shards(given, found.files):
        problem = (
            f"the Hugging Face hub cannot be reached ({why}), and it is unknown whether its cache here is complete"
        )
        raise ManifestError(f"{given}: {problem}; {fetch}")
    return found


def _patterns_of_split(folder: str, options: SourceOptions) -> dict[str, list[str]] | None:
    """What the card says of the split to read: `datasets` would want the files of all, and of the first
    configuration. None where it says nothing, or no split was given."""
    import huggingface_hub
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs

    try:
        card = huggingface_hub.DatasetCard.load(os.path.join(folder, "README.md")).data
        configs = MetadataConfigs.from_dataset_card_data(card)
        config = options.dataset_config or ("default" if "default" in configs else next(iter(configs)))
        if options.dataset_config is None and len(configs) > 1 and config != "default":
            return None  # to be chosen first
        patterns = sanitize_patterns(configs[config]["data_files"])
    except Exception:  # a card that does not fit: `_find` says what is wrong with it
        return None
    return {options.split: patterns[options.split]} if options.split in patterns else None


def _fetch(found: HubFiles, name: str, commit: str, revision: str | None) -> tuple[str, ...]:
    """The split's files in the hub's cache."""
    import huggingface_hub

    inside = [file.removeprefix(f"{found.folder}/") for file in found.files]
    wanted = [glob.escape(file) for file in (*inside, "README.md")]
    try:
        # By its name, so that the cache knows the name without a network too; by its commit where it has just moved on.
        for each in (revision, commit):
            folder = huggingface_hub.snapshot_download(name, repo_type="dataset", revision=each, allow_patterns=wanted)
            if os.path.basename(folder) == commit:
                break
    except Exception as e:
        fix = "run the same command again to continue; a gated one needs its terms accepted, and `hf auth login`"
        raise ManifestError(f"{found.source}: could not be fetched: {one_line(e)}; {fix}") from e
    # `snapshot_download` says nothing about a pattern that matched nothing.
    files = tuple(os.path.join(folder, file) for file in inside)
    if missing := [file for file in files if not os.path.isfile(file)]:
        raise ManifestError(f"{found.source}: {missing[0]} was not fetched; run the same command again")
    return files
