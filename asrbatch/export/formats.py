"""What can be exported: for each format, how one utterance is written.

A format is a function from what was spoken (and the rules for subtitles) to text, and a line in `FORMATS`. Knows
nothing of rows files and folders."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.export.names import column
from asrbatch.export.subtitles import Cue, CueLimits, cues
from asrbatch.export.transcript import Transcript, TranscriptSegment, one_line, ordered_ms, spread_ms
from asrbatch.storage.files import json_bytes

_CTM_HEAD = """\
;; file channel start duration word confidence
;; start, duration: estimates. A model gives times for segments; within one, \
time is shared out by the characters of its words
;; confidence: mean probability of the tokens of the window that the word stands in, \
the same for all its words; NA if unknown
"""
# Of openai-whisper's segments, after `id`, `seek`, `start`, `end` and `text`.
_WHISPER_FACTS = ("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
_WHISPER_SECONDS_PER_SEEK = 0.01
_ARROW = re.compile("-{2,}>")
_SECOND_TIME = re.compile(r"(\d+:\d+:\d+[.,]\d+\S*(?: \S+)*?) (?=\S*\d+:\d+:\d+[.,]\d)")


@dataclass(frozen=True)
class Format:
    """One way to write what was spoken.

    Attributes:
        extension: of a file with one utterance, without the dot.
        write: one utterance, whole lines.
        head: stands first in a file.
        per_run: how one file holds all utterances of a run; None where the format has no place for more than one.
    """

    extension: str
    write: Callable[[Transcript, CueLimits], str]
    head: str = ""
    per_run: "PerRun | None" = None


@dataclass(frozen=True)
class PerRun:
    """One file for all utterances of a run.

    Attributes: extension: of the file, without the dot. write: one utterance among others, whole lines. head: stands
        first in the file. sort_key: of a line, where the format wants recordings in order, and the lines of each, which
        begin with its name and a
            space; otherwise they stay in the order of the rows.
    """

    extension: str
    write: Callable[[Transcript, CueLimits], str]
    head: str = ""
    sort_key: Callable[[bytes], Any] | None = None


def srt(spoken: Transcript, rules: CueLimits) -> str:
    """SubRip: numbered cues, a blank line after each, times with a comma."""
    return "".join(
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{_srt_text(cue)}\n\n"
        for number, cue in enumerate(_shifted_cues(spoken, rules), 1)
    )


def vtt(spoken: Transcript, rules: CueLimits) -> str:
    """WebVTT (W3C): a blank line before each cue; `&`, `<`, `>` are escaped, so that no text can be
    taken for markup.
    """
    return "".join(
        f"\n{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{_vtt_text(cue)}\n"
        for cue in _shifted_cues(spoken, rules)
    )


def txt(spoken: Transcript, _: CueLimits) -> str:
    """One line: `pred_text`, line breaks in it as spaces."""
    return one_line(spoken.text) + "\n"


def tsv(spoken: Transcript, _: CueLimits) -> str:
    """openai-whisper's: start, end (whole milliseconds) and text of each segment; tabs and line
    breaks in it as spaces.
    """
    return "".join(f"{start}\t{end}\t{text}\n" for start, end, text in _tsv_rows(spoken))


def tsv_with_id(spoken: Transcript, _: CueLimits) -> str:
    """The same with the utterance's id in front."""
    name = column(spoken.id)
    return "".join(f"{name}\t{start}\t{end}\t{text}\n" for start, end, text in _tsv_rows(spoken))


def ctm(spoken: Transcript, _: CueLimits) -> str:
    """NIST's time-marked words (SCTK, infmts): file, channel, start, duration, word, confidence.

    File is the row's id or, where times count from the start of the audio file, its path: what the times refer to.
    Channels count from 1; a row that names none, whose audio is the mean of all, has 1.
    """
    source = spoken.audio_path if spoken.from_file_start else None
    prefix = f"{column(spoken.id if source is None else source)} {(spoken.channel or 0) + 1}"
    lines = []
    for segment, (start_ms, end_ms) in zip(spoken.segments, ordered_ms(spoken.segments, spoken.audio_ms), strict=True):
        words = one_line(segment.text).split()
        bounds = spread_ms(start_ms + spoken.shift_ms, end_ms + spoken.shift_ms, [len(word) for word in words])
        confidence = _confidence(segment)
        for word, start, end in zip(words, bounds, bounds[1:], strict=False):
            lines.append(f"{prefix} {start / 1000:.3f} {(end - start) / 1000:.3f} {word} {confidence}\n")
    return "".join(lines)


def ctm_order(line: bytes) -> Any:
    """What sclite wants a CTM file sorted by: file and channel in ASCII order, start as a number."""
    source, channel, start, _ = line.split(b" ", 3)
    return source, channel, float(start)


def whisper_json(spoken: Transcript, _: CueLimits) -> str:
    """openai-whisper's result: text, segments, language; null for what a row does not say."""
    return _json_line(_whisper_result(spoken))


def whisper_json_line(spoken: Transcript, _: CueLimits) -> str:
    """The same on a line of its own, with the row's id."""
    return _json_line({"id": spoken.id, "index": spoken.index, **_whisper_result(spoken)})


FORMATS: dict[str, Format] = {
    "srt": Format("srt", srt),
    "vtt": Format("vtt", vtt, head="WEBVTT\n"),
    "txt": Format("txt", txt, per_run=PerRun("txt", txt)),
    "tsv": Format("tsv", tsv, "start\tend\ttext\n", PerRun("tsv", tsv_with_id, "id\tstart\tend\ttext\n")),
    "ctm": Format("ctm", ctm, _CTM_HEAD, PerRun("ctm", ctm, _CTM_HEAD, sort_key=ctm_order)),
    # Not .jsonl alone, which in the run's own folder would be the name of its rows.
    "json": Format("json", whisper_json, per_run=PerRun("whisper.jsonl", whisper_json_line)),
}

# One file of all rows, failed ones too, written by `export_results.py`.
RESULT_FORMATS = ("leaderboard", "nemo")


def parse_formats(given: str) -> list[str]:
    """`srt,vtt` as names in `FORMATS` or `RESULT_FORMATS`, each once.

    Raises:
        UsageError: one that is unknown, or that rows have nothing for.
    """
    names = list(dict.fromkeys(name.strip().lower() for name in given.split(",")))
    for name in names:
        if name == "rttm":
            raise UsageError("--format rttm: it says who speaks when, and asrbatch does not tell speakers apart")
        if name not in FORMATS and name not in RESULT_FORMATS:
            raise UsageError(f"--format {name or given}: unknown; known: {', '.join((*FORMATS, *RESULT_FORMATS))}")
    return names


def _shifted_cues(spoken: Transcript, rules: CueLimits) -> Iterator[Cue]:
    shift_ms = spoken.shift_ms
    for cue in cues(spoken.segments, spoken.audio_ms, rules):
        yield cue._replace(start_ms=cue.start_ms + shift_ms, end_ms=cue.end_ms + shift_ms)


def _srt_text(cue: Cue) -> str:
    # SubRip cannot escape: its arrow in a text, or two times on a line (pysubs2), would end it for many readers.
    return "\n".join(_SECOND_TIME.sub(r"\1\n", _ARROW.sub("->", line)) for line in cue.lines)


def _vtt_text(cue: Cue) -> str:
    return "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(ms: int, point: str) -> str:
    """`01:02:03.456`; hours have more digits from 100 on."""
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _tsv_rows(spoken: Transcript) -> Iterator[tuple[int, int, str]]:
    for segment in spoken.segments:
        bounds = (round((time_s + spoken.shift_s) * 1000) for time_s in (segment.start_s, segment.end_s))
        yield *bounds, one_line(segment.text)


def _confidence(segment: TranscriptSegment) -> str:
    avg_logprob = segment.facts.get("avg_logprob")
    return f"{min(1.0, math.exp(avg_logprob)):.3f}" if type(avg_logprob) in (int, float) else "NA"


def _whisper_result(spoken: Transcript) -> dict[str, Any]:
    segments = [
        {
            "id": number,
            "seek": _seek(segment, spoken.shift_s),
            "start": round(segment.start_s + spoken.shift_s, 6),
            "end": round(segment.end_s + spoken.shift_s, 6),
            "text": segment.text,
            **{name: segment.facts.get(name) for name in _WHISPER_FACTS},
        }
        for number, segment in enumerate(spoken.segments)
    ]
    return {"text": spoken.text, "segments": segments, "language": spoken.language}


def _seek(segment: TranscriptSegment, shift_s: float) -> int | None:
    """Where the window began, in Whisper's frames of 10 ms."""
    start_s = segment.facts["window_start"]
    return None if start_s is None else round((start_s + shift_s) / _WHISPER_SECONDS_PER_SEEK)


def _json_line(value: dict[str, Any]) -> str:
    return json_bytes(value).decode() + "\n"
