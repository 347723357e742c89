"""Counts what must be changed to make a reference out of a hypothesis: words and characters, by libraries that others check.

Knows nothing of rows, normalisers and languages.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

from .long_alignment import pieces

# A half of a surrogate pair is text to JSON and to Python, but UTF-8, which the C++ of kaldialign reads, cannot hold it.
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


def word_edits(references: Sequence[str], hypotheses: Sequence[str]) -> list[Edits]:
    """Word by word, with jiwer.

    Args:
        references, hypotheses: texts whose words one space parts; one of each for every utterance, either may be empty.
    """
    import jiwer

    if not references:
        return []
    return [_edits(chunks) for chunks in jiwer.process_words(list(references), list(hypotheses)).alignments]


def character_edits(references: Sequence[str], hypotheses: Sequence[str]) -> list[Edits]:
    """Character by character, spaces between words included, with jiwer; see `word_edits`."""
    import jiwer

    if not references:
        return []
    return [_edits(chunks) for chunks in jiwer.process_characters(list(references), list(hypotheses)).alignments]


def compound_edits(references: Sequence[str], hypotheses: Sequence[str]) -> list[Edits]:
    """Word by word, with kaldialign: words that are the same but for a space (`white paper`, `whitepaper`) are no error.

    The Open ASR Leaderboard's way; `reference` counts words as they are written. See `word_edits`.
    """
    import kaldialign

    found = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words = reference.translate(_HALVES).split(" ") if reference else []
        said = hypothesis.translate(_HALVES).split(" ") if hypothesis else []
        counts = [0, 0, 0]
        for piece in pieces(words, said):
            edits = kaldialign.edit_distance(*piece, merge_compounds=True)
            counts = [had + edits[kind] for had, kind in zip(counts, ("sub", "del", "ins"), strict=True)]
        found.append(Edits(*counts, len(words)))
    return found


def alignment(reference: str, hypothesis: str, *, in_words: bool, with_compounds: bool) -> list[tuple[str, int, int]]:
    """What stands where, for people to look at: pieces of (kind, units of the reference, units of the hypothesis).

    Kinds are `equal`, `substitute`, `delete` and `insert`. Units are words with one space between them, or characters.

    Args:
        with_compounds: as `compound_edits` counts; otherwise as `word_edits` and `character_edits` do.
    """
    if in_words and with_compounds:
        return _compound_alignment(reference, hypothesis)
    import jiwer

    process = jiwer.process_words if in_words else jiwer.process_characters
    return [
        (chunk.type, chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in process([reference], [hypothesis]).alignments[0]
    ]


def _compound_alignment(reference: str, hypothesis: str) -> list[tuple[str, int, int]]:
    import kaldialign

    nothing = "\0"
    texts = (text.translate(_HALVES).split() for text in (reference, hypothesis))
    aligned = []
    for piece in pieces(*texts):
        for word, said in kaldialign.align(*piece, nothing, merge_compounds=True):
            units = [0 if text == nothing else len(text.split(" ")) for text in (word, said)]
            same = word.replace(" ", "") == said.replace(" ", "")
            kind = "equal" if same else "insert" if word == nothing else "delete" if said == nothing else "substitute"
            aligned.append((kind, *units))
    return aligned


def aligner(with_compounds: bool) -> dict[str, str | bool]:
    """Which library counts words, for the record."""
    library = "kaldialign" if with_compounds else "jiwer"
    return {"name": library, "version": version(library), "merge_compounds": with_compounds}


def _edits(chunks: list) -> Edits:
    units = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for chunk in chunks:
        units[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    reference = units["equal"] + units["substitute"] + units["delete"]
    return Edits(units["substitute"], units["delete"], units["insert"], reference)
