"""One output row: the manifest's fields as they were, then ours, in a fixed order.

An answer's text and the times of its pieces, as they stand in a row: seconds from the row's own start.

Times come from the model's timestamps where it gave some, otherwise from the window. They ascend, lie inside the
window, and reach no further than the next window's start: an hour in, they are as good as in the first minute, because
each window begins at a known sample."""

import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from asrbatch.errors import RowError
from asrbatch.languages import NO_SPACES
from asrbatch.models import fallback, quality
from asrbatch.models.fallback import Attempts
from asrbatch.types import DecodingResult, Utterance, Window


def kept_windows(generation: DecodingResult, window: Window, kept_until: int) -> DecodingResult:
    """The answer as far as the next window does not hear the same again, its tokens and their mean log-probability too.

    Args:
        kept_until: sample of the recording at which the next window starts; the window's end where they do not overlap.

    A part that was kept_windows ended where the model closed a segment: its `finish_reason` is `stop`.
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


def segment_rows(generation: DecodingResult, window: Window, kept_until: int, sample_rate: int) -> list[dict[str, Any]]:
    """The segments of a window as a row has them, each with the figures of `guards`; none without text.

    Args:
        generation: as `kept_windows` gives it.
    """
    first_s, last_s = window.start / sample_rate, min(window.end, kept_until) / sample_rate
    pieces = [s for s in generation.segments if s.text.strip()]
    if not generation.segments and generation.text.strip():
        return [_segment_row(generation.text.strip(), first_s, last_s, generation.avg_logprob, generation)]
    found, earliest_s = [], first_s
    for piece, following in zip_longest(pieces, pieces[1:]):
        start_s = min(max(first_s + piece.start_s, earliest_s), last_s)
        said_s = piece.end_s if piece.end_s is not None else following.start_s if following else last_s - first_s
        earliest_s = end_s = min(max(first_s + said_s, start_s), last_s)
        found.append(_segment_row(piece.text.strip(), start_s, end_s, piece.avg_logprob, generation))
    return found


def _segment_row(
    text: str, start_s: float, end_s: float, avg_logprob: float | None, generation: DecodingResult
) -> dict[str, Any]:
    figures = quality.metrics(text, end_s - start_s, avg_logprob, generation.no_speech_prob)
    return {"start": round(start_s, 6), "end": round(end_s, 6), "text": text, **figures}


# Our fields, in the order they are written after `id`, `index` and the manifest's own.
RESULT_FIELDS = (
    "status",
    "error",
    "pred_text",
    "reasoning",
    "audio_s",
    "language",
    "language_prob",
    "windows",
    "skips",
    "segments",
    "num_tokens",
    "avg_logprob",
    "finish_reason",
    "flags",
    "timing",
)
TIMING_FIELDS = ("read", "prepare", "queue", "first_token", "generate", "total")
# Two letters of scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana, Han, and their punctuation.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u9fff\uff01-\uff60]{2}")
_RESERVED = {"index", "input", *RESULT_FIELDS}
_DATA_URI = re.compile(r"(data:[^\s,]*;base64),", re.IGNORECASE)  # RFC 2397; a text may well begin with "data:"


@dataclass(frozen=True, slots=True)
class WindowResult:
    """A window and the answers to it."""

    window: Window
    attempts: Attempts


def ok_row(
    utterance: Utterance,
    *,
    audio_s: float,
    sample_rate: int,
    heard: Sequence[WindowResult],
    skips: Sequence[Window] = (),
    flags: Sequence[str],
    drop_no_speech: bool = False,
    is_translated: bool = False,
    target_language: str | None = None,
    timing: dict[str, float | None],
) -> dict[str, Any]:
    """The row of a transcribed utterance.

    Args: heard: its windows in order of time. One may reach into the next, which then hears again what comes from its
        start on. skips: audio that holds no speech, and that nobody was asked about; a window may reach into one, and
        ends there then. flags: of the audio; those of the text are added here. drop_no_speech: text of windows without
        speech is left out of `pred_text` and `segments`; it stays in `windows`. is_translated: the text is in
        `target_language` (None: nobody knows), not in that of the answers, which is the one spoken. timing: seconds by
        name; queue, first_token and generate come from the answers.
    """
    windows, texts, pieces, chosen = [], [], [], []
    starts = sorted([*(h.window.start for h in heard[1:]), *(skip.start for skip in skips)])
    for one in heard:
        following = bisect_right(starts, one.window.start)
        kept_until = min([one.window.end, *starts[following : following + 1]])
        kept = kept_windows(one.attempts.chosen, one.window, kept_until)
        text = kept.text.strip()
        is_dropped = drop_no_speech and bool(text) and quality.is_no_speech(one.attempts.chosen)
        windows.append(_window(one, kept, kept_until, is_dropped, sample_rate))
        chosen.append(kept)
        if not is_dropped:
            texts.append(text)
            pieces += segment_rows(kept, one.window, kept_until, sample_rate)
    asked = [g for h in heard for g in h.attempts.generations]
    language = chosen[0].language if chosen else None
    text = _joined(list(filter(None, texts)), target_language if is_translated else language)
    thoughts = [g.reasoning for g in chosen if g.reasoning is not None]
    # An average is over the text tokens and, where it came to that, the end token.
    weights = [(g.avg_logprob, g.num_tokens + (g.finish_reason == "stop")) for g in chosen if g.avg_logprob is not None]
    of_windows = [
        flag for window in windows for flag in window["flags"] if flag not in ("empty", "no_speech", "dropped")
    ]
    is_silent = all("no_speech" in window["flags"] for window in windows)
    of_row = ([] if text else ["empty"]) + (["no_speech"] if is_silent else []) + of_windows
    return _row(
        utterance,
        status="ok",
        error=None,
        pred_text=text,
        reasoning="\n\n".join(thoughts) if thoughts else None,
        audio_s=round(audio_s, 6),
        language=language,
        language_prob=quality.rounded(chosen[0].language_prob, 4) if chosen else None,
        windows=windows,
        skips=[_span(skip, sample_rate) for skip in skips],
        segments=pieces,
        num_tokens=sum(g.num_tokens for g in chosen),
        avg_logprob=quality.rounded(sum(p * n for p, n in weights) / sum(n for _, n in weights), 4)
        if weights
        else None,
        finish_reason="length" if any(g.finish_reason == "length" for g in chosen) else "stop",
        flags=list(dict.fromkeys([*flags, *of_row])),
        timing={
            **timing,
            "queue": sum(g.queue_s for g in asked),
            "first_token": asked[0].first_token_s if asked else None,
            "generate": sum(g.generate_s for g in asked),
        },
    )


def failed_row(utterance: Utterance, error: RowError, timing: dict[str, float | None]) -> dict[str, Any]:
    """The row of an utterance that could not be transcribed; the same fields, empty."""
    return _row(
        utterance,
        status="failed",
        error={"kind": error.kind, "message": error.message},
        pred_text=None,
        reasoning=None,
        audio_s=None,
        language=None,
        language_prob=None,
        windows=[],
        skips=[],
        segments=[],
        num_tokens=None,
        avg_logprob=None,
        finish_reason=None,
        flags=[],
        timing=timing,
    )


def _row(utterance: Utterance, *, timing: dict[str, float | None], **result: Any) -> dict[str, Any]:
    carried, moved = {}, {}
    for name, value in utterance.fields.items():
        if name == "id":
            continue  # stands first, as a string
        (moved if name in _RESERVED else carried)[name] = _carried(value)
    row = {"id": utterance.id, "index": utterance.index, **carried}
    if moved:
        row["input"] = moved
    row |= {name: result[name] for name in RESULT_FIELDS if name != "timing"}
    row["timing"] = {name: quality.rounded(timing.get(name), 6) for name in TIMING_FIELDS}
    return row


def _window(
    heard: WindowResult, kept: DecodingResult, kept_until: int, is_dropped: bool, sample_rate: int
) -> dict[str, Any]:
    text, seconds = kept.text.strip(), (kept_until - heard.window.start) / sample_rate
    return {
        **_span(heard.window, sample_rate),
        "kept_until": round(kept_until / sample_rate, 6),
        "text": text,
        "reasoning": kept.reasoning,
        "num_tokens": kept.num_tokens,
        "finish_reason": kept.finish_reason,
        **quality.metrics(text, seconds, kept.avg_logprob, kept.no_speech_prob),
        "temperature": kept.temperature,
        "flags": quality.flags(kept, seconds) + (["dropped"] if is_dropped else []),
        "attempts": fallback.as_rows(heard.attempts),
        "chosen_because": heard.attempts.reason,
    }


def _joined(texts: Sequence[str], language: str | None) -> str:
    """The texts of windows in a row, by the language they are written in. Where nobody knows it, the letters at a seam
    tell.
    """
    joined = ""
    for text in texts:
        is_close = language in NO_SPACES or (language is None and bool(_UNSPACED.match(joined[-1:] + text[:1])))
        joined += text if is_close or not joined else f" {text}"
    return joined


def _span(window: Window, sample_rate: int) -> dict[str, float]:
    return {"start": round(window.start / sample_rate, 6), "end": round(window.end / sample_rate, 6)}


def _carried(value: Any) -> Any:
    """A manifest value as JSON can hold it: non-finite numbers as null, embedded audio as its digest."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        if uri := _DATA_URI.match(value):
            return f"{uri[1]},sha256={hashlib.sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()}"
        return value
    if isinstance(value, dict):
        return {key: _carried(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_carried(item) for item in value]
    return value
