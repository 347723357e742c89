"""Counts the edits between reference and hypothesis, words and characters, with jiwer and kaldialign.

Long texts are cut into pieces that can be aligned on their own, so that memory does not grow with the square of a
recording. Knows nothing of rows, normalisers, languages and rates.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np

# Aligning words with compounds takes 20 bytes for each pair of words in kaldialign: 18 GB for three hours of speech.
# These are 80 MB; a text of 2,000 words with another.
MOST_CELLS = 4_000_000
Words = list[str]


def pieces(reference: Words, hypothesis: Words, most_cells: int = MOST_CELLS) -> list[tuple[Words, Words]]:
    """Pieces of both texts, in order, whose edits add up to the fewest between the whole texts.

    Edits are substitutions, deletions and insertions of words at 1 each, and joining words that stand beside each other
    for nothing, as `kaldialign.edit_distance(merge_compounds=True)` has it. Where several alignments have the fewest
    edits, how many of them are substitutions may be another choice than kaldialign's; their sum is not.

    Args:
        most_cells: of the table that a piece needs. A piece may need more where no cut is possible: in texts of one
            word repeated, which other texts write as one.
    """
    if (len(reference) + 1) * (len(hypothesis) + 1) <= most_cells:
        return [(reference, hypothesis)]
    # The longer text is halved, or a long one beside a short one could never be cut small enough.
    if len(hypothesis) > len(reference):
        return [(mine, theirs) for theirs, mine in pieces(hypothesis, reference, most_cells)]
    # An alignment with the fewest edits passes through every row of that table, so the texts may be cut where it does,
    # and the edits of the pieces add up to those of the whole (Hirschberg, CACM 1975).
    cut = _cut(reference, hypothesis)
    if cut is None:
        return [(reference, hypothesis)]
    before = _edits_to_prefixes(reference[:cut], hypothesis)
    # From the end back: the edits that what follows needs, for every place where the other text may be cut.
    after = _edits_to_prefixes(_mirrored(reference[cut:]), _mirrored(hypothesis))[::-1]
    at = int(np.argmin(before + after))
    return [
        *pieces(reference[:cut], hypothesis[:at], most_cells),
        *pieces(reference[cut:], hypothesis[at:], most_cells),
    ]


def _cut(words: Words, others: Words) -> int | None:
    """The place nearest to the middle that no joined word reaches over; None where there is none."""
    spanned = np.zeros(len(words) + 1, np.int64)
    for start, number, _ in _joined(words, others):
        spanned[start + 1] += 1
        spanned[start + number] -= 1
    free = np.flatnonzero(np.cumsum(spanned) == 0)
    free = free[(free > 0) & (free < len(words))]
    return int(free[np.argmin(np.abs(free - len(words) // 2))]) if len(free) else None


def _edits_to_prefixes(words: Words, others: Words) -> np.ndarray:
    """int32 [len(others) + 1]: the fewest edits between all of `words` and each beginning of `others`."""
    # Words as numbers, so that numpy compares a whole row of the table at once.
    numbers: dict[str, int] = {}
    columns = np.array([numbers.setdefault(word, len(numbers)) for word in others], np.int32)
    joined_rows, joined_columns = defaultdict(list), defaultdict(list)
    for start, number, whole in _joined(words, others):
        joined_rows[start + number].append((number, whole))
    for start, number, whole in _joined(others, words):
        joined_columns[whole].append((start, start + number))
    most = max((number for found in joined_rows.values() for number, _ in found), default=1)
    steps = np.arange(len(others) + 1, dtype=np.int32)
    # Only the rows that a joined word reaches back to are kept.
    rows = deque([steps], most)
    for end, word in enumerate(words, 1):
        before = rows[-1]
        row = before + 1
        np.minimum(row[1:], before[:-1] + (columns != numbers.get(word, -1)), out=row[1:])
        if word in joined_columns:
            starts, ends = np.array(joined_columns[word]).T
            row[ends] = np.minimum(row[ends], before[starts])
        for number, whole in joined_rows.get(end, ()):
            places = np.flatnonzero(columns == numbers[whole])
            row[places + 1] = np.minimum(row[places + 1], rows[-number][places])
        # Insertions, all at once: the least of row[i] + (j - i) over i <= j.
        rows.append(np.minimum.accumulate(row - steps) + steps)
    return rows[-1]


def _joined(words: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Where two or more of `words` in a row, without the spaces, are one of `others`: start, how many, that word."""
    # Sorted, so that one look tells whether any word still begins as the joined ones do.
    wholes = sorted(set(others))
    for start, text in enumerate(words):
        for end in range(start + 1, len(words)):
            text += words[end]
            at = bisect_left(wholes, text)
            if at == len(wholes) or not wholes[at].startswith(text):
                break
            if wholes[at] == text:
                yield start, end + 1 - start, text


def _mirrored(words: Words) -> Words:
    """Backwards, letters too, so that joined words stay what they are."""
    return [word[::-1] for word in reversed(words)]


# A half of a surrogate pair is text to JSON and to Python, but UTF-8, which kaldialign's C++ reads, cannot hold it.
_HALVES = {half: "\ufffd" for half in range(0xD800, 0xE000)}


class Edits(NamedTuple):
    """What tells one hypothesis from its reference, in words or in characters.

    Attributes:
        substitutions, deletions, insertions: of units, in an alignment with the fewest of them in all.
        reference: units of the reference.
    """

    substitutions: int
    deletions: int
    insertions: int
    reference: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def edits(references: Sequence[str], hypotheses: Sequence[str], *, in_words: bool) -> list[Edits]:
    """Word by word, or character by character, spaces between words included, with jiwer.

    Args:
        references, hypotheses: texts whose words one space parts; one of each for every utterance, either may be empty.
    """
    # Of no texts jiwer makes one alignment, an empty one.
    return [_edits(chunks) for chunks in _jiwer_alignments(references, hypotheses, in_words)] if references else []


def compound_edits(references: Sequence[str], hypotheses: Sequence[str]) -> list[Edits]:
    """Word by word, with kaldialign: words that are the same but for a space (`white paper`, `whitepaper`) are no
    error.

    The Open ASR Leaderboard's way; `reference` counts words as they are written. See `edits`.
    """
    import kaldialign

    found = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words, others = (text.translate(_HALVES).split() for text in (reference, hypothesis))
        counted = [kaldialign.edit_distance(*piece, merge_compounds=True) for piece in pieces(words, others)]
        found.append(Edits(*(sum(each[kind] for each in counted) for kind in ("sub", "del", "ins")), len(words)))
    return found


def alignment(reference: str, hypothesis: str, *, in_words: bool, with_compounds: bool) -> list[tuple[str, int, int]]:
    """What stands where, for people to look at: pieces of (kind, units of the reference, units of the hypothesis).

    Kinds are `equal`, `substitute`, `delete` and `insert`. Units are words with one space between them, or characters.

    Args:
        with_compounds: as `compound_edits` counts; otherwise as `edits` does.
    """
    if in_words and with_compounds:
        return _compound_alignment(reference, hypothesis)
    return [
        (chunk.type, chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in _jiwer_alignments([reference], [hypothesis], in_words)[0]
    ]


def _compound_alignment(reference: str, hypothesis: str) -> list[tuple[str, int, int]]:
    import kaldialign

    nothing = "\0"  # no normaliser leaves it in a text
    texts = (text.translate(_HALVES).split() for text in (reference, hypothesis))
    aligned = []
    for piece in pieces(*texts):
        for word, other in kaldialign.align(*piece, nothing, merge_compounds=True):
            # kaldialign gives joined words as one text, with the spaces between them.
            units = [0 if text == nothing else len(text.split(" ")) for text in (word, other)]
            same = word.replace(" ", "") == other.replace(" ", "")
            kind = "equal" if same else "insert" if word == nothing else "delete" if other == nothing else "substitute"
            aligned.append((kind, *units))
    return aligned


def aligner(with_compounds: bool) -> dict[str, str | bool]:
    """Which library counts words, for the record."""
    library = "kaldialign" if with_compounds else "jiwer"
    return {"name": library, "version": version(library), "merge_compounds": with_compounds}


def _jiwer_alignments(references: Sequence[str], hypotheses: Sequence[str], in_words: bool) -> list[list]:
    import jiwer

    process = jiwer.process_words if in_words else jiwer.process_characters
    return process(list(references), list(hypotheses)).alignments


def _edits(chunks: list) -> Edits:
    units = Counter()
    for chunk in chunks:
        # The larger of the two: an insertion has no units of the reference, a deletion none of the hypothesis.
        units[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    reference = units["equal"] + units["substitute"] + units["delete"]
    return Edits(units["substitute"], units["delete"], units["insert"], reference)
