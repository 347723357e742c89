"""Names of shards, `train-00003-of-00008.parquet`: what they belong to, and whether all of them are there."""

import os
import re
from collections.abc import Iterable

from .errors import ManifestError

# The hub's names: split, number, of how many, and a hash that some have.
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")
_SHOWN = 5


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
    if len(totals) > 1:
        found = " and ".join(f"of {total}" for total in totals)
        raise ManifestError(f"{what} is there in shards {found}; keep those of one, or give a glob of them")
    if missing := sorted(set(range(totals[0])) - {number for _, number, _ in shards}):
        names = ", ".join(f"{number:05}" for number in missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        fix = "fetch them, or give one file to run it alone"
        raise ManifestError(f"{what}: {len(missing)} of {totals[0]} shards are missing ({names}); {fix}")
    if len(shards) > totals[0]:
        raise ManifestError(f"{what}: {len(shards)} files for {totals[0]} shards; remove those of another download")
    return True
