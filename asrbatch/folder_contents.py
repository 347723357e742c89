"""What a folder holds beside the files it is read as: rows of another kind would be lost without a word.

Goes by names, and by the first line of what may be a manifest. Knows nothing of readers.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable

from .audio_names import is_audio, walk_files
from .errors import ManifestError
from .manifest_heads import bare_name, unpacked_head
from .manifest_shards import check_shards, shard_of

# The ending of what is read, by format. A Kaldi folder, a copy of the hub's and save_to_disk say themselves what is theirs.
_ENDINGS = {"parquet": ".parquet", "arrow": ".arrow", "webdataset": ".tar", "nemo-tar": ".tar", "folder": "audio"}
_LISTS = (".json", ".jsonl", ".ndjson", ".manifest")
_NUMBERED = re.compile(r"(.*?)(\d+)\.[^.]*", re.DOTALL)
_SHOWN = 3


def check_alone(folder: str, name: str) -> None:
    """Makes sure that a folder holds nothing that would be left out when it is read as that format, unless it was asked for.

    Raises:
        ManifestError: it also holds files of another kind, or of the same kind in folders below, or tars a list of their members.
    """
    if name not in _ENDINGS:
        return
    if name == "webdataset" and (lists := [each for each in sorted(os.listdir(folder)) if _is_list(folder, each)]):
        fix = f"give that with --tars '{os.path.join(folder, '*.tar')}', or say --format webdataset"
        raise ManifestError(f"{folder}: would be read as {name}, and also holds a list of audio ({_shown(lists)}); {fix}")
    left: defaultdict[str, list[str]] = defaultdict(list)
    for file in walk_files(folder):
        kind = "audio" if is_audio(file) else os.path.splitext(file)[1]
        is_ours = kind == _ENDINGS[name]
        is_read = is_ours and (name in ("folder", "nemo-tar") or not os.path.dirname(file))  # a list says which tars it means
        if kind in _ENDINGS.values() and not is_read and os.path.basename(file)[0] != "_":
            left[f"{kind}, in folders below" if is_ours else kind].append(file)
    for kind, files in sorted(left.items()):
        fix = "give a glob of what is meant, or say with --format which to read"
        found = f"{kind} ({len(files)}: {_shown(sorted(files))})"
        raise ManifestError(f"{folder}: would be read as {name}, and also holds {found}; {fix}")


def check_numbers(folder: str, files: Iterable[str]) -> None:
    """Makes sure that no number is left out among files that count: a gap is a file that was not copied.

    Files count when fewer numbers are missing between the first and the last of one beginning than are there; dates do not.

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
        if 0 < num_missing < len(widths):
            missing = [number for number in range(first, last + 1) if number not in widths]
            shown = ", ".join(f"{beginning}{number:0{widths[first]}}" for number in missing[:_SHOWN])
            fix = "fetch them, or give a glob to read what is there"
            more = ", …" if num_missing > _SHOWN else ""
            raise ManifestError(
                f"{folder}: {num_missing} of {last - first + 1} numbered files are missing ({shown}{more}); {fix}"
            )


def _is_list(folder: str, name: str) -> bool:
    """Whether it lists audio as NeMo does, and is no run's own file."""
    path = os.path.join(folder, name)
    if name.startswith(".") or not bare_name(name).endswith(_LISTS) or not os.path.isfile(path):
        return False
    of_run = path.removesuffix(".jsonl").removesuffix(".manifest") + ".run.json"
    return not os.path.exists(of_run) and b'"audio_filepath"' in unpacked_head(path).partition(b"\n")[0]


def _shown(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
