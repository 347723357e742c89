"""Which languages rows are in, where an error rate does not mean what it seems to because of them.

Knows nothing of files.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asrbatch.evaluation.rows import ScoredRow
from asrbatch.evaluation.stats.sums import Sums
from asrbatch.formatting import counted, first_of
from asrbatch.languages import is_language, primary

_MOST_NAMES = 1000
_OTHERS = "(others)"


@dataclass
class LanguageCounts(Sums):
    """Rows whose language matters to the result.

    Attributes:
        unstated: do not say their language, and were taken for one without being detected in it.
        detected: do not say it, by the language that they were detected in and are scored as.
        heard_as_another: were heard as another than they were scored as; of two systems, by one of them.
        unknown: by what their `lang` says, which is no language.
        english_rules: by language, normalised by rules that are made for English alone.
    """

    unstated: int = 0
    heard_as_another: int = 0
    detected: Counter = field(default_factory=Counter)
    unknown: Counter = field(default_factory=Counter)
    english_rules: Counter = field(default_factory=Counter)

    def add(self, row: ScoredRow) -> None:
        """Counts one row, one too that is not scored."""
        lang = row.lang
        self.unstated += not (row.is_stated or row.is_detected)
        if row.is_detected:
            self.detected[lang] += 1
        self.heard_as_another += row.heard_as_another
        # Whatever stands in `lang` is counted: a field of free text must not fill the memory.
        if not is_language(lang):
            self.unknown[lang if lang in self.unknown or len(self.unknown) < _MOST_NAMES else _OTHERS] += 1
        if row.texts.english_rules and not row.texts.excluded:
            self.english_rules[primary(lang)] += 1

    def as_dict(self) -> dict[str, Any]:
        # Not `dataclasses.asdict`, which makes a Counter of pairs of a Counter.
        # Sorted, so that the order of rows does not show in a result.
        return {name: dict(sorted(of.items())) if isinstance(of, Counter) else of for name, of in vars(self).items()}

    def notes(self, language: str, is_guess: bool, normalizer: str) -> list[str]:
        """What a person should know.

        Args:
            language: what rows that do not say theirs were taken for; is_guess: because nobody gave `--language`.
            normalizer: as `--normalizer` names it.
        """
        whose = "; the leaderboard has others for them, so that this is not its number"
        notes = {
            f"{_without_lang(self.unstated, 'was', 'were')} taken for {language}; --language says another": (
                self.unstated and is_guess
            ),
            f"{_without_lang(self.detected.total(), 'is', 'are')} scored as what they were detected in "
            f"({listed(self.detected)}); where the model is wrong, give them their `lang`, or all of them --language": (
                self.detected
            ),
            f"{counted(self.heard_as_another, 'row', 'was', 'were')} heard as another language (`language`) than "
            "they were scored as; where the model is right, give them their `lang`": self.heard_as_another,
            f"{counted(self.unknown.total(), 'row', 'says', 'say')} a `lang` that is no language "
            f"({listed(self.unknown)}): nothing is known of how it is written, so words were counted, with rules for "
            "any language; write a code such as en, or leave it out": self.unknown,
            f"{counted(self.english_rules.total(), 'row', 'is', 'are')} not in English "
            f"({listed(self.english_rules)}), and the rules of {normalizer} are made for English"
            f"{whose if normalizer == 'leaderboard' else ''}": self.english_rules,
        }
        return [note for note, is_true in notes.items() if is_true]


def _without_lang(number: int, was: str, were: str) -> str:
    return counted(number, "row", f"does not say its `lang` and {was}", f"do not say their `lang` and {were}")


def listed(rows: Mapping[str, int], most: int = 5) -> str:
    """`de 5, fr 3`, the most frequent first."""
    by_frequency = sorted(rows.items(), key=lambda each: (-each[1], each[0]))
    return first_of([f"{name} {number}" for name, number in by_frequency], most)
