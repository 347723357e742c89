"""Subtitles by the rules of broadcasters: texts with times in, cues out.

Speech has times only where the model gave them: without times of words, the time within a segment is shared out by the
width of the text.
The words are the model's: none is left out, added or moved. Knows nothing of files and of their syntax.

The way of timing is that of two published guides (see `options.py`), Netflix's Subtitle Timing Guidelines (closing
gaps) and the BBC's (timing, synchronisation).
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from asrbatch.export.cue_layout import AFTER_CLAUSE, TextPiece, lay_out, pieces
from asrbatch.export.options import CueLimits
from asrbatch.export.transcript import TranscriptSegment, ordered_ms, single_line, spans_ms

# Netflix: gaps of up to half a second between two cues are closed to the smallest gap.
_CLOSED_GAP_MS = 500
# BBC: a subtitle should not hang on the screen for more than 1.5 s after speech has stopped. Only reading speed asks
# for it.
_LINGER_MS = 1500
# A silence as long as this begins a new cue, whatever else speaks against it.
_PAUSE_MS = 1000

# What speaks against a cue, where one that ends between any two words has a cost of 1.
# At most: a cue with hardly any text.
_COST_OF_EMPTY = 0.7
# At most: a cue with no time at all.
_COST_OF_SHORT = 6.0
# A cue in which twice the reading speed would be needed.
_COST_OF_HASTE = 2.0


class Cue(NamedTuple):
    """What stands on the screen from `start_ms` to `end_ms`; lines without white space at either end, none of them
    empty.
    """

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def cues(segments: Sequence[TranscriptSegment], audio_ms: int, limits: CueLimits) -> list[Cue]:
    """The cues of one utterance.

    Always: cues are in order, none overlaps another, every one lasts at least 1 ms and at most the longest duration,
    all are inside the audio (unless it has more cues than milliseconds); no line is too wide but one that holds a
    single word, and no cue has too many lines.

    The shortest duration and the smallest gap are kept whenever the audio has time for that many of both. For reading
    speed a cue stays on past its speech as long as the next one, the longest duration and 1.5 s allow: where people
    speak faster than that, words are kept and the speed is exceeded.
    """
    spans = ordered_ms(segments, audio_ms)
    if limits.words:
        return _one_each(segments, spans)
    words = [word for segment, span in zip(segments, spans, strict=True) for word in _words(segment, *span)]
    if not words:
        return []
    groups = _divide(words, audio_ms, limits)
    return [
        Cue(start_ms, end_ms, lay_out([word.piece for word in group], limits.max_line_chars))
        for group, (start_ms, end_ms) in zip(groups, _times(groups, audio_ms, limits), strict=True)
    ]


class _Word(NamedTuple):
    """A piece of text with its times.

    Attributes:
        first: it begins a segment.
    """

    piece: TextPiece
    start_ms: int
    end_ms: int
    first: bool


def _words(segment: TranscriptSegment, start_ms: int, end_ms: int) -> list[_Word]:
    if not (text := single_line(segment.text)):
        return []
    found = pieces(text)
    weights = [piece.width + piece.spaced for piece in found]
    spans = spans_ms(segment, [piece.text for piece in found], weights, start_ms, end_ms)
    return [_Word(piece, *span, not at) for at, (piece, span) in enumerate(zip(found, spans, strict=True))]


def _one_each(segments: Sequence[TranscriptSegment], spans: Sequence[tuple[int, int]]) -> list[Cue]:
    """A cue for each word, from its start to its end; none lasts less than 1 ms."""
    found: list[Cue] = []
    for segment, span in zip(segments, spans, strict=True):
        parts = segment.parts
        for part, (start_ms, end_ms) in zip(parts, spans_ms(segment, parts, [*map(len, parts)], *span), strict=True):
            start_ms = max(start_ms, found[-1].end_ms if found else 0)
            found.append(Cue(start_ms, max(end_ms, start_ms + 1), (part,)))
    return found


def _width(words: Sequence[_Word]) -> int:
    return sum(word.piece.width + word.piece.spaced for word in words) - words[0].piece.spaced


def _divide(words: list[_Word], audio_ms: int, limits: CueLimits) -> list[list[_Word]]:
    """The words of each cue, from first to last: of the places where a cue may end, the best, and of equal ones the
    latest.
    """
    groups, start = [], 0
    while start < len(words):
        ends = [(_cost(words, start, end, chars, audio_ms, limits), -end) for end, chars in _ends(words, start, limits)]
        end = -min(ends)[1]
        groups.append(words[start:end])
        start = end
    return groups


def _ends(words: list[_Word], start: int, limits: CueLimits) -> Iterator[tuple[int, int]]:
    """Where a cue that begins at `start` may end, and its characters: before it has too many lines, and before a
    silence.

    A text of several lines ends before it lasts too long; of one line said in a long time, a part would say too little.
    """
    num_lines, used, chars = 1, 0, 0
    for end in range(start + 1, len(words) + 1):
        word = words[end - 1]
        used += word.piece.width_after(used)
        if used > limits.max_line_chars and used > word.piece.width:
            num_lines, used = num_lines + 1, word.piece.width
        is_apart = end > start + 1 and word.start_ms - words[end - 2].end_ms >= _PAUSE_MS
        is_long = num_lines > 1 and end > start + 1 and word.end_ms - words[start].start_ms > limits.max_ms
        if num_lines > limits.max_lines or is_apart or is_long:
            return
        chars += word.piece.width_after(chars)
        yield end, chars


def _cost(words: list[_Word], start: int, end: int, chars: int, audio_ms: int, limits: CueLimits) -> float:
    """What speaks against a cue of the words [start, end)."""
    cost = _COST_OF_EMPTY * (1 - min(1, chars / (limits.max_line_chars * limits.max_lines)))
    until_ms, needed_ms = audio_ms, limits.min_ms + limits.gap_ms
    if end < len(words):
        until_ms = words[end].start_ms
        ending = words[end - 1].piece.ending
        cost += min(ending, AFTER_CLAUSE) if words[end].first else ending if words[end].piece.spaced else 1.5 * ending
    slot_ms = until_ms - words[start].start_ms
    if slot_ms < needed_ms:
        cost += _COST_OF_SHORT * (1 - slot_ms / needed_ms)
    if (reading_ms := limits.reading_ms(chars)) > slot_ms:
        cost += _COST_OF_HASTE * min(reading_ms / max(slot_ms, 1) - 1, 2.0)
    return cost


def _times(groups: list[list[_Word]], audio_ms: int, limits: CueLimits) -> list[tuple[int, int]]:
    """When each cue appears and disappears."""
    gap_ms, needed_ms = limits.gap_ms, limits.min_ms + limits.gap_ms
    # The last one needs no gap after it.
    total_ms = audio_ms + gap_ms
    # No time for so many: equal shares.
    if needed_ms * len(groups) > total_ms:
        audio_ms = total_ms = max(audio_ms, len(groups))
        needed_ms = total_ms // len(groups)
        gap_ms = min(gap_ms, needed_ms // 2)
    starts = _starts([group[0].start_ms for group in groups], needed_ms, total_ms)
    latest = [*(start_ms - gap_ms for start_ms in starts[1:]), audio_ms]
    times = []
    for group, start_ms, latest_ms in zip(groups, starts, latest, strict=True):
        speech_ends_ms, reading_ms = group[-1].end_ms, limits.reading_ms(_width(group))
        readable_ms = min(start_ms + reading_ms, max(speech_ends_ms, start_ms) + _LINGER_MS)
        end_ms = max(speech_ends_ms, readable_ms, start_ms + limits.min_ms)
        if group is not groups[-1] and latest_ms - end_ms <= _CLOSED_GAP_MS:
            end_ms = latest_ms
        times.append((start_ms, max(min(end_ms, latest_ms, start_ms + limits.max_ms), start_ms + 1)))
    return times


def _starts(speech_ms: list[int], needed_ms: int, total_ms: int) -> list[int]:
    """When cues appear whose speech begins at these times, each of which needs so much time."""
    # Front to back, then back to front: it proves shortest duration and gap wherever the audio has time for them. Cues
    # appear with their speech; where one has too little time the next one waits, and at the end the last come earlier.
    waiting = list(accumulate(speech_ms, lambda before, start: max(start, before + needed_ms)))
    backwards = accumulate(reversed(waiting), lambda after, start: min(start, after - needed_ms), initial=total_ms)
    return list(backwards)[:0:-1]
