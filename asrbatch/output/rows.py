"""One output row: the manifest's fields as they were, then ours, in a fixed order."""

import hashlib
import math
import re
from typing import Any

from .. import guards
from ..errors import RowError
from ..types import Generation, Utterance, Window

# Our fields, in the order they are written after `id`, `index` and the manifest's own.
RESULT_FIELDS = (
    "status",
    "error",
    "pred_text",
    "audio_s",
    "language",
    "language_prob",
    "windows",
    "segments",
    "num_tokens",
    "avg_logprob",
    "finish_reason",
    "flags",
    "timing",
)
TIMING_FIELDS = ("read", "prepare", "queue", "first_token", "generate", "total")
_RESERVED = {"index", "input", *RESULT_FIELDS}
_DATA_URI = re.compile(r"(data:[^\s,]*;base64),", re.IGNORECASE)  # RFC 2397; a text may well begin with "data:"


def ok_row(
    utterance: Utterance,
    *,
    audio_s: float,
    sample_rate: int,
    windows: list[Window],
    generations: list[Generation],
    flags: tuple[str, ...],
    timing: dict[str, float | None],
) -> dict[str, Any]:
    """The row of a transcribed utterance.

    Args:
        windows, generations: one generation for each window, in order of time.
        flags: of the audio; those of the text are added here.
        timing: seconds by name; queue, first_token and generate come from the generations.
    """
    spans = [_window(w, g, sample_rate) for w, g in zip(windows, generations, strict=True)]
    text = " ".join(filter(None, (span["text"] for span in spans)))
    # An average is over the text tokens and, where it came to that, the end token.
    weights = [(g.avg_logprob, g.num_tokens + (g.finish_reason == "stop")) for g in generations if g.avg_logprob is not None]
    first = generations[0]
    of_windows = dict.fromkeys(flag for span in spans for flag in span["flags"] if flag != "empty")
    flags = (*flags, *([] if text else ["empty"]), *of_windows)
    return _row(
        utterance,
        status="ok",
        error=None,
        pred_text=text,
        audio_s=round(audio_s, 6),
        language=first.language,
        language_prob=_rounded(first.language_prob, 4),
        windows=spans,
        segments=[{"start": s["start"], "end": s["end"], "text": s["text"]} for s in spans if s["text"]],
        num_tokens=sum(g.num_tokens for g in generations),
        avg_logprob=_rounded(sum(p * n for p, n in weights) / sum(n for _, n in weights), 4) if weights else None,
        finish_reason="length" if any(g.finish_reason == "length" for g in generations) else first.finish_reason,
        flags=list(flags),
        timing={
            **timing,
            "queue": sum(g.queue_s for g in generations),
            "first_token": first.first_token_s,
            "generate": sum(g.generate_s for g in generations),
        },
    )


def failed_row(utterance: Utterance, error: RowError, timing: dict[str, float | None]) -> dict[str, Any]:
    """The row of an utterance that could not be transcribed; the same fields, empty."""
    return _row(
        utterance,
        status="failed",
        error={"kind": error.kind, "message": error.message},
        pred_text=None,
        audio_s=None,
        language=None,
        language_prob=None,
        windows=[],
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
    row["timing"] = {name: _rounded(timing.get(name), 6) for name in TIMING_FIELDS}
    return row


def _window(window: Window, generation: Generation, sample_rate: int) -> dict[str, Any]:
    text = generation.text.strip()
    flags = ["empty"] if not text else []
    if generation.finish_reason == "length":
        flags.append("truncated")
    flags += guards.flags(text, generation.avg_logprob)
    return {
        "start": round(window.start / sample_rate, 6),
        "end": round(window.end / sample_rate, 6),
        "text": text,
        "num_tokens": generation.num_tokens,
        "finish_reason": generation.finish_reason,
        "avg_logprob": _rounded(generation.avg_logprob, 4),
        "flags": flags,
        "attempts": [],
    }


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


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
