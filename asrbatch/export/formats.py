"""What can be exported: for each format, how one utterance is written.

A new format is a function `f(transcript, limits) -> str` and a line in `FORMATS`; nothing else has to know of it. A
file of results for other tools, with failed rows in it, is a class in `results.py`. Knows nothing of rows files and
folders.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Any
from urllib.parse import quote

from asrbatch.export.cue_layout import width
from asrbatch.export.cues import Cue, cues
from asrbatch.export.options import CueLimits
from asrbatch.export.transcript import Transcript, TranscriptSegment, ordered_ms, single_line, spans_ms
from asrbatch.storage.files import json_bytes

_CTM_HEAD = ";; file channel start duration word confidence\n"
_CTM_ESTIMATES = """\
;; start, duration: estimates. A model gives times for segments; within one, \
time is shared out by the characters of its words
;; confidence: mean probability of the tokens of the window that the word stands in, \
the same for all its words; NA if unknown
"""
# Of openai-whisper's segments, after `id`, `seek`, `start`, `end` and `text`.
_WHISPER_FIELDS = ("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
_WHISPER_SECONDS_PER_SEEK = 0.01
# SubRip cannot escape: its arrow in a text, or two times on a line (pysubs2), would end the text for many readers.
_ARROW = re.compile("-{2,}>")
_SECOND_TIME = re.compile(r"(\d+:\d+:\d+[.,]\d+\S*(?: \S+)*?) (?=\S*\d+:\d+:\d+[.,]\d)")


@dataclass(frozen=True)
class Format:
    """One way to write a transcript.

    Attributes:
        extension: of the file, without the dot.
        write: one utterance, whole lines. The limits are for subtitles.
        head: stands first in a file.
        note: stands behind it where the words of an utterance in the file have no times of their own.
        per_run: how one file holds all utterances of a run; None where the format has no place for more than one.
        sort_key: of a line of such a file, where the format wants recordings in order, and the lines of each, which
            begin with its name and a space; otherwise they stay in the order of the rows.
    """

    extension: str
    write: Callable[[Transcript, CueLimits], str]
    head: str = ""
    per_run: "Format | None" = None
    sort_key: Callable[[bytes], Any] | None = None
    note: str = ""


def srt(transcript: Transcript, limits: CueLimits) -> str:
    """SubRip: numbered cues, a blank line after each, times with a comma."""
    return "".join(
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{_srt_text(cue)}\n\n"
        for number, cue in enumerate(_shifted_cues(transcript, limits), 1)
    )


def vtt(transcript: Transcript, limits: CueLimits) -> str:
    """WebVTT (W3C): a blank line before each cue; `&`, `<`, `>` are escaped: no text can be taken for markup."""
    return "".join(
        f"\n{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{_vtt_text(cue)}\n"
        for cue in _shifted_cues(transcript, limits)
    )


def txt(transcript: Transcript, _: CueLimits) -> str:
    """One line: `pred_text`, line breaks in it as spaces."""
    return single_line(transcript.text) + "\n"


def tsv(transcript: Transcript, _: CueLimits) -> str:
    """openai-whisper's: start, end (whole milliseconds) and text of each segment; tabs and line breaks as spaces."""
    return "".join(_tsv_lines(transcript))


def tsv_with_id(transcript: Transcript, _: CueLimits) -> str:
    """The same with the utterance's id in front."""
    name = column(transcript.id)
    return "".join(f"{name}\t{line}" for line in _tsv_lines(transcript))


def ctm(transcript: Transcript, _: CueLimits) -> str:
    """NIST's time-marked words (SCTK, infmts): file, channel, start, duration, word, confidence.

    File is the row's id or, where times count from the start of the audio file, its path: what the times refer to.
    Channels count from 1; a row that names none, whose audio is the mean of all, has 1. Words are what white space
    parts; in languages without, and where words have times, each of those. A word's confidence is the mean probability
    of its tokens where it has times of its own, otherwise of its segment's tokens.
    """
    source = transcript.audio_path if transcript.from_file_start else None
    prefix = f"{column(transcript.id if source is None else source)} {(transcript.channel or 0) + 1}"
    shift_ms, lines = transcript.shift_ms, []
    spans = ordered_ms(transcript.segments, transcript.audio_ms)
    for segment, span in zip(transcript.segments, spans, strict=True):
        words = segment.parts
        times = spans_ms(segment, words, [max(width(word), 1) for word in words], *span)
        for word, confidence, (start, end) in zip(words, _confidences(segment, words), times, strict=True):
            at = (start + shift_ms) / 1000
            lines.append(f"{prefix} {at:.3f} {(end - start) / 1000:.3f} {word} {confidence}\n")
    return "".join(lines)


def ctm_order(line: bytes) -> Any:
    """What sclite wants a CTM file sorted by: file and channel in ASCII order, start as a number."""
    source, channel, start, _ = line.split(b" ", 3)
    return source, channel, float(start)


def column(text: str) -> str:
    """Text as a column that ends at white space can hold it: white space, control characters, `%` and a leading `;` as
    in URLs.

    Other texts give other columns, and `urllib.parse.unquote` gives the text back.
    """
    if text.isascii() and text.isprintable() and not {" ", "%"} & set(text) and text[:1] != ";":
        return text
    escaped = "".join(
        quote(c, safe="", errors="surrogatepass") if c.isspace() or c == "%" or not c.isprintable() else c for c in text
    )
    return "%3B" + escaped[1:] if escaped.startswith(";") else escaped


def whisper_json(transcript: Transcript, _: CueLimits) -> str:
    """openai-whisper's result: text, segments, language; null for what a row does not say."""
    return _json_line(_whisper_result(transcript))


def whisper_json_line(transcript: Transcript, _: CueLimits) -> str:
    """The same on a line of its own, with the row's id."""
    return _json_line({"id": transcript.id, "index": transcript.index, **_whisper_result(transcript)})


FORMATS: dict[str, Format] = {
    "srt": Format("srt", srt),
    "vtt": Format("vtt", vtt, head="WEBVTT\n"),
    "txt": Format("txt", txt, per_run=Format("txt", txt)),
    "tsv": Format("tsv", tsv, "start\tend\ttext\n", Format("tsv", tsv_with_id, "id\tstart\tend\ttext\n")),
    "ctm": Format(
        "ctm",
        ctm,
        _CTM_HEAD,
        Format("ctm", ctm, _CTM_HEAD, sort_key=ctm_order, note=_CTM_ESTIMATES),
        note=_CTM_ESTIMATES,
    ),
    # Not .jsonl alone, which in the run's own folder would be the name of its rows.
    "json": Format("json", whisper_json, per_run=Format("whisper.jsonl", whisper_json_line)),
}


def _shifted_cues(transcript: Transcript, limits: CueLimits) -> Iterator[Cue]:
    shift_ms = transcript.shift_ms
    for cue in cues(transcript.segments, transcript.audio_ms, limits):
        yield cue._replace(start_ms=cue.start_ms + shift_ms, end_ms=cue.end_ms + shift_ms)


def _srt_text(cue: Cue) -> str:
    return "\n".join(_SECOND_TIME.sub(r"\1\n", _ARROW.sub("->", line)) for line in cue.lines)


def _vtt_text(cue: Cue) -> str:
    return escape("\n".join(cue.lines), quote=False)


def _clock(ms: int, point: str) -> str:
    """`01:02:03.456`; hours have more digits from 100 on."""
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _tsv_lines(transcript: Transcript) -> Iterator[str]:
    for segment in transcript.segments:
        start, end = (round((time_s + transcript.shift_s) * 1000) for time_s in (segment.start_s, segment.end_s))
        yield f"{start}\t{end}\t{single_line(segment.text)}\n"


def _confidences(segment: TranscriptSegment, words: Sequence[str]) -> list[str]:
    if segment.words is None:
        avg_logprob = segment.fields.get("avg_logprob")
        confidence = f"{min(1.0, math.exp(avg_logprob)):.3f}" if type(avg_logprob) in (int, float) else "NA"
        return [confidence] * len(words)
    # What white space parts may be several words of the model's; that of its first letters counts.
    of_letters = [word.probability for word in segment.words for _ in "".join(single_line(word.text).split())]
    begins = accumulate((len(word) for word in words), initial=0)
    found = [of_letters[begin] for begin, _ in zip(begins, words, strict=False)]
    return ["NA" if probability is None else f"{probability:.3f}" for probability in found]


def _whisper_result(transcript: Transcript) -> dict[str, Any]:
    segments = [
        {
            "id": number,
            "seek": _seek(segment, transcript.shift_s),
            "start": round(segment.start_s + transcript.shift_s, 6),
            "end": round(segment.end_s + transcript.shift_s, 6),
            "text": segment.text,
            **{name: segment.fields.get(name) for name in _WHISPER_FIELDS},
            **_whisper_words(segment, transcript.shift_s),
        }
        for number, segment in enumerate(transcript.segments)
    ]
    return {"text": transcript.text, "segments": segments, "language": transcript.language}


def _whisper_words(segment: TranscriptSegment, shift_s: float) -> dict[str, Any]:
    if segment.words is None:
        return {}
    times = ("start", "end")
    return {
        "words": [
            {
                "word": word.text,
                **{name: round(at + shift_s, 6) for name, at in zip(times, (word.start_s, word.end_s), strict=True)},
                "probability": word.probability,
            }
            for word in segment.words
        ]
    }


def _seek(segment: TranscriptSegment, shift_s: float) -> int | None:
    """Where the window began, in Whisper's frames of 10 ms."""
    start_s = segment.fields["window_start"]
    return None if start_s is None else round((start_s + shift_s) / _WHISPER_SECONDS_PER_SEEK)


def _json_line(value: dict[str, Any]) -> str:
    return json_bytes(value).decode() + "\n"
