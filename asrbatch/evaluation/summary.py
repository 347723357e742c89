"""What tables and the page say of a score in the same words, made of the metrics that `--json` prints."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asrbatch.config import descriptor_of
from asrbatch.formatting import counted
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


def compared_units(total: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What two runs are compared in, with its metrics: words, and characters where rows have no words."""
    if total["wer"]["rows"]:
        yield "words", total["wer"]
    if total["cer"]["rows"] > total["wer"]["rows"]:
        yield "characters", total["cer"]


def difference_text(of: dict[str, Any], unit: str) -> str:
    """`B makes 3 fewer errors than A (…); the difference may be chance (…)`.

    Args:
        of: of `paired_rates`, with a p-value.
        unit: what errors are counted in.
    """
    more = of["errors_b"] - of["errors_a"]
    if not more:
        return f"B makes as many errors as A: {of['errors_a']:,} of {of['reference']:,} {unit}"
    fewer = counted(abs(more), "fewer error" if more < 0 else "more error")
    both = f"{of['errors_b']:,} against {of['errors_a']:,}, of {of['reference']:,} {unit}"
    return f"B makes {fewer} than A ({both}); {chance_text(of)}"


def chance_text(of: dict[str, Any]) -> str:
    """Whether a difference may be chance, and why. See `difference_text`."""
    found = "is significant" if of["significant"] else "may be chance"
    why = f"p {p_text(of['p_value'])}, permutation of rows"
    if (bounds := of["delta_points_interval"]) is not None:
        contains = bounds[0] <= 0 <= bounds[1]
        # With few rows that differ, the interval and p may disagree.
        although = "although " if contains == of["significant"] else ""
        why += f"; {although}the interval {'contains' if contains else 'does not contain'} 0"
    return f"the difference {found} ({why})"


def p_text(p_value: float) -> str:
    """`= 0.63`. Never 0, which would claim certainty."""
    return f"= {p_value:.2g}" if p_value >= 0.0001 else "< 0.0001"
