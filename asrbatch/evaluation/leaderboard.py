"""The Open ASR Leaderboard's normaliser: OpenAI's rules for English with the leaderboard's changes to them.

Its own code began as a copy of OpenAI's (github.com/huggingface/open_asr_leaderboard, normalizer/, Apache-2.0). Here
the same rules are stated as differences from the library that keeps OpenAI's: the tables are in `leaderboard.json`,
with the commit they were read at; joining letters into acronyms is written anew. `docs/scoring.md` has its numbers
beside ours. English only: for other languages the leaderboard has other rules, which are not here."""

import functools
import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from whisper_normalizer import basic, english

RULES_FILE = Path(__file__).with_name("leaderboard.json")
# Raise it with every change of what the rules below do to a text: it stands for this file in the digest of a score, so
# that an edited comment leaves old scores comparable.
RULES_VERSION = 1


def load_rules() -> dict[str, Any]:
    """The tables of `leaderboard.json`, and where they are from."""
    return json.loads(RULES_FILE.read_text(encoding="utf-8"))


def library_files() -> tuple[str, Path, str]:
    """The files of the library that rules are taken from."""
    return english.__file__, Path(english.__file__).with_name("normalizers") / "english.json", basic.__file__


class LeaderboardNormalizer(english.EnglishTextNormalizer):
    """OpenAI's steps in OpenAI's order, with the leaderboard's tables and the three steps it added.

    Args:
        rules: of `load_rules`.
    """

    def __init__(self, rules: dict[str, Any]):
        super().__init__()
        self.ignore_patterns = rf"\b({'|'.join(rules['ignored_words'])})\b"
        # In the same place of the order: the rules before and after it see the text that they saw there.
        self.replacers = dict(
            tuple(rules["replaced"].get(pattern, (pattern, to))) for pattern, to in self.replacers.items()
        )
        spellings = self.standardize_spellings
        for word in rules["spellings_removed"]:
            del spellings.mapping[word]
        spellings.mapping.update(rules["spellings"])
        # The base class calls these two in its own order, so the added steps ride on them: compounds come before
        # numbers, names and single letters after spellings.
        numbers, compounds, names = self.standardize_numbers, rules["compounds"], rules["names"]
        self.standardize_numbers = lambda text: numbers(_replace_all(text, compounds))
        self.standardize_spellings = lambda text: join_letters(
            " ".join(names.get(w, w) for w in spellings(text).split())
        )


def join_letters(text: str) -> str:
    """Letters and digits that stand alone become one word with those beside them: `b b c` is `bbc`, `5 g` is `5g`.

    Two are enough, unless one of them is `a` or `i`, which are words: then it takes three.
    """
    words = []
    for single, run in groupby(text.split(), lambda word: len(word) == 1 and word.isalnum()):
        run = list(run)
        least = 3 if {"a", "i"} & set(run) else 2
        words += ["".join(run)] if single and len(run) >= least else run
    return " ".join(words)


def _replace_all(text: str, patterns: dict[str, str]) -> str:
    return functools.reduce(lambda made, rule: re.sub(rule[0], rule[1], made), patterns.items(), text)
