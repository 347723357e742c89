"""From what was said and what was written to counts of edits: which rules a text is normalised by, and what is counted
in it.

The rules follow from the reference's language alone, never from what the model took it for: a score must not depend on
how a model errs. Knows nothing of files."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from asrbatch.evaluation.alignment import Edits, character_edits, compound_edits, word_edits
from asrbatch.evaluation.normalizers import ENGLISH_ONLY, Normalizer, choose, counts_characters, load_normalizer
from asrbatch.languages import primary

# Why a row is not scored, with what each reason means. docs/scoring.md lists them from here (a test compares).
EXCLUDED = {
    "no_reference": "it has no reference",
    "empty_reference": "its reference is empty",
    "nothing_left": "nothing is left of its reference once it is normalised",
    "marked_to_ignore": "the leaderboard's own mark: `ignore time segment in scoring`",
}
_MARK_TO_IGNORE = "ignore time segment in scoring"
_FALL_BACK = "whisper-basic"


class Texts(NamedTuple):
    """One utterance's texts, normalised.

    Attributes:
        reference: words with one space between them; empty where it is excluded.
        hypotheses: the same for each; what is missing is empty.
        in_words: whether words are counted, or characters alone; then the texts are without spaces.
        normalizer: its name.
        fell_back: that normaliser could not do these texts, and another did.
        english_rules: it is made for English, and the language is another.
        excluded: a key of `EXCLUDED`, or None.
    """

    reference: str
    hypotheses: tuple[str, ...]
    in_words: bool
    normalizer: str
    fell_back: bool
    english_rules: bool
    excluded: str | None

    @property
    def num_chars(self) -> int:
        return len(self.reference) + sum(map(len, self.hypotheses))


class TextRules:
    """How the texts of a result are normalised and counted.

    Args:
        normalizer: `auto`, or a name in `normalizers.NORMALIZERS`.

    Raises:
        UsageError: it is unknown.
    """

    def __init__(self, normalizer: str):
        self.asked = normalizer
        self.with_compounds = normalizer == "leaderboard"
        self._load = cache(load_normalizer)
        self._load(choose(normalizer, "en"))

    def normalizer(self, name: str) -> Normalizer:
        return self._load(name)

    def prepare(self, reference: str | None, hypotheses: Sequence[str | None], lang: str) -> Texts:
        """Normalises the texts of one utterance.

        Args:
            reference: None where there is none.
            hypotheses: None for a prediction that is missing.
            lang: of the reference.
        """
        name = choose(self.asked, lang)
        texts = [reference or "", *(hypothesis or "" for hypothesis in hypotheses)]
        fell_back = False
        try:
            normalized = self._normalize(name, texts)
        except (ValueError, AssertionError, RecursionError):  # numbers of thousands of digits, such as models loop into
            normalized, fell_back = self._normalize(_FALL_BACK, texts), True
        in_words = not counts_characters(lang)
        if not in_words:
            normalized = [text.replace(" ", "") for text in normalized]
        english_rules = name in ENGLISH_ONLY and primary(lang) != "en"
        excluded = self._excluded(reference, normalized[0])
        return Texts(normalized[0], tuple(normalized[1:]), in_words, name, fell_back, english_rules, excluded)

    def count(self, texts: Sequence[Texts]) -> list[list[tuple[Edits | None, Edits]]]:
        """For each utterance, for each of its hypotheses: edits in words (None where words are not counted), in
        characters.
        """
        counted: list[list[tuple[Edits | None, Edits]]] = [[] for _ in texts]
        edits_of = compound_edits if self.with_compounds else word_edits
        in_words = [at for at, each in enumerate(texts) if each.in_words]
        for which in range(len(texts[0].hypotheses) if texts else 0):
            words: list[Edits | None] = [None] * len(texts)
            found = edits_of([texts[at].reference for at in in_words], [texts[at].hypotheses[which] for at in in_words])
            for at, edits in zip(in_words, found, strict=True):
                words[at] = edits
            characters = character_edits([each.reference for each in texts], [each.hypotheses[which] for each in texts])
            for row, *both in zip(counted, words, characters, strict=True):
                row.append(tuple(both))
        return counted

    def _normalize(self, name: str, texts: list[str]) -> list[str]:
        normalize = self._load(name).normalize
        return [" ".join(normalize(text).split()) for text in texts]

    def _excluded(self, reference: str | None, normalized: str) -> str | None:
        if reference is None:
            return "no_reference"
        if not reference.strip():
            return "empty_reference"
        if not normalized:
            return "nothing_left"
        return "marked_to_ignore" if self.with_compounds and normalized == _MARK_TO_IGNORE else None
