"""Which languages rows are in, as a result counts and says it: where a number does not mean what it seems to for one of
them.

Knows nothing of files.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.evaluation.rows import is_heard_as_another
from asrbatch.evaluation.stats.sums import Sums
from asrbatch.evaluation.texts import Texts
from asrbatch.formatting import first_of
from asrbatch.languages import is_language, primary

_MOST_NAMES = 1000
_OTHERS = "(others)"


@dataclass
class LanguageCounts(Sums):
    """Rows that are to be known of.

    Attributes:
        unstated: do not say their language.
        heard_as_another: were heard as another than they were scored as; of two systems, by one of them.
        unknown: by what their `lang` says, which is no language.
        english_rules: by language, normalised by rules that are made for English alone.
    """

    unstated: int = 0
    heard_as_another: int = 0
    unknown: Counter = field(default_factory=Counter)
    english_rules: Counter = field(default_factory=Counter)

    def add(self, lang: str, is_stated: bool, *rows: Mapping[str, Any] | None) -> None:
        """Counts one row with a reference, or one that lacks it.

        Args:
            rows: with its predictions.
        """
        self.unstated += not is_stated
        self.heard_as_another += any(is_heard_as_another(row, lang) for row in rows)
        if not is_language(lang):
            self.unknown[lang if lang in self.unknown or len(self.unknown) < _MOST_NAMES else _OTHERS] += 1

    def add_texts(self, lang: str, texts: Texts) -> None:
        """Counts the texts of a row that is scored."""
        if texts.english_rules:
            self.english_rules[primary(lang)] += 1

    def as_dict(self) -> dict[str, Any]:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: dict(sorted(of.items())) if isinstance(of, Counter) else of for name, of in found.items()}

    def notes(self, language: str, is_guess: bool, normalizer: str) -> list[str]:
        """What a person should know.

        Args:
            language: what rows that do not say theirs were taken for; is_guess: because nobody gave `--language`.
            normalizer: as it was asked for.
        """
        notes = []
        if self.unstated and is_guess:
            notes.append(
                f"{self.unstated} rows do not say their `lang` and were taken for {language}; --language says another"
            )
        if self.heard_as_another:
            notes.append(
                f"{self.heard_as_another} rows were heard as another language (`language`) than they were scored as; "
                f"where the "
                "model is right, give them their `lang`"
            )
        if self.unknown:
            notes.append(
                f"{self.unknown.total()} rows say a `lang` that is no language ({listed(self.unknown)}): nothing is "
                f"known of how "
                "it is written, so words were counted, with rules for any language; write a code such as en, or leave "
                "it out"
            )
        if self.english_rules:
            whose = (
                "; the leaderboard has others for them, so that this is not its number"
                if normalizer == "leaderboard"
                else ""
            )
            notes.append(
                f"{self.english_rules.total()} rows are not in English ({listed(self.english_rules)}), and the "
                f"rules of "
                f"{normalizer} are made for English{whose}"
            )
        return notes


def check_language(language: str | None) -> None:
    """Raises UsageError for a `--language` that is none."""
    if language is not None and not is_language(language):
        raise UsageError(
            f"--language {language}: is no language; give a code such as en, zh or yue, or an English name"
        )


def listed(rows: Mapping[str, int], most: int = 5) -> str:
    """`de 5, fr 3`, the most frequent first."""
    by_frequency = sorted(rows.items(), key=lambda each: (-each[1], each[0]))
    return first_of([f"{name} {number}" for name, number in by_frequency], most)
