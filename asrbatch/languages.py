"""What must be known of a language to join and to count its words. One list each, for transcripts and for scores alike.

Knows nothing of models and of normalisers.
"""

import re
from collections.abc import Collection
from functools import cache, lru_cache
from pathlib import Path

# Written without spaces between words: those of openai-whisper's word splitter, and Khmer, which is written in the same
# way. Windows of these are joined without a space, and characters are counted instead of words.
NO_SPACES = frozenset(("ja", "zh", "yue", "th", "lo", "my", "km"))
# A letter of scripts that are written so: Thai, Lao, Burmese, Khmer, kana, Han, and their punctuation.
UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u9fff\uff01-\uff60]"
_UNSPACED = re.compile(UNSPACED)
# Codes of ISO 639-1 (and Whisper's of three letters), each with the same language's other codes and English names:
# those of ISO 639-2 and 639-3, Whisper's, and single languages that data sets name for the whole (`cmn` for `zh`).
_FILE = Path(__file__).with_name("languages.txt")
_NO_LANGUAGE = frozenset(("und", "mul", "mis", "zxx"))  # ISO 639-2: undetermined, several, uncoded, none


def has_unspaced(text: str) -> bool:
    """Whether some of a text is in a script that sets no spaces between words."""
    return _UNSPACED.search(text) is not None


def subtag(lang: str) -> str:
    """The first part of a language tag, as models name languages (`EN`, `en-US`, `en_us` → `en`); names stay names."""
    return lang.strip().lower().replace("_", "-").split("-")[0]


@lru_cache(1024)
def primary(lang: str) -> str:
    """`zh` for `zh-Hant`, `ZH_tw`, `<|zh|>`, `Chinese` and `Mandarin Chinese`: the first part of a language tag (BCP
    47), in small letters, with one code for all that name the same language. What is no language is returned in small
    letters."""
    whole = lang.strip().removeprefix("<|").removesuffix("|>").strip().lower()
    name = whole.partition(" (")[0]
    first = name.replace("_", "-").partition("-")[0].strip()
    codes = _codes()
    # The whole name first: some have a hyphen themselves, such as Serbo-Croatian.
    return codes.get(name) or codes.get(first, first)


def is_language(lang: str) -> bool:
    """Whether it begins with a code or is a name that is known; any three letters are taken for a code of ISO 639-3."""
    code = primary(lang)
    # ISO 639-3 has thousands, too many for a list.
    is_code = len(code) == 3 and code.isascii() and code.isalpha() and code not in _NO_LANGUAGE
    return is_code or code in _codes()


@cache
def _codes() -> dict[str, str]:
    """By every way to write a language: its code."""
    found = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        code, _, others = line.partition(": ")
        found.update(dict.fromkeys((code, *others.split(", ")), code))
    return found


def find(lang: str, known: Collection[str]) -> str | None:
    """Which of a model's codes a language is that someone wrote as `EN`, `en-US`, `en_us`, `eng` or `English`; None for
    none.
    """
    code = primary(lang)
    # As written first: a model may have both of two codes that are one language to us. Last its own old or longer code
    # for the language: Whisper's for Javanese is jw.
    ours = (each for each in (subtag(lang), code) if each in known)
    return next(ours, None) or next((each for each in known if primary(each) == code), None)
