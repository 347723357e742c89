"""The texts that a row has, and the windows along which they are aligned with its audio (`asrbatch align`).

A text that comes in pieces with times, as asrbatch, openai-whisper, faster-whisper and whisperX write them, is aligned
piece by piece, as many at once as the model hears; one without goes as a whole. Knows nothing of the model and of
threads.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from asrbatch.audio.buffer import AudioBuffer, AudioWindow, WindowLimits
from asrbatch.audio.silence import add_skip
from asrbatch.errors import RowError
from asrbatch.formatting import show
from asrbatch.types import GivenText, Window

# Beyond any recording; a time that cannot be counted in samples would end the run.
_MOST_S = 1e9
# Lists of pieces that a row may have; of the first one that says the whole text.
PIECES = ("segments", "windows")
# Seconds of audio around a window's texts, where no other text is: people's times are not exact.
_AROUND_S = 0.2
# Of the shortest window.
_SHORTEST_S = 0.1
# By so much two pieces may overlap that are aligned together, one after the other.
_OVERLAP_S = 0.5
# Times are rounded: by so much a piece may be longer than a window.
_SLACK_S = 0.001


def text_problem(fields: dict[str, Any], text_field: str) -> str | None:
    """Why a row has no text to align, whatever it was made of; None where it has one, or none because it failed."""
    if text_field not in fields:
        return f"has no {text_field}; --text-field names the field that holds the text"
    text = fields[text_field]
    if text is not None and not isinstance(text, str):
        return f"{text_field} = {show(text)}: must be a string"
    if text is not None and any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"{text_field} = {show(text)}: holds half of a surrogate pair, which is not a character; correct it"
    return None


def given_texts(fields: dict[str, Any], text_field: str) -> list[GivenText]:
    """The texts of a row, in order, from its start; none of an empty one.

    Raises:
        RowError: `bad_row`, there is no text, or its pieces are not in order.
    """
    if (text := fields[text_field]) is None:
        raise RowError("bad_row", f"{text_field} is null: there is nothing to align; transcribe this row first")
    for name in PIECES:
        pieces = _timed_pieces(fields.get(name))
        # Those of another text, such as segments beside a reference, say nothing of this one.
        if pieces and _letters("".join(piece.text for piece in pieces)) == _letters(text):
            _check_order(pieces, name)
            return pieces
    return [GivenText(text.strip())] if text.strip() else []


def _timed_pieces(value: Any) -> list[GivenText]:
    """Those of a list that says of each piece its `start`, `end` and `text`; none of anything else."""
    pieces = []
    for piece in value if isinstance(value, list) else ():
        try:
            start_s, end_s, text = piece["start"], piece.get("kept_until", piece["end"]), piece["text"]
        except (TypeError, KeyError, AttributeError):
            return []
        is_time = [isinstance(s, int | float) and 0 <= s <= _MOST_S for s in (start_s, end_s)]
        if not isinstance(text, str) or not all(is_time):
            return []
        if text.strip():
            pieces.append(GivenText(text.strip(), float(start_s), float(end_s)))
    return pieces


def _letters(text: str) -> str:
    return "".join(text.split())


def _check_order(pieces: Sequence[GivenText], name: str) -> None:
    for before, piece in pairwise(pieces):
        if piece.start_s < before.start_s:
            raise RowError(
                "bad_row",
                f"{name}: one begins at {before.start_s:g} s, and the next at {piece.start_s:g} s; sort them by start",
            )
    for piece in pieces:
        if piece.end_s is not None and piece.end_s < piece.start_s:
            raise RowError(
                "bad_row", f"{name}: one begins at {piece.start_s:g} s and ends at {piece.end_s:g} s; correct it"
            )


def given_windows(
    buffer: AudioBuffer,
    texts: Sequence[GivenText],
    limits: WindowLimits,
    skips: list[Window],
    fits: Callable[[Sequence[str]], bool],
) -> Iterator[AudioWindow]:
    """Windows of audio with the texts that are said in them. Two overlap where their texts do.

    Args:
        skips: receives what lies between them.
        fits: whether the model can read texts at once.

    Raises:
        RowError: `too_long`, a text without times, or between them, is more than the model hears or reads at once;
            `bad_row`, the audio ends before a text begins.
    """
    rate = limits.sample_rate
    if len(texts) == 1 and texts[0].end_s is None:
        samples = buffer.peek(limits.limit + 1)
        if len(samples) > limits.limit or not fits([texts[0].text]):
            fix = "give the row `segments` with start, end and text that say the same text"
            raise RowError("too_long", f"it is longer than the model takes at once ({_most(limits)}); {fix}")
        window = Window(0, len(samples))
        yield AudioWindow(window, samples.copy(), given=(_shifted(texts[0], window, rate),))
        buffer.advance(len(samples))
        return
    groups = _grouped(texts, limits, fits)
    for group, following in zip_longest(groups, groups[1:]):
        window = _span(group, following, buffer.position, limits)
        _skip(buffer, window.start, limits, skips)
        samples = buffer.peek(window.end - window.start)
        if not len(samples):
            raise RowError(
                "bad_row", f"a text begins at {group[0].start_s:g} s, after the end of the audio; correct it"
            )
        window = Window(window.start, window.start + len(samples))
        yield AudioWindow(window, samples.copy(), given=tuple(_shifted(text, window, rate) for text in group))
        # The next one may begin before this one ends.
        passed = len(samples) if following is None else round(following[0].start_s * rate) - window.start
        buffer.advance(min(max(passed, 0), len(samples)))
    _skip(buffer, None, limits, skips)


def is_too_long(texts: Sequence[GivenText], audio_s: float | None, most_s: float) -> bool:
    """Whether `given_windows` is sure to raise `too_long`, by times alone: tokens are not known here.

    Args:
        audio_s: as the row states it; None where it does not.
        most_s: what the model hears at once.
    """
    if len(texts) == 1 and texts[0].end_s is None:
        return audio_s is not None and audio_s > most_s + _SLACK_S
    return any((text.end_s or 0.0) - text.start_s > most_s + _SLACK_S for text in texts)


def _grouped(
    texts: Sequence[GivenText], limits: WindowLimits, fits: Callable[[Sequence[str]], bool]
) -> list[list[GivenText]]:
    """As many at once as the model hears and reads."""
    most_s = limits.limit / limits.sample_rate + _SLACK_S
    groups: list[list[GivenText]] = []
    for text in texts:
        assert text.end_s is not None  # one without times is alone
        if text.end_s - text.start_s > most_s or not fits([text.text]):
            fix = "split it, or transcribe with shorter windows (--window-seconds)"
            between = f"its text from {text.start_s:g} to {text.end_s:g} s"
            raise RowError("too_long", f"{between} is longer than the model takes at once ({_most(limits)}); {fix}")
        group = groups[-1] if groups else None
        if (
            group
            and text.end_s - group[0].start_s <= most_s
            and text.start_s > (group[-1].end_s or 0.0) - _OVERLAP_S
            and fits([*(each.text for each in group), text.text])
        ):
            group.append(text)
        else:
            groups.append([text])
    return groups


def _span(
    group: Sequence[GivenText], following: Sequence[GivenText] | None, position: int, limits: WindowLimits
) -> Window:
    rate = limits.sample_rate
    first_s, last_s = group[0].start_s, max(text.end_s or 0.0 for text in group)
    start = max(position, round((first_s - _AROUND_S) * rate))
    end_s = last_s + _AROUND_S if following is None else min(last_s + _AROUND_S, max(last_s, following[0].start_s))
    end = max(round(end_s * rate), start + round(_SHORTEST_S * rate))
    # What there is of silence around is the first to go.
    start = min(max(start, end - limits.limit), max(position, round(first_s * rate)))
    return Window(start, min(end, start + limits.limit))


def _shifted(text: GivenText, window: Window, rate: int) -> GivenText:
    """On the window's clock, inside it."""
    length_s = (window.end - window.start) / rate
    start_s = min(max(text.start_s - window.start / rate, 0.0), length_s)
    end_s = length_s if text.end_s is None else min(max(text.end_s - window.start / rate, start_s), length_s)
    return GivenText(text.text, start_s, end_s)


def _skip(buffer: AudioBuffer, until: int | None, limits: WindowLimits, skips: list[Window]) -> None:
    """Passes audio up to a sample, or to its end."""
    while until is None or buffer.position < until:
        wanted = limits.limit if until is None else min(until - buffer.position, limits.limit)
        if not (passed := len(buffer.peek(wanted))):
            return
        add_skip(skips, Window(buffer.position, buffer.position + passed))
        buffer.advance(passed)


def _most(limits: WindowLimits) -> str:
    return f"{limits.limit / limits.sample_rate:g} s, or as many tokens as its decoder has room for"
