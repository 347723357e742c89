"""Scores of long transcripts against utterances whose times are known: errors, where they are, and how segments drift.

A word's time is an estimate: the middle of its share of its utterance, by letters. Errors come from jiwer's alignment
of all words of a recording with all words of a transcript; times play no part in it. An inserted word counts at the
word before it.

Knows nothing of systems, files or tables.
"""

import bisect
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

SEAM_S = 1.5  # words whose middle is within so much of a boundary are near it
BOOTSTRAPS = 2000
Utterances = Sequence[dict[str, Any]]  # start, end (s), text
Normalise = Callable[[str], list[str]]


@functools.cache
def normaliser(lang: str) -> Normalise:
    """A text's words after Whisper's own normaliser for English (numbers, contractions, spelling), its basic one for
    others.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalise = EnglishTextNormalizer({}) if lang == "en" else BasicTextNormalizer()
    # The English one leaves a lone full stop of "…": no word.
    return lambda text: [word for word in normalise(text).split() if any(c.isalnum() for c in word)]


@dataclass(frozen=True)
class Word:
    """A normalised word of a reference, the middle of it in seconds, and the number of its utterance."""

    text: str
    time_s: float
    utterance: int
    is_first: bool


def reference_words(utterances: Utterances, normalise: Normalise) -> list[Word]:
    words = []
    for number, utterance in enumerate(utterances):
        texts = normalise(utterance["text"])
        letters = [len(text) for text in texts]
        length = utterance["end"] - utterance["start"]
        for i, text in enumerate(texts):
            share = (sum(letters[:i]) + letters[i] / 2) / sum(letters)
            words.append(Word(text, utterance["start"] + share * length, number, i == 0))
    return words


@dataclass(frozen=True)
class Scored:
    """A transcript against its reference; arrays of one entry per reference word.

    Attributes:
        words: the reference, at least one word.
        substituted, deleted: bool.
        inserted: how many words the transcript has in excess after this one (before the first one: at the first).
        partner: index of the word of the transcript that equals it, or -1.
    """

    words: list[Word]
    substituted: np.ndarray
    deleted: np.ndarray
    inserted: np.ndarray
    partner: np.ndarray

    def rates(self, mask: np.ndarray | None = None) -> dict[str, float]:
        """Percent of the words (those of `mask`): `wer`, and what it is made of: `sub`, `del`, `ins`."""
        mask = np.ones(len(self.words), bool) if mask is None else mask
        count = max(1, int(mask.sum()))
        parts = {"sub": self.substituted, "del": self.deleted, "ins": self.inserted}
        rates = {name: 100 * float(values[mask].sum()) / count for name, values in parts.items()}
        return {"wer": sum(rates.values())} | rates

    def errors(self) -> np.ndarray:
        return self.substituted.astype(int) + self.deleted + self.inserted


def score(words: list[Word], said: Sequence[str]) -> Scored:
    """Aligns normalised words; of equally cheap alignments jiwer's is taken.

    Args:
        words: of the reference, at least one.
        said: of the transcript.
    """
    count = len(words)
    substituted, deleted = np.zeros(count, bool), np.zeros(count, bool)
    inserted, partner = np.zeros(count, int), np.full(count, -1)
    aligned = jiwer.process_words(" ".join(word.text for word in words), " ".join(said))
    for chunk in aligned.alignments[0]:
        span = slice(chunk.ref_start_idx, chunk.ref_end_idx)
        if chunk.type == "substitute":
            substituted[span] = True
        elif chunk.type == "delete":
            deleted[span] = True
        elif chunk.type == "insert":
            inserted[max(0, chunk.ref_start_idx - 1)] += chunk.hyp_end_idx - chunk.hyp_start_idx
        else:
            partner[span] = np.arange(chunk.hyp_start_idx, chunk.hyp_end_idx)
    return Scored(words, substituted, deleted, inserted, partner)


# --- seams ----------------------------------------------------------------------------------------------------------


def seams(windows: Sequence[dict[str, float]]) -> list[float]:
    """Seconds at which one window's words end and the next one's begin, or nobody listens on.

    Args:
        windows: `start` and `end` in seconds, in order; they may leave gaps, and a window may be heard on beyond the
            start of the next, which then takes over.
    """
    found = set()
    for this, following in itertools.pairwise(windows):
        found |= {min(this["end"], following["start"]), following["start"]}
    return sorted(found)


def near(words: Sequence[Word], seams_s: Sequence[float]) -> np.ndarray:
    """Which words lie within `SEAM_S` of one of the `seams_s` (ascending): bool, one per word."""

    def distance(time_s: float) -> float:
        i = bisect.bisect(seams_s, time_s)
        return min((abs(time_s - s) for s in seams_s[max(0, i - 1) : i + 1]), default=np.inf)

    return np.array([distance(word.time_s) <= SEAM_S for word in words], bool)


# --- differences ----------------------------------------------------------------------------------------------------


def difference(ours: Sequence[Scored], theirs: Sequence[Scored]) -> tuple[float, float, float]:
    """Our WER less theirs on the same recordings, in percent of words, and a 95 % interval:
    bootstrap over utterances.
    """
    excess, counts = [], []
    for a, b in zip(ours, theirs, strict=True):
        of = np.array([word.utterance for word in a.words])
        excess.append(np.bincount(of, a.errors() - b.errors()))
        counts.append(np.bincount(of))
    excess, counts = np.concatenate(excess), np.concatenate(counts)
    drawn = np.random.default_rng(0).integers(len(counts), size=(BOOTSTRAPS, len(counts)))
    low, high = np.percentile(100 * excess[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return 100 * float(excess.sum() / counts.sum()), float(low), float(high)


# --- drift ----------------------------------------------------------------------------------------------------------


def start_errors(
    utterances: Utterances, segments: Sequence[dict[str, Any]], normalise: Normalise
) -> list[tuple[float, float]]:
    """`(where, error)` in seconds for segments that begin with an utterance: segment's start less utterance's.

    A segment counts when its first word is aligned with, and equals, the first word of an utterance; so what is
    measured is the clock of segments whose place in the text is known."""
    words = reference_words(utterances, normalise)
    said, opened_by = [], {}  # words of the transcript; index of one to the segment that it opens
    for segment in segments:
        texts = normalise(segment["text"])
        if texts:
            opened_by[len(said)] = segment
            said += texts
    partner = score(words, said).partner
    found = []
    for word, index in zip(words, partner.tolist(), strict=True):
        if word.is_first and index in opened_by:
            start_s = utterances[word.utterance]["start"]
            found.append((start_s, opened_by[index]["start"] - start_s))
    return found
