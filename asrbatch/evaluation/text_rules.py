"""Which rules a text is normalised by, and how its edits are counted.

The rules follow from the language of the reference. Knows nothing of rows and files, and of how that was found.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import compress
from typing import NamedTuple

from asrbatch.evaluation.alignment import Edits, compound_edits, edits
from asrbatch.evaluation.normalizers import ENGLISH_ONLY, choose, counts_characters, load_normalizer
from asrbatch.languages import primary

# Why a row is not scored, with what each reason means. docs/scoring.md lists them from here (a test compares).
EXCLUDED = {
    "no_reference": "it has no reference",
    "empty_reference": "its reference is empty",
    "nothing_left": "nothing is left of its reference once it is normalised",
    "marked_to_ignore": "the leaderboard's own mark: `ignore time segment in scoring`",
}
_MARK_TO_IGNORE = "ignore time segment in scoring"
# Knows no numbers, so none is too long for it.
_FALL_BACK = "whisper-basic"
# In words, None where they are not counted; in characters. Neither for an excluded text.
Counted = tuple[Edits | None, Edits | None]


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
        self.name = normalizer
        self.with_compounds = normalizer == "leaderboard"
        # Loaded here as well: an unknown name is refused before a row is read, and the processes that count are forked
        # from this one and share the tables.
        self.normalizer = cache(load_normalizer)
        self.normalizer(choose(normalizer, "en"))

    def of_language(self, lang: str) -> tuple[str, bool]:
        """What texts in a language are read by: the name of their normaliser, and whether words are counted."""
        return choose(self.name, lang), not counts_characters(lang)

    def prepare(self, reference: str | None, hypotheses: Sequence[str | None], lang: str) -> Texts:
        """Normalises the texts of one utterance.

        Args:
            reference: None where there is none.
            hypotheses: None for a prediction that is missing.
            lang: of the reference.
        """
        name, in_words = self.of_language(lang)
        texts = [reference or "", *(hypothesis or "" for hypothesis in hypotheses)]
        fell_back = False
        try:
            normalized = self._normalize(name, texts)
        except (ValueError, AssertionError, RecursionError):
            # Numbers of thousands of digits, which models loop into.
            # All texts of the row, so that both sides are read by the same rules.
            normalized, fell_back = self._normalize(_FALL_BACK, texts), True
        # Where no spaces are written, those that a model or a normaliser puts are no errors.
        if not in_words:
            normalized = [text.replace(" ", "") for text in normalized]
        english_rules = name in ENGLISH_ONLY and primary(lang) != "en"
        excluded = self._excluded(reference, normalized[0])
        return Texts(normalized[0], tuple(normalized[1:]), in_words, name, fell_back, english_rules, excluded)

    def count(self, texts: Sequence[Texts]) -> list[tuple[Counted, ...]]:
        """The edits of each hypothesis of many texts: a call of the libraries for each takes several times as long."""
        by_hypothesis = [self._count_one(texts, at) for at in range(len(texts[0].hypotheses))]
        return list(zip(*by_hypothesis, strict=True))

    def _count_one(self, texts: Sequence[Texts], at: int) -> Iterator[Counted]:
        """The edits of hypothesis `at` of each text."""

        def counted(wanted: list[bool], count: Callable[[list[str], list[str]], list[Edits]]) -> list[Edits | None]:
            pairs = [(each.reference, each.hypotheses[at]) for each in compress(texts, wanted)]
            found = iter(count([reference for reference, _ in pairs], [said for _, said in pairs]))
            return [next(found) if is_wanted else None for is_wanted in wanted]

        words = counted(
            [each.in_words and not each.excluded for each in texts],
            compound_edits if self.with_compounds else partial(edits, in_words=True),
        )
        characters = counted([not each.excluded for each in texts], partial(edits, in_words=False))
        return zip(words, characters, strict=True)

    def _normalize(self, name: str, texts: list[str]) -> list[str]:
        normalize = self.normalizer(name).normalize
        # CER counts the spaces between words, so there must be one of each, whatever a normaliser leaves.
        return [" ".join(normalize(text).split()) for text in texts]

    def _excluded(self, reference: str | None, normalized: str) -> str | None:
        if reference is None:
            return "no_reference"
        if not reference.strip():
            return "empty_reference"
        if not normalized:
            return "nothing_left"
        return "marked_to_ignore" if self.with_compounds and normalized == _MARK_TO_IGNORE else None
