"""The nouns that travel along the pipeline. Standard library and our errors only.

Seconds are floats named `*_s`; sample counts are integers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asrbatch.errors import RowError


@dataclass(frozen=True, slots=True)
class AudioRef:
    """Where an utterance's audio lives: a file, or encoded bytes that are fetched late.

    Attributes:
        name: what to call it in messages, e.g. the path as written or `train/17`.
        path: absolute path of an audio file; None when the audio is bytes.
        load: returns the encoded bytes of one audio file (a Parquet cell, a `data:` URI). Called in a preprocessing
            thread, when the row's turn has come, so that a manifest never holds audio in memory.
        url: what says the same as `load` in a manifest of its own; None where nothing does.
    """

    name: str
    path: str | None = None
    # Not compared: two closures over the same bytes are not equal.
    load: Callable[[], bytes] | None = field(default=None, compare=False)
    url: str | None = None

    def resolve(self) -> str | bytes:
        """The path, or the bytes. Raises RowError where these cannot be had."""
        try:
            # One of the two is there.
            return self.path if self.load is None else self.load()  # type: ignore[return-value]
        except (OSError, ValueError) as e:
            raise RowError("unreadable", f"{self.name}: {e}") from e


@dataclass(frozen=True, slots=True)
class Utterance:
    """One manifest row.

    Attributes:
        index: 0-based row of the whole manifest.
        id: unique in the manifest.
        audio: where its audio lives.
        offset_s: start within the file in seconds; None means the row does not say (0.0).
        duration_s: seconds to read; None means to the end.
        channel: 0-based channel to pick; None means the mean of all.
        lang: ISO 639-1 code from the row, or None.
        prompt: previous text (Whisper) from the row, or None.
        fields: every field of the row as it was written, in order; these are carried to the output.
        track: 0-based audio track of a file with several; None means the one that `ffmpeg.py` chooses.
        problem: why the row cannot be transcribed, where bad rows are to be failed rows; None for a good one.
    """

    index: int
    id: str
    audio: AudioRef
    offset_s: float | None = None
    duration_s: float | None = None
    channel: int | None = None
    lang: str | None = None
    prompt: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    track: int | None = None
    problem: str | None = None


class Issue(NamedTuple):
    """One thing that is wrong with one manifest row.

    Attributes:
        row: 0-based.
        where: file and line, or row.
        id: the row's; None where it has none of its own, or cannot be read.
        of: `rows` for what the row says, `audio` for what its audio is.
        kind: the problem without what is particular to this row, for counting.
        text: the value, the problem and the fix.
    """

    row: int
    where: str
    id: str | None
    of: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of one utterance's audio, short enough for the model: samples [start, end)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of an answer's text between two timestamps.

    Attributes:
        start_s: from the window's start, by the model's token: a multiple of 0.02. May lie beyond the audio; the caller
            clips.
        end_s: likewise; None where the answer ended, or went on, without closing it.
        text: decoded from its text tokens; not stripped.
        token_ids: its text tokens with the timestamp tokens around them, as generated: what conditioning on previous
            text needs (`engine.base.DecodingOptions.previous`).
        num_tokens: text tokens.
        avg_logprob: mean log-probability of its text tokens; None when it has none.
    """

    start_s: float
    end_s: float | None
    text: str
    token_ids: tuple[int, ...]
    num_tokens: int
    avg_logprob: float | None


class GivenText(NamedTuple):
    """A text that is there already, to be aligned with its audio.

    Attributes:
        start_s, end_s: between which it is said, on the clock of whoever hands it on: from the row's start, or from the
            window's. The latter None: to the end.
    """

    text: str
    start_s: float = 0.0
    end_s: float | None = None


class WordTiming(NamedTuple):
    """A word of a segment.

    Attributes:
        text: with the space before it, where the language sets one, and the punctuation it stands with.
        start_s, end_s: on the clock of whoever hands it on: from the window's start, or from the row's.
        probability: mean of those with which its tokens were decoded, 0 to 1, without punctuation.
    """

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class DecodingResult:
    """The engine's answer to one window.

    Attributes:
        text: as the model's own reader gives it, without timestamps; not stripped.
        num_tokens: tokens of text, without the control tokens that ask and without the end token.
        finish_reason: `stop` or `length`.
        avg_logprob: mean log-probability of the text tokens and the end token; None when nothing was generated.
        language: ISO 639-1 code it was asked in or that the model detected; None where the model has no notion of it.
        language_prob: probability of a detected language; None when it was given.
        queue_s, first_token_s, generate_s: engine clock; waiting in the engine's queue, from queueing to the first
            token, from being scheduled to the last token.
        segments: in the order they were said; their texts, joined, are `text`. Empty where no timestamps were asked
            for.
        resume_s: where the model says to listen on, from the window's start: the end of the last closed segment. None:
            it heard the window to its end. The rule is that of openai-whisper's `transcribe.py`.
        no_speech_prob: probability, 0 to 1, that nobody speaks in the window; None where the model cannot say.
        temperature: it was sampled with; 0.0 is greedy.
        reasoning: what a reasoning model thought before it answered; None where it did not. Its tokens are among
            `num_tokens`.
        is_cut: it ended inside that thought, whatever `finish_reason` says.
        token_ids, token_logprobs: of the text, and the natural logarithm of the probability of each, where the model's
            words can be timed; empty elsewhere.
    """

    text: str
    num_tokens: int
    finish_reason: str
    avg_logprob: float | None
    language: str | None
    language_prob: float | None
    queue_s: float
    first_token_s: float
    generate_s: float
    segments: tuple[Segment, ...] = ()
    resume_s: float | None = None
    no_speech_prob: float | None = None
    temperature: float = 0.0
    reasoning: str | None = None
    is_cut: bool = False
    token_ids: tuple[int, ...] = ()
    token_logprobs: tuple[float, ...] = ()

    @property
    def is_truncated(self) -> bool:
        """The model had not said all it would have."""
        return self.is_cut or self.finish_reason == "length"

    @property
    def closed_segments(self) -> tuple[Segment, ...]:
        """Those before `resume_s`; all where that is None."""
        if self.resume_s is None:
            return self.segments
        return tuple(segment for segment in self.segments if segment.start_s < self.resume_s)
