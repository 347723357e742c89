"""Where subtitle text may be broken, how wide it is on the screen, and how it is laid out on lines.

Knows nothing of times.
"""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

# Where a cue or a line ends best, from 0 (as good as the end of the text) to 1 (as bad as between any two words).
AFTER_SENTENCE, AFTER_CLAUSE, ELSEWHERE = 0.0, 0.4, 1.0

_SENTENCE_ENDS = frozenset(".!?…。！？．؟۔।")
_CLAUSE_ENDS = frozenset(",;:、，；：،؛–—")
_CLOSERS = "\"'”’»)]」』）】"
# Small kana and marks of repetition, which begin no line (JIS X 4051), as closing punctuation does not.
_NO_BEGINNERS = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー々ゝゞヽヾ")
# Thai and Lao: vowels written before their consonant, and after it.
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
_FOLLOWING_VOWELS = frozenset("ะาำๅๆຯະາຳໆ")
# Zero-width joiner; signs by which Khmer and Burmese put a consonant below.
_JOINERS = frozenset("\u200d\u17d2\u1039")
# What Tibetan has between syllables.
_TSHEG = "\u0f0b"


class TextPiece(NamedTuple):
    """What stands between two places where a line may end.

    Attributes:
        text: no white space in it.
        width: on the screen, in narrow characters, at least 1; see `width`.
        spaced: a space stands before it.
        ending: how good it is to end a line or a cue after it: AFTER_SENTENCE, AFTER_CLAUSE or ELSEWHERE.
    """

    text: str
    width: int
    spaced: bool
    ending: float

    def width_after(self, used: int) -> int:
        """What it adds to a line that is `used` columns wide: at the start of one a space is not shown."""
        return self.width + (self.spaced and used > 0)


def width(text: str) -> int:
    """Columns on the screen: wide East Asian characters (Unicode Standard Annex 11: W, F) two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_character_width(c) for c in text)


def pieces(text: str) -> list[TextPiece]:
    """A text, on one line, as its pieces in order.

    A line may end at spaces; between Chinese and Japanese characters, but not before closing punctuation or after an
    opening one; and, for want of a dictionary of words, between the letters of scripts that set no spaces (Thai, Lao,
    Khmer, Burmese), but not inside what is written as one."""
    return [
        TextPiece(part, max(width(part), 1), number == 0, _ending(part))
        for word in text.split(" ")
        for number, part in enumerate([word] if word.isascii() else _parts(word))
    ]


def joined(some: Sequence[TextPiece]) -> str:
    """The text of consecutive pieces."""
    return "".join(f" {piece.text}" if piece.spaced else piece.text for piece in some).removeprefix(" ")


def lay_out(some: Sequence[TextPiece], max_width: int) -> tuple[str, ...]:
    """Consecutive pieces on as few lines as they need, of about one length, ended where it reads best.

    No line is wider than `max_width` but one that holds a single piece.
    """
    lines, rest = [], list(some)
    for num_lines in range(count_lines(rest, max_width), 1, -1):
        cut = _best_cut(rest, num_lines, max_width)
        lines.append(joined(rest[:cut]))
        rest = rest[cut:]
    return (*lines, joined(rest))


def count_lines(some: Sequence[TextPiece], max_width: int) -> int:
    """The fewest lines that hold the pieces."""
    lines, used = 1, 0
    for piece in some:
        used += piece.width_after(used)
        if used > max_width and used > piece.width:
            lines, used = lines + 1, piece.width
    return lines


def _best_cut(some: list[TextPiece], num_lines: int, max_width: int) -> int:
    """How many pieces the first of `num_lines` lines takes."""
    ideal = width(joined(some)) / num_lines
    best, best_cost, used = 1, float("inf"), 0
    for cut in range(1, len(some)):
        piece = some[cut - 1]
        used += piece.width_after(used)
        if cut > 1 and used > max_width:
            break
        if count_lines(some[cut:], max_width) >= num_lines:
            continue
        # A good place to end a line is worth a third of it in balance. Netflix, "Line Treatment": after punctuation.
        cost = abs(used - ideal) + piece.ending * max_width / 3
        if cost < best_cost:
            best, best_cost = cut, cost
    return best


def _ending(part: str) -> float:
    last = part.rstrip(_CLOSERS)[-1:]
    return AFTER_SENTENCE if last in _SENTENCE_ENDS else AFTER_CLAUSE if last in _CLAUSE_ENDS else ELSEWHERE


def _parts(word: str) -> list[str]:
    breaks = (at for at in range(1, len(word)) if _may_break(word[at - 1], word[at]))
    return [word[start:end] for start, end in pairwise([0, *breaks, len(word)])]


def _may_break(before: str, after: str) -> bool:
    """Whether a line may end between two characters with no space between them."""
    category = unicodedata.category(after)
    if (
        category[0] == "M"
        or category in ("Pe", "Pf", "Po", "Cf", "Sk", "Zs")
        or after in _NO_BEGINNERS
        or before in _JOINERS
    ):
        return False
    if unicodedata.category(before) in ("Ps", "Pi", "Zs"):
        return False
    if _is_spaceless(before) and _is_spaceless(after):
        return before not in _LEADING_VOWELS and after not in _FOLLOWING_VOWELS
    return _is_ideographic(before) or _is_ideographic(after) or before == _TSHEG


def _is_ideographic(character: str) -> bool:
    """Wide, and not Hangul: Korean sets spaces between its words."""
    return unicodedata.east_asian_width(character) in "WF" and not (
        "\u1100" <= character <= "\u11ff" or "\uac00" <= character <= "\ud7ff" or "\u3130" <= character <= "\u318f"
    )


def _is_spaceless(character: str) -> bool:
    """Of Thai, Lao, Burmese or Khmer."""
    return "\u0e00" <= character <= "\u0eff" or "\u1000" <= character <= "\u109f" or "\u1780" <= character <= "\u17ff"


def _character_width(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 1
