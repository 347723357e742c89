"""What tables and the page say of a score in the same words, made of the metrics that `--json` prints."""

from collections.abc import Iterable
from typing import Any

MOST_GROUPS = 50  # of a field: as many as a person reads


def largest_groups(groups: dict[str, Any]) -> dict[str, Any]:
    """The groups with the most rows, in their order; of few rows a rate says little."""
    shown = set(sorted(groups, key=lambda value: -groups[value]["rows"])[:MOST_GROUPS])
    return {value: group for value, group in groups.items() if value in shown}


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
