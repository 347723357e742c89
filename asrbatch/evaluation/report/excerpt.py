"""What a page shows of an alignment: all of a short one, of a long one the errors with some words around each.

Knows nothing of rows and HTML.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from asrbatch.formatting import shorten

KINDS = {"equal": 0, "substitute": 1, "delete": 2, "insert": 3, "gap": 4}
MOST_UNITS = 800  # of both texts together; some minutes of speech
_AROUND = 12  # units beside an error
_MOST_IN_ONE = 100  # units of one error
_short = partial(shorten, limit=100)  # a unit


class Excerpt(NamedTuple):
    """What is shown.

    Attributes:
        reference, hypothesis: units.
        pieces: (kind, units of the reference, units of the hypothesis), as `alignment` has them, and `gap` for what is
            left out.
        places: for each piece, where in all units of the hypothesis it begins.
    """

    reference: list[str]
    hypothesis: list[str]
    pieces: list[tuple[str, int, int]]
    places: list[int]


def excerpt(
    reference: Sequence[str], hypothesis: Sequence[str], pieces: Iterable[tuple[str, int, int]], most: int = MOST_UNITS
) -> Excerpt:
    """Shortens an alignment of more than `most` units: long stretches without an error, long errors, and what comes
    after `most`.

    Args:
        reference, hypothesis: words or characters.
        pieces: of `alignment.alignment`.
    """
    joined = _joined(pieces)
    if len(reference) + len(hypothesis) <= most:
        return _taken(reference, hypothesis, joined, most)
    # A single long error, such as a loop, must leave room for those behind it.
    most_in_one = min(_MOST_IN_ONE, max(most // 4, 1))
    parts = []
    for at, (kind, num_reference, num_hypothesis) in enumerate(joined):
        if kind == "equal" and num_reference == num_hypothesis:
            # Units are shown beside an error, and at the ends of a text there is one on one side only.
            before = _AROUND if at else 0
            after = _AROUND if at + 1 < len(joined) else 0
            gap = num_reference - before - after
            # The mark of a gap takes as much room as one unit.
            runs = [(kind, before), ("gap", gap), (kind, after)] if gap > 1 else [(kind, num_reference)]
            parts += [(run, units, units) for run, units in runs if units]
        elif max(num_reference, num_hypothesis) > most_in_one:
            shown = min(num_reference, most_in_one), min(num_hypothesis, most_in_one)
            parts += [(kind, *shown), ("gap", num_reference - shown[0], num_hypothesis - shown[1])]
        else:
            parts.append((kind, num_reference, num_hypothesis))
    return _taken(reference, hypothesis, parts, most)


def _joined(pieces: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Equal pieces that follow each other as one: an aligner may give one a word. Compounds, equal too, stay alone."""
    joined: list[tuple[str, int, int]] = []
    for is_same, run in groupby(pieces, key=lambda piece: piece[0] == "equal" and piece[1] == piece[2]):
        together = list(run)
        units = sum(number for _, number, _ in together)
        joined += [("equal", units, units)] if is_same else together
    return joined


def _taken(
    reference: Sequence[str], hypothesis: Sequence[str], parts: list[tuple[str, int, int]], most: int
) -> Excerpt:
    found = Excerpt([], [], [], [])
    at, hypothesis_at = 0, 0
    for kind, num_reference, num_hypothesis in parts:
        is_full = len(found.reference) + len(found.hypothesis) >= most
        if not (is_full and found.pieces[-1][0] == "gap"):
            found.pieces.append(("gap" if is_full else kind, num_reference, num_hypothesis))
            found.places.append(hypothesis_at)
        if not is_full and kind != "gap":
            found.reference.extend(map(_short, reference[at : at + num_reference]))
            found.hypothesis.extend(map(_short, hypothesis[hypothesis_at : hypothesis_at + num_hypothesis]))
        at, hypothesis_at = at + num_reference, hypothesis_at + num_hypothesis
    return found
