"""What tables and the page say of a score in the same words, made of the metrics that `--json` prints."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from asrbatch.config import descriptor_of
from asrbatch.storage.files import STANDARD_INPUT

MOST_GROUPS = 50  # of a field: as many as a person reads


def largest_groups(groups: dict[str, Any], most: int = MOST_GROUPS) -> dict[str, Any]:
    """The groups with the most rows, in their order; of few rows a rate says little."""
    shown = set(sorted(groups, key=lambda value: -groups[value]["rows"])[:most])
    return {value: group for value, group in groups.items() if value in shown}


def short_names(paths: Sequence[Path]) -> list[str]:
    """What files of predictions are called beside each other: their names without ending, and as many folders before
    these as tell them apart."""
    parts = [_parts(path) for path in paths]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of_path[-number:]) for of_path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _parts(path: Path) -> tuple[str, ...]:
    if (descriptor := descriptor_of(str(path))) is not None:
        return (str(path) if descriptor else STANDARD_INPUT,)
    return path.with_name(path.name.removesuffix(".jsonl") or path.name).parts[1:]


def normalizer_lines(metrics: dict[str, Any]) -> Iterable[str]:
    """By version and digest: what was scored by other rules is not to be compared."""
    return (f"{each['name']} ({each['version']}, {each['sha256'][:12]})" for each in metrics["normalizers"])


def aligner_line(metrics: dict[str, Any]) -> str:
    """What counted words."""
    words = metrics["words"]
    return f"{words['name']} {words['version']}{', compounds merged' if words['merge_compounds'] else ''}"


def interval_text(bounds: list[float] | None, sign: str = "") -> str:
    """`1.00 to 2.00`.

    Args:
        sign: `+` for a difference.
    """
    return "" if bounds is None else " to ".join(f"{bound:{sign}.2f}" for bound in bounds)
