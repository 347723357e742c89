"""Words of an answer's tokens, with their times.

What the numbers mean is what openai-whisper's `timing.py` means by them: a word's tokens go to the frames that the
decoder looks at while it writes them, punctuation belongs to the word it stands at and lends it no time, and a word at
the end of a sentence or after a pause, to which the path gives the silence as well, is at most twice as long as usual.
One thing differs: a segment keeps its times here, so its words are fitted into it. Knows nothing of the model and of
where in a recording its window lies.
"""

import string
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from asrbatch.models.timestamps import STEP_S, Decode
from asrbatch.types import DecodingResult, WordTiming

# openai-whisper's, which go with the word after them, with the word before them, and end a sentence.
_OPENING = frozenset("\"'“¿([{-")
_CLOSING = frozenset("\"'.。,，!！?？:：”)]}、")
_SENTENCE_ENDS = frozenset(".。!！?？")
# Also openai-whisper's: a word of median length has at most so many seconds; so many of them are a pause.
_MOST_USUAL_S, _PAUSE_IN_WORDS = 0.7, 4
# What a word lasts at least, where its segment has time for that.
_SHORTEST_S = STEP_S / 2
_UNKNOWN = "\ufffd"
_JOINER = "\u200d"


class _Piece(NamedTuple):
    """Consecutive tokens that make a text of whole characters."""

    text: str
    num_tokens: int


def words_of(
    segments: Sequence[Sequence[int]],
    first_frames: np.ndarray,
    probabilities: Sequence[float],
    decode: Decode,
    *,
    has_spaces: bool,
) -> tuple[tuple[WordTiming, ...], ...]:
    """The words of each segment of one window; joined, they are the segment's text.

    Args:
        segments: the text tokens of each.
        first_frames: int [text tokens + 1], where each token begins and the last one ends, in encoder positions.
        probabilities: of each text token.
        has_spaces: whether the language sets spaces between words.
    """
    pieces = [split_words(ids, decode, has_spaces=has_spaces) for ids in segments]
    flat = [piece for some in pieces for piece in some]
    if not flat:
        return tuple(() for _ in segments)
    bounds = list(accumulate((piece.num_tokens for piece in flat), initial=0))
    times = np.asarray(first_frames)[bounds] * STEP_S
    starts, ends = times[:-1].copy(), times[1:].copy()
    usual_s = _usual_duration(ends - starts)
    _cap_sentence_ends([piece.text for piece in flat], starts, ends, 2 * usual_s)
    found = [
        WordTiming(piece.text, float(start), float(end), float(np.mean(probabilities[first:last])))
        for piece, start, end, (first, last) in zip(flat, starts, ends, pairwise(bounds), strict=True)
    ]
    heard_until_s, groups = 0.0, []
    for some in pieces:
        group = _cap_after_pause(_join_punctuation(found[: len(some)]), heard_until_s, usual_s)
        del found[: len(some)]
        heard_until_s = group[-1].end_s if group else heard_until_s
        groups.append(tuple(group))
    return tuple(groups)


def split_words(ids: Sequence[int], decode: Decode, *, has_spaces: bool) -> list[_Piece]:
    """Tokens as words, each token in exactly one; the words' texts, joined, are that of all tokens.

    With spaces, a word begins at one, and a punctuation mark that is a token is a word. Without, every token is a word
    that is not part of a character.
    """
    words: list[_Piece] = []
    for piece in _characters(ids, decode):
        is_mark = len(piece.text.strip()) == 1 and piece.text.strip() in string.punctuation
        begins = piece.text.startswith(" ") or is_mark if has_spaces else not _continues(words, piece.text)
        if begins or not words:
            words.append(piece)
        else:
            words[-1] = _Piece(words[-1].text + piece.text, words[-1].num_tokens + piece.num_tokens)
    return words


def _characters(ids: Sequence[int], decode: Decode) -> list[_Piece]:
    """Tokens in the smallest groups that are whole characters, which may have several tokens."""
    whole, pieces, begin, place = decode(ids), [], 0, 0
    for end in range(1, len(ids) + 1):
        text = decode(ids[begin:end])
        # A part of a character is read as unknown, unless that is what the answer says.
        if _UNKNOWN not in text or whole.startswith(text, place):
            pieces.append(_Piece(text, end - begin))
            begin, place = end, place + len(text)
    if begin < len(ids):
        pieces.append(_Piece(whole[place:], len(ids) - begin))
    return pieces


def _continues(words: Sequence[_Piece], text: str) -> bool:
    """Whether a text goes on with the character before it: an accent, a vowel sign, the rest of an emoji."""
    is_after_joiner = bool(words) and words[-1].text.endswith(_JOINER)
    return is_after_joiner or text[:1] == _JOINER or unicodedata.category(text[:1] or " ")[0] == "M"


def _usual_duration(durations_s: np.ndarray) -> float:
    durations_s = durations_s[durations_s > 0]
    return min(_MOST_USUAL_S, float(np.median(durations_s))) if len(durations_s) else 0.0


def _cap_sentence_ends(texts: Sequence[str], starts: np.ndarray, ends: np.ndarray, most_s: float) -> None:
    """A mark that ends a sentence, and the word after it, get no more than that of the silence between; in place."""
    for n in range(1, len(texts)):
        if ends[n] - starts[n] <= most_s:
            continue
        if texts[n] in _SENTENCE_ENDS:
            ends[n] = starts[n] + most_s
        elif texts[n - 1] in _SENTENCE_ENDS:
            starts[n] = ends[n] - most_s


def _join_punctuation(words: Sequence[WordTiming]) -> list[WordTiming]:
    """Marks become part of the words they stand at, whose times and probabilities stay what they were."""
    opened: list[WordTiming] = []
    for word in reversed(words):
        if opened and word.text.startswith(" ") and _is_of(word.text.strip(), _OPENING):
            opened[-1] = opened[-1]._replace(text=word.text + opened[-1].text)
        else:
            opened.append(word)
    joined: list[WordTiming] = []
    for word in reversed(opened):
        if joined and word.text in _CLOSING and not joined[-1].text.endswith(" "):
            joined[-1] = joined[-1]._replace(text=joined[-1].text + word.text)
        else:
            joined.append(word)
    return joined


def _is_of(text: str, marks: frozenset[str]) -> bool:
    return not text or text in marks


def _cap_after_pause(words: list[WordTiming], heard_until_s: float, usual_s: float) -> list[WordTiming]:
    """The first two words of a segment that comes after a pause: the path may have given them some of it."""
    most_s = 2 * usual_s
    if not words or words[0].end_s - heard_until_s <= _PAUSE_IN_WORDS * usual_s:
        return words
    first, second = words[0], words[1] if len(words) > 1 else None
    is_long = first.end_s - first.start_s > most_s
    if not is_long and (second is None or second.end_s - first.start_s <= 2 * most_s):
        return words
    if second is not None and second.end_s - second.start_s > most_s:
        between_s = max(second.end_s / 2, second.end_s - most_s)
        first, words[1] = first._replace(end_s=between_s), second._replace(start_s=between_s)
    words[0] = first._replace(start_s=max(0.0, first.end_s - most_s))
    return words


def with_words(
    result: DecodingResult, groups: Sequence[Sequence[WordTiming]], logprobs: Sequence[float]
) -> DecodingResult:
    """A given text, once its words have times: a segment begins and ends with them.

    Args:
        groups: the words of each segment.
        logprobs: of each of its text tokens.
    """
    segments, begin = [], 0
    for segment, group in zip(result.segments, groups, strict=True):
        of_segment = logprobs[begin : begin + segment.num_tokens]
        begin += segment.num_tokens
        mean = sum(of_segment) / len(of_segment) if of_segment else None
        if group:
            segment = replace(segment, start_s=group[0].start_s, end_s=group[-1].end_s)
        segments.append(replace(segment, avg_logprob=mean))
    return replace(
        result,
        segments=tuple(segments),
        token_logprobs=tuple(logprobs),
        avg_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
    )


def fit(words: Sequence[WordTiming], start_s: float, end_s: float) -> list[WordTiming]:
    """Words inside their segment, in order, none reaching into the next, and none without time where there is some.

    Args:
        start_s, end_s: of the segment, on the clock of the words.
    """
    least_s = min(_SHORTEST_S, (end_s - start_s) / max(len(words), 1))
    # Front to back, so that each begins after the one before; then back to front, so that the last has time as well.
    waiting = accumulate(
        (word.start_s for word in words), lambda at, s: max(s, at + least_s), initial=start_s - least_s
    )
    latest = [*waiting][1:]
    starts = [*accumulate(reversed(latest), lambda at, s: min(s, at - least_s), initial=end_s)][::-1]
    return [
        word._replace(start_s=start, end_s=min(max(word.end_s, start + least_s), following))
        for word, (start, following) in zip(words, pairwise(starts), strict=True)
    ]
