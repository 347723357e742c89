"""What a page shows of an alignment: all of a short one, of a long one the errors with some words around each.

Knows nothing of rows and HTML.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from asrbatch.formatting import shorten

KINDS = {"equal": 0, "substitute": 1, "delete": 2, "insert": 3, "gap": 4}
MOST_UNITS = 800  # of both texts together; some minutes of speech
_AROUND = 12  # units beside an error
_MOST_IN_ONE = 100  # units of one error
_UNIT_CHARS = 100


class Excerpt(NamedTuple):
    """What is shown.

    Attributes:
        reference, hypothesis: units.
        pieces: (kind, units of the reference, units of the hypothesis), as `alignment` has them, and `gap` for what is
            left out.
        places: for each piece, where in all units of the hypothesis it begins.
        is_whole: nothing was left out or cut short.
    """

    reference: list[str]
    hypothesis: list[str]
    pieces: list[tuple[str, int, int]]
    places: list[int]
    is_whole: bool


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
            parts += [piece for piece in _without_middle(kind, num_reference, before, after) if piece[1]]
        elif max(num_reference, num_hypothesis) > most_in_one:
            shown = min(num_reference, most_in_one), min(num_hypothesis, most_in_one)
            parts += [(kind, *shown), ("gap", num_reference - shown[0], num_hypothesis - shown[1])]
        else:
            parts.append((kind, num_reference, num_hypothesis))
    return _taken(reference, hypothesis, parts, most)


def _joined(pieces: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Equal pieces that follow each other as one: an aligner may give one a word. Compounds, equal too, stay alone."""
    joined: list[tuple[str, int, int]] = []
    for kind, num_reference, num_hypothesis in pieces:
        if joined and all(
            each[0] == "equal" and each[1] == each[2] for each in (joined[-1], (kind, num_reference, num_hypothesis))
        ):
            joined[-1] = kind, joined[-1][1] + num_reference, joined[-1][2] + num_hypothesis
        else:
            joined.append((kind, num_reference, num_hypothesis))
    return joined


def _without_middle(kind: str, units: int, before: int, after: int) -> list[tuple[str, int, int]]:
    # The mark of a gap takes as much room as one unit.
    if units <= before + after + 1:
        return [(kind, units, units)]
    gap = units - before - after
    return [(kind, before, before), ("gap", gap, gap), (kind, after, after)]


def _taken(
    reference: Sequence[str], hypothesis: Sequence[str], parts: list[tuple[str, int, int]], most: int
) -> Excerpt:
    shortened = any(kind == "gap" for kind, *_ in parts) or any(
        len(unit) > _UNIT_CHARS for unit in (*reference, *hypothesis)
    )
    found = Excerpt([], [], [], [], not shortened)
    at, hypothesis_at = 0, 0
    for kind, num_reference, num_hypothesis in parts:
        is_full = len(found.reference) + len(found.hypothesis) >= most
        if is_full and kind != "gap":
            found = found._replace(is_whole=False)
        if not (is_full and found.pieces[-1][0] == "gap"):
            found.pieces.append(("gap" if is_full else kind, num_reference, num_hypothesis))
            found.places.append(hypothesis_at)
        if not is_full and kind != "gap":
            found.reference.extend(shorten(unit, _UNIT_CHARS) for unit in reference[at : at + num_reference])
            found.hypothesis.extend(
                shorten(unit, _UNIT_CHARS) for unit in hypothesis[hypothesis_at : hypothesis_at + num_hypothesis]
            )
        at, hypothesis_at = at + num_reference, hypothesis_at + num_hypothesis
    return found
