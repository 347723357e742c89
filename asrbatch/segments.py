"""An answer's text and the times of its pieces, as they stand in a row: seconds from the row's own start.

Times come from the model's timestamps where it gave some, otherwise from the window. They ascend, lie inside the window,
and reach no further than the next window's start: an hour in, they are as good as in the first minute, because each
window begins at a known sample.
"""

from dataclasses import replace
from itertools import zip_longest
from typing import Any

from . import guards
from .types import Generation, Window


def kept(generation: Generation, window: Window, kept_until: int) -> Generation:
    """The answer as far as the next window does not hear the same again, its tokens and their mean log-probability too.

    Args:
        kept_until: sample of the recording at which the next window starts; the window's end where they do not overlap.

    A part that was kept ended where the model closed a segment: its `finish_reason` is `stop`.
    """
    if kept_until >= window.end:
        return generation
    pieces = generation.closed_segments
    weights = [(p.avg_logprob, p.num_tokens) for p in pieces if p.avg_logprob is not None]
    num_tokens = sum(n for _, n in weights)
    return replace(
        generation,
        text="".join(piece.text for piece in pieces),
        num_tokens=num_tokens,
        segments=pieces,
        resume_s=None,
        finish_reason="stop",
        avg_logprob=sum(p * n for p, n in weights) / num_tokens if num_tokens else generation.avg_logprob,
    )


def rows(generation: Generation, window: Window, kept_until: int, sample_rate: int) -> list[dict[str, Any]]:
    """The segments of a window as a row has them, each with the figures of `guards`; none without text.

    Args:
        generation: as `kept` gives it.
    """
    first_s, last_s = window.start / sample_rate, min(window.end, kept_until) / sample_rate
    pieces = [s for s in generation.segments if s.text.strip()]
    if not generation.segments and generation.text.strip():
        return [_row(generation.text.strip(), first_s, last_s, generation.avg_logprob, generation)]
    found, earliest_s = [], first_s
    for piece, following in zip_longest(pieces, pieces[1:]):
        start_s = min(max(first_s + piece.start_s, earliest_s), last_s)
        said_s = piece.end_s if piece.end_s is not None else following.start_s if following else last_s - first_s
        earliest_s = end_s = min(max(first_s + said_s, start_s), last_s)
        found.append(_row(piece.text.strip(), start_s, end_s, piece.avg_logprob, generation))
    return found


def _row(text: str, start_s: float, end_s: float, avg_logprob: float | None, generation: Generation) -> dict[str, Any]:
    figures = guards.figures(text, end_s - start_s, avg_logprob, generation.no_speech_prob)
    return {"start": round(start_s, 6), "end": round(end_s, 6), "text": text, **figures}
