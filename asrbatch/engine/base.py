"""What the rest of asrbatch sees of an engine, and an engine of a model's processor. Imports neither torch nor vllm.

The engine (`engine.py`) moves requests and knows nothing of speech; a processor (`processors.py`) knows speech and
moves nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from asrbatch.errors import EngineDiedError, RowError
from asrbatch.formatting import MAX_ERROR_CHARS, shorten
from asrbatch.types import DecodingResult, GivenText, WordTiming


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How a window is decoded, apart from its audio and its row's prompt.

    Attributes:
        language: ISO 639-1 code the checkpoint has; None has it detected.
        previous: token ids of the text before this window, from `Segment.token_ids`. They follow the row's prompt; of
            both together the last `WhisperPrompts.max_prompt_tokens` are used.
        temperature: 0.0 is greedy; above, tokens are sampled, with the run's seed.
        timestamps: whether the result carries timestamps; only where `WhisperPrompts.has_timestamps`.
        given: texts that take the place of what would be decoded; None to decode. Only where `EngineSpec.aligns`.
    """

    language: str | None = None
    previous: tuple[int, ...] = ()
    temperature: float = 0.0
    timestamps: bool = True
    given: tuple[GivenText, ...] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One window, ready for the engine, to be submitted as often as one likes: features computed, its row's prompt as
    token ids.

    Whisper's features end 80 dB below the loudest of what they are computed from. A window that is computed alone shows
    the model sounds, above all under pauses, that it never hears in a recording with louder parts; `clamp` takes them
    away again.

    Attributes:
        prompt_ids: of the row's prompt, without control tokens; empty for none, and where it is in the engine input.
        engine_input: vLLM's rendered input; holds the features (mel), not the samples. Never changed once submitted.
        peak: the largest of the features, in their own unit; None where quiet features do not depend on it.
        clamp: gives the features the floor that they have in a recording with that higher peak; there where `peak` is.
    """

    prompt_ids: tuple[int, ...]
    engine_input: Any = field(repr=False)
    peak: float | None = None
    clamp: Callable[[float], None] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AlignedWords:
    """What becomes of an answer whose words were to be timed.

    Attributes:
        groups: the words of each of its segments, in seconds from the window's start; of all its text where it has no
            segments.
        is_encoded_again: the engine had no more room to keep the window's encoder output.
        token_logprobs: of the text, by the model, where it was given and not decoded; None elsewhere.
        audio_gains: of the segments of a given text, by how much the audio makes each likelier than silence does: the
            mean over its tokens, a difference of natural logarithms. None elsewhere.
    """

    groups: tuple[tuple[WordTiming, ...], ...]
    is_encoded_again: bool = False
    token_logprobs: tuple[float, ...] | None = None
    audio_gains: tuple[float, ...] | None = None


Outcome = DecodingResult | AlignedWords | RowError | EngineDiedError
"""A result, or why there is none: a `RowError` when one request is at fault, `EngineDiedError` when all are."""

Deliver = Callable[[Any, Outcome], None]
"""Called with the key and the outcome of each submission, once, from a thread of the engine's.

When the engine dies, requests in it fail with `EngineDiedError`; one with the key None says so when there were none.
"""


class Engine(Protocol):
    """A running engine.

    Attributes:
        facts: JSON-serialisable description for the run record: versions, device, mode, settings, sampling parameters.
        max_num_seqs: windows the engine works on at once.
        deliver: where outcomes go; may be set anew while no request is in the engine.
    """

    deliver: Deliver
    facts: dict[str, Any]
    max_num_seqs: int

    def has_room_for(self, texts: Sequence[str], language: str | None) -> bool:
        """Whether the model can read these texts at once, to be aligned. Thread-safe."""

    def start_preprocess_thread(self) -> None:
        """Call once in each thread that will call `preprocess`."""

    def preprocess(self, samples: Any, prompt: str | None, language: str | None = None) -> Request:
        """Computes the features of one window. Thread-safe; this is where a preprocess thread spends its time.

        Args:
            samples: 1-D float32, mono, at the checkpoint's rate, no longer than its window.
            prompt: previous text, for Whisper; the instruction, for a chat; None for the model's own.
            language: as `DecodingOptions.language`; Whisper takes it from there alone.

        Raises:
            RowError: the model cannot be given this window.
        """

    def submit(self, key: Any, request: Request, options: DecodingOptions = DecodingOptions()) -> None:
        """Queues one window; its outcome arrives through `deliver`. Thread-safe, returns at once.

        The same request may be submitted again, with other options; a key may be used again once its outcome is
        there."""

    def align(self, key: Any, request: Request, result: DecodingResult, num_samples: int) -> None:
        """Has the words of an answer timed; `AlignedWords` arrive through `deliver`. Thread-safe, returns at once. Only
        where `EngineSpec.word_timestamps`; there each request is aligned or discarded once, when no more is submitted
        of it.

        Args:
            num_samples: of the window.
        """

    def discard(self, request: Request) -> None:
        """No words are wanted of a request. Thread-safe; does nothing where no words are timed."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Stops the engine; requests still in it are abandoned without an outcome."""


class Processor(Protocol):
    """From samples to vLLM's input, and from its output to a result, for one kind of model.

    Attributes:
        facts: JSON-serialisable, for the run record.
        warm_ups: options of each kind of request; each is tried with a second of silence before any clock runs.
    """

    facts: dict[str, Any]
    warm_ups: Sequence[DecodingOptions]

    def preprocess(self, samples: Any, prompt: str | None, language: str | None) -> Request:
        """See `Engine.preprocess`. Thread-safe.

        Raises:
            ValueError, TypeError: of the tokenizer, the model's own processor or vLLM's renderer, about this input.
        """

    def engine_input(self, request: Request, options: DecodingOptions) -> Any:
        """vLLM's engine input; the request stays as it is, and may be submitted again."""

    def sampling_params(self, options: DecodingOptions) -> Any:
        """vLLM's sampling parameters; one object for each kind of request."""

    def postprocess(self, request: Request, options: DecodingOptions, output: Any) -> DecodingResult:
        """The result in a finished `RequestOutput` of vLLM's; runs in the driver's thread."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came of or while what it was raised, one by one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def innermost(error: BaseException) -> BaseException:
    """Its innermost cause: vLLM wraps what went wrong in what noticed it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def root_cause(error: BaseException) -> str:
    """The innermost cause, in one line."""
    error = innermost(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    # pydantic says what is wrong in its third line, others in their last.
    return f"{type(error).__name__}: {shorten(' '.join([*lines[:3], *lines[3:][-1:]]), MAX_ERROR_CHARS)}"
