"""What is done to a text before its words are counted, and how a result says which rules those were.

A normaliser is a function from text to text, and a line in `NORMALIZERS` that loads it: the libraries are imported when
one is chosen. Two scores may be compared only when the digests of their normalisers are the same: one word list that
changed is another number. Knows nothing of rows and of error rates."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from asrbatch.errors import UsageError
from asrbatch.languages import NO_SPACES, primary

# The capital of Turkish, also as two code points, and what `str.lower` makes of it: an i and a dot above.
_DOTTED_I = re.compile("\u0130|[iI]\u0307")


@dataclass(frozen=True)
class Normalizer:
    """One set of rules.

    Attributes:
        name: as `--normalizer` takes it.
        version: of the library that the rules are from, or of the rules themselves.
        sha256: over what decides the rules: files of the library, our tables, and the version number of our own steps.
        normalize: text in, text out. It may raise ValueError, AssertionError or RecursionError on texts that nobody
            says, such as numbers of thousands of digits.
    """

    name: str
    version: str
    sha256: str
    normalize: Callable[[str], str]

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


def _whisper_english() -> Normalizer:
    basic, english = _modules()
    table = Path(english.__file__).with_name("normalizers") / "english.json"
    sha256 = _sha256(english.__file__, basic.__file__, table)
    return Normalizer("whisper-english", _library(), sha256, english.EnglishTextNormalizer())


def _whisper_basic() -> Normalizer:
    basic, _ = _modules()
    rules = basic.BasicTextNormalizer()
    # These rules take the dot for a space, and İstanbul would be two words. As Turkish has it, and as the rules for
    # English do, its small letter is i.
    sha256 = hashlib.sha256(f"{_DOTTED_I.pattern} {_sha256(basic.__file__)}".encode()).hexdigest()
    return Normalizer("whisper-basic", _library(), sha256, lambda text: rules(_DOTTED_I.sub("i", text)))


def _leaderboard() -> Normalizer:
    _modules()
    # After `_modules`: it imports the same library, which would warn at this place otherwise.
    from asrbatch.evaluation import leaderboard

    rules = leaderboard.load_rules()
    normalize = leaderboard.LeaderboardNormalizer(rules)
    # Not over our source file: a comment that changed would make scores look incomparable.
    own = json.dumps({"version": leaderboard.RULES_VERSION, "tables": rules}, sort_keys=True)
    sha256 = hashlib.sha256((own + _sha256(*leaderboard.library_files())).encode()).hexdigest()
    return Normalizer("leaderboard", f"{rules['source']}@{rules['commit'][:12]}, {_library()}", sha256, normalize)


def _none() -> Normalizer:
    # A digest here as well: scores without any rules are told from others, and compared, in the same way.
    return Normalizer("none", "1", hashlib.sha256(b"text is left as it is").hexdigest(), lambda text: text)


NORMALIZERS: dict[str, Callable[[], Normalizer]] = {
    "whisper-english": _whisper_english,
    "whisper-basic": _whisper_basic,
    "none": _none,
    "leaderboard": _leaderboard,
}
AUTO = "auto"
ENGLISH_ONLY = frozenset(("whisper-english", "leaderboard"))


def load_normalizer(name: str) -> Normalizer:
    """Loads the rules called `name`.

    Raises:
        UsageError: there are none of that name.
    """
    if name not in NORMALIZERS:
        raise UsageError(f"--normalizer {name}: unknown; known: {AUTO}, {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]()


def choose(name: str, lang: str) -> str:
    """The name of the normaliser for a text in `lang`: `auto` is `whisper-english` for English and `whisper-basic`
    otherwise.
    """
    if name != AUTO:
        return name
    return "whisper-english" if primary(lang) == "en" else "whisper-basic"


def counts_characters(lang: str) -> bool:
    """Whether the language is written without spaces between words, so that only characters can be counted."""
    return primary(lang) in NO_SPACES


def _modules() -> tuple[ModuleType, ModuleType]:
    # They warn of a backslash in a docstring of theirs, from Python 3.12 on for all to see.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from whisper_normalizer import basic, english
    return basic, english


def _library() -> str:
    return f"whisper_normalizer {version('whisper_normalizer')}"


def _sha256(*files: str | Path) -> str:
    # A digest of digests: of one joined text, bytes could wander from the end of a file to the start of the next.
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()
