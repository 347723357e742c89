"""Makes an output row: the manifest's fields as they were, then ours, in a fixed order.

Times are seconds from the row's own start. They come from the model's timestamps where it gave some, otherwise from the
window; they ascend, lie inside the window, and reach no further than the next window's start: an hour in, they are as
good as in the first minute, because each window begins at a known sample. Knows nothing of threads, engine or files.
"""

import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from asrbatch.engine.spec import EngineSpec
from asrbatch.errors import RowError
from asrbatch.languages import NO_SPACES, UNSPACED
from asrbatch.models import fallback, quality, words
from asrbatch.pipeline.state import InFlightWindow, UtteranceState
from asrbatch.types import DecodingResult, Utterance, Window, WordTiming

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
TIMING_FIELDS = ("read", "prepare", "queue", "first_token", "generate", "engine", "total")
# What the fields hold that are objects; `error` is null in rows that are ok.
_INSIDE = {"error": ("kind", "message"), "timing": TIMING_FIELDS}
_UNSPACED_SEAM = re.compile(UNSPACED + "{2}")
# A manifest field of such a name moves under `input`, so one called `input` must move as well.
_RESERVED = {"index", "input", "audio_track", *RESULT_FIELDS}
# RFC 2397, base64 only: a text may well begin with "data:".
_DATA_URI = re.compile(r"(data:[^\s,]*;base64),", re.IGNORECASE)


def flat_row(row: dict[str, Any]) -> dict[str, Any]:
    """An output row for a table: `error` and `timing` become columns such as `error.kind` and `timing.engine`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if (inside := _INSIDE.get(name)) is None:
            flat[name] = value
        else:
            flat |= {f"{name}.{each}": (value or {}).get(each) for each in inside}
    return flat


def ok_row(state: UtteranceState, spec: EngineSpec) -> dict[str, Any]:
    """The row of an utterance whose windows are all answered.

    A window may reach into the next, which then hears again what comes from its start on, or into skipped audio, which
    nobody was asked about: what counts of its answer ends there.
    """
    config, aligns = spec.window_config, spec.window_config.text_field is not None
    windows, texts, segments, results = [], [], [], []
    answered = sorted(state.answered, key=lambda window: window.span.start)
    starts = sorted([*(window.span.start for window in answered[1:]), *(skip.start for skip in state.skips)])
    for window in answered:
        following = bisect_right(starts, window.span.start)
        # Windows of given texts overlap where these do, and each keeps its own.
        kept_until = window.span.end if aligns else min([window.span.end, *starts[following : following + 1]])
        kept = kept_part(window.attempts.chosen, window.span, kept_until)
        # Of the whole answer: a part of it says nothing of whether anybody speaks in the window.
        is_dropped = config.drop_no_speech and bool(kept.text.strip()) and quality.is_no_speech(window.attempts.chosen)
        windows.append(_window_row(window, kept, kept_until, is_dropped, config.sample_rate))
        results.append(kept)
        if not is_dropped:
            texts.append(kept.text.strip())
            segments += segment_rows(
                kept, window.span, kept_until, config.sample_rate, window.words, window.audio_gains
            )
    # The first window's: all others were decoded in it where the model detects languages.
    language = results[0].language if results else None
    text = _joined(list(filter(None, texts)), spec.target_language if spec.is_translated else language)
    if config.text_field is not None:
        text = state.utterance.fields[config.text_field].strip()  # as it was given, not as its pieces are joined
    # Over the text tokens and, where it came to that, the end token.
    avg_logprob = _mean_logprob((r.avg_logprob, r.num_tokens + (r.finish_reason == "stop")) for r in results)
    reasoning = [result.reasoning for result in results if result.reasoning is not None]
    row = _row(
        state.utterance,
        aligns=aligns,
        status="ok",
        pred_text=text,
        reasoning="\n\n".join(reasoning) if reasoning else None,
        audio_s=round(state.audio_s, 6),
        language=language,
        language_prob=quality.rounded(results[0].language_prob, 4) if results else None,
        windows=windows,
        skips=[_span(skip, config.sample_rate) for skip in state.skips],
        segments=segments,
        num_tokens=sum(result.num_tokens for result in results),
        avg_logprob=quality.rounded(avg_logprob, 4),
        finish_reason="length" if any(result.finish_reason == "length" for result in results) else "stop",
        flags=list(dict.fromkeys([*state.flags, *_row_flags(text, windows, is_given=aligns)])),
        timing=state.timing | _engine_timing([result for w in answered for result in w.attempts.results]),
    )
    # Few files have several tracks, so this is no field of every row.
    return row if state.track is None else row | {"audio_track": state.track}


def failed_row(
    utterance: Utterance, error: RowError, timing: dict[str, float | None], *, aligns: bool = False
) -> dict[str, Any]:
    """The row of an utterance that could not be transcribed, or aligned; the same fields, empty."""
    reason = {"kind": error.kind, "message": error.message}
    empty: dict[str, list[Any]] = {name: [] for name in ("windows", "skips", "segments", "flags")}
    return _row(utterance, aligns=aligns, status="failed", error=reason, timing=timing, **empty)


def _mean_logprob(weights: Iterable[tuple[float | None, int]]) -> float | None:
    """Over mean log-probabilities with numbers of tokens; None over no token, or where no token has one."""
    known = [(p, n) for p, n in weights if p is not None]
    num_tokens = sum(n for _, n in known)
    return sum(p * n for p, n in known) / num_tokens if num_tokens else None


def _row_flags(text: str, windows: Sequence[dict[str, Any]], *, is_given: bool) -> list[str]:
    of_windows = [flag for window in windows for flag in window["flags"]]
    # What is empty or silent of a row is all of it, not a window.
    is_silent = not is_given and all("no_speech" in window["flags"] for window in windows)
    of_row = ([] if text else ["empty"]) + (["no_speech"] if is_silent else [])
    return of_row + [flag for flag in of_windows if flag not in ("empty", "no_speech", "dropped")]


def _engine_timing(results: Sequence[DecodingResult]) -> dict[str, float | None]:
    return {
        "queue": sum(result.queue_s for result in results),
        "first_token": results[0].first_token_s if results else None,
        "generate": sum(result.generate_s for result in results),
    }


def kept_part(result: DecodingResult, window: Window, kept_until: int) -> DecodingResult:
    """The answer as far as the next window does not hear the same again, its tokens and their mean log-probability too.

    Args:
        kept_until: sample of the recording at which the next window starts; the window's end where they do not overlap.

    A part ended where the model closed a segment: its `finish_reason` is `stop`.
    """
    if kept_until >= window.end:
        return result
    segments = result.closed_segments
    avg_logprob = _mean_logprob((segment.avg_logprob, segment.num_tokens) for segment in segments)
    return replace(
        result,
        text="".join(segment.text for segment in segments),
        num_tokens=sum(segment.num_tokens for segment in segments if segment.avg_logprob is not None),
        segments=segments,
        resume_s=None,
        finish_reason="stop",
        avg_logprob=result.avg_logprob if avg_logprob is None else avg_logprob,
    )


def segment_rows(
    result: DecodingResult,
    window: Window,
    kept_until: int,
    sample_rate: int,
    groups: Sequence[Sequence[WordTiming]] | None = None,
    gains: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """The segments of a window as a row has them, each with the metrics of `quality`; none without text.

    Args:
        result: as `kept_part` gives it.
        groups: the words of each segment of the whole answer, in seconds from the window's start; None for none.
        gains: `audio_gain` of each, of a given text; None for none.
    """
    first_s, last_s = window.start / sample_rate, min(window.end, kept_until) / sample_rate

    def words_of(number: int, start_s: float, end_s: float) -> dict[str, Any]:
        gain = {} if gains is None else {"audio_gain": quality.rounded(gains[number], 3)}
        return gain if groups is None else gain | _word_rows(groups[number], first_s, start_s, end_s)

    segments = [(n, segment) for n, segment in enumerate(result.segments) if segment.text.strip()]
    if not result.segments and result.text.strip():
        row = _segment_row(result.text.strip(), first_s, last_s, result.avg_logprob, result)
        return [row | words_of(0, first_s, last_s)]
    found, earliest_s = [], first_s
    for (n, segment), following in zip_longest(segments, segments[1:]):
        start_s = min(max(first_s + segment.start_s, earliest_s), last_s)
        # Text that the model did not close goes on until the next begins.
        stated_s = (
            segment.end_s if segment.end_s is not None else following[1].start_s if following else last_s - first_s
        )
        earliest_s = end_s = min(max(first_s + stated_s, start_s), last_s)
        row = _segment_row(segment.text.strip(), start_s, end_s, segment.avg_logprob, result)
        found.append(row | words_of(n, start_s, end_s))
    return found


def _word_rows(group: Sequence[WordTiming], window_s: float, start_s: float, end_s: float) -> dict[str, Any]:
    """The words of a segment as a row has them, inside it."""
    shifted = [word._replace(start_s=window_s + word.start_s, end_s=window_s + word.end_s) for word in group]
    return {
        "words": [
            {
                "word": word.text,
                "start": round(word.start_s, 6),
                "end": round(word.end_s, 6),
                "probability": quality.rounded(word.probability, 3),
            }
            for word in words.fit(shifted, start_s, end_s)
        ]
    }


def _segment_row(
    text: str, start_s: float, end_s: float, avg_logprob: float | None, result: DecodingResult
) -> dict[str, Any]:
    metrics = quality.metrics(text, end_s - start_s, avg_logprob, result.no_speech_prob)
    return {"start": round(start_s, 6), "end": round(end_s, 6), "text": text, **metrics}


def _row(utterance: Utterance, *, aligns: bool, timing: dict[str, float | None], **result: Any) -> dict[str, Any]:
    # `id` stands first, as a string.
    carried = {name: _carried(value) for name, value in utterance.fields.items() if name != "id"}
    # Words that another tool found would be taken for ours.
    reserved = _RESERVED | {"words"} if aligns else _RESERVED
    moved = {name: carried.pop(name) for name in list(carried) if name in reserved}
    row = {"id": utterance.id, "index": utterance.index, **carried}
    if moved:
        row["input"] = moved
    row |= {name: result.get(name) for name in RESULT_FIELDS if name != "timing"}
    row["timing"] = {name: quality.rounded(timing.get(name), 6) for name in TIMING_FIELDS}
    return row


def _window_row(
    window: InFlightWindow, kept: DecodingResult, kept_until: int, is_dropped: bool, sample_rate: int
) -> dict[str, Any]:
    text, seconds = kept.text.strip(), (kept_until - window.span.start) / sample_rate
    return {
        **_span(window.span, sample_rate),
        "kept_until": round(kept_until / sample_rate, 6),
        "text": text,
        "reasoning": kept.reasoning,
        "num_tokens": kept.num_tokens,
        "finish_reason": kept.finish_reason,
        **quality.metrics(text, seconds, kept.avg_logprob, kept.no_speech_prob),
        "temperature": kept.temperature,
        "flags": [
            *quality.flags(kept, seconds),
            *(["dropped"] if is_dropped else []),
            *(["text_mismatch"] if quality.is_mismatch(window.audio_gains) else []),
        ],
        "attempts": fallback.as_rows(window.attempts),
        "chosen_because": window.attempts.reason,
        # Only a given text has it.
        **({"audio_gain": quality.rounded(min(window.audio_gains), 3)} if window.audio_gains else {}),
    }


def _joined(texts: Sequence[str], language: str | None) -> str:
    """The texts of windows in a row, by the language they are written in. Where nobody knows it, the letters at a seam
    tell.
    """
    joined = ""
    for text in texts:
        is_close = language in NO_SPACES or (language is None and bool(_UNSPACED_SEAM.match(joined[-1:] + text[:1])))
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
