"""Whisper's prompts as token ids, and its results read from token ids.

Knows Whisper's control tokens and nothing of the engine. The layout is that of the original Whisper (`<|startofprev|>
previous text <|startoftranscript|> language task <|notimestamps|>`); all ids come from the checkpoint's own files. Two
repairs that vLLM's prompt needs are made here: English-only checkpoints get neither a language nor a task (with them
two of three clips come back empty), and previous text is introduced by the real `<|startofprev|>` token.

The prompt always stops at `<|startoftranscript|>`; what follows are the first generated tokens, confined
(`Controls.forced`). So the model's first choice is made where Whisper looks for the probability of no speech, and a
language that nobody stated is chosen in the same request, exactly as a separate detection step would choose it."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asrbatch.errors import RowError, UsageError
from asrbatch.formatting import show
from asrbatch.languages import NO_SPACES
from asrbatch.models.checkpoint import Checkpoint
from asrbatch.models.timestamps import NUM_TIMESTAMPS, Decode, cut_segments, is_timestamp, resume_s
from asrbatch.types import DecodingResult, GivenText, Segment

CONTROLS_KEY = "asrbatch"  # where `Controls` travel in a request's extra arguments


@dataclass(frozen=True)
class Controls:
    """What the logits processor in the engine enforces for one request; plain lists, so that they travel.

    Attributes:
        suppress: token ids that may never be generated.
        begin_suppress: token ids that may not be the first token of the text.
        forced: for each of the first generated tokens, the ids it is confined to; the text begins after them.
        first_timestamp: id of 0.00 s where Whisper's rules for timestamps hold; None where they do not.
        end: id of `<|endoftext|>`; those below are text.
    """

    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    forced: tuple[tuple[int, ...], ...] = ()
    first_timestamp: int | None = None
    end: int = 0

    def as_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # lists, as what has travelled is


class WhisperPrompts:
    """Token ids for one checkpoint, and text of them.

    Args:
        checkpoint: a Whisper checkpoint.
        task: `transcribe` or `translate` (into English).
        timestamps: whether results are to carry timestamps; decides nothing but whether a checkpoint without is
            refused.

    Raises:
        UsageError: a task the checkpoint lacks, timestamps it lacks, or a checkpoint without Whisper's control tokens.
    """

    def __init__(self, checkpoint: Checkpoint, task: str = "transcribe", *, timestamps: bool = False):
        self.checkpoint = checkpoint
        self.task = task
        if task == "translate" and not checkpoint.is_multilingual:
            raise UsageError(f"--task translate: {checkpoint.name} is English-only; give a multilingual checkpoint")
        tokens = checkpoint.added_tokens
        try:
            self.sot = tokens["<|startoftranscript|>"]
            self.no_timestamps = tokens["<|notimestamps|>"]
            self.start_of_prev = tokens["<|startofprev|>"]
            self.task_id = tokens[f"<|{task}|>"]
            self.end = tokens["<|endoftext|>"]
        except KeyError as e:
            raise UsageError(
                f"--model {checkpoint.name}: its tokenizer lacks {e}; a Whisper checkpoint needs its tokenizer.json"
            ) from e
        self.first_timestamp = self.no_timestamps + 1
        if timestamps and not self.has_timestamps:
            raise UsageError(f"--model {checkpoint.name}: it has no timestamps; give --no-timestamps")
        self.language_of = {i: code for code, i in checkpoint.languages.items()}
        # By their form: a word that a fine-tune added to the vocabulary is text.
        self._control_ids = frozenset(
            i for token, i in tokens.items() if token.startswith("<|") and token.endswith("|>")
        )
        generation = checkpoint.generation_config
        self._suppress = tuple(generation.get("suppress_tokens") or ())
        self._begin_suppress = tuple(generation.get("begin_suppress_tokens") or ())
        # Half the decoder's positions, less one for <|startofprev|>, as the original Whisper keeps them.
        self.max_prompt_tokens = checkpoint.config.get("max_target_positions", 448) // 2 - 1

    @property
    def has_timestamps(self) -> bool:
        """Whether the vocabulary goes on with 0.00 to 30.00 s after `<|notimestamps|>`, as Whisper's does."""
        named = self.checkpoint.added_tokens.get("<|0.00|>", self.first_timestamp)
        size = self.checkpoint.config.get("vocab_size", 0)
        return named == self.first_timestamp and size >= self.first_timestamp + NUM_TIMESTAMPS

    @property
    def no_speech(self) -> int | None:
        """The token whose probability after `<|startoftranscript|>` is that of no speech; None where there is none."""
        tokens = self.checkpoint.added_tokens
        # Some tokenizers do not list it under any name; this is its place in every vocabulary of Whisper's.
        before = self.no_timestamps - 1
        unnamed = None if before in tokens.values() else before
        return tokens.get("<|nospeech|>", tokens.get("<|nocaptions|>", unnamed))

    def controls(self, language: str | None, *, timestamps: bool) -> Controls:
        """What the engine must enforce for one kind of request.

        Args:
            language: one of the checkpoint's codes, or None to have the model detect it.
        """
        forced: list[tuple[int, ...]] = []
        if self.checkpoint.is_multilingual:
            languages = sorted(self.language_of) if language is None else [self.checkpoint.languages[language]]
            forced = [tuple(languages), (self.task_id,)]
        if not timestamps:
            return Controls(self._suppress, self._begin_suppress, (*forced, (self.no_timestamps,)), None, self.end)
        # Not suppressed, the model generates <|notimestamps|> itself, and no timestamp comes.
        suppress = tuple(sorted({*self._suppress, self.no_timestamps}))
        return Controls(suppress, self._begin_suppress, tuple(forced), self.first_timestamp, self.end)

    def prompt_ids(self, prompt: str | None, encode: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
        """A row's prompt as token ids; of a long one the last `max_prompt_tokens`, as Whisper itself does.

        Args:
            prompt: previous text; None or blank for none.
            encode: text to token ids, without special tokens around them.

        Raises:
            RowError: `bad_row`, the prompt holds control tokens.
        """
        if not prompt or prompt.isspace():
            return ()
        # With a space before it, as openai-whisper encodes its initial prompt: text tokens begin with one.
        ids = encode(" " + prompt.strip())
        if any(i in self._control_ids or is_timestamp(i, self.first_timestamp) for i in ids):
            raise RowError("bad_row", f"prompt {show(prompt)}: holds a control token such as <|…|>; remove it")
        return tuple(ids[-self.max_prompt_tokens :])

    def check_words(self, option: str, text: str, *, count: bool = True) -> None:
        """Refuses words for every row that each row would be failed for, before an engine is started.

        Args:
            option: `--prompt` or `--hotwords`, for the message.
            count: whether hotwords fit; takes a library that comes with vLLM.

        Raises:
            UsageError: they hold control tokens, or hotwords are more than fit; the latter is known only of a
                checkpoint with a tokenizer.json.
        """
        for token, i in self.checkpoint.added_tokens.items():
            if token in text and (i in self._control_ids or is_timestamp(i, self.first_timestamp)):
                raise UsageError(f"{option} {show(text)}: holds the control token {token}; remove it")
        file = Path(self.checkpoint.folder, "tokenizer.json")
        if option != "--hotwords" or not count or not file.is_file():
            return
        from tokenizers import Tokenizer  # slow to import, and few runs have hotwords

        num_tokens = len(Tokenizer.from_file(str(file)).encode(" " + text.strip(), add_special_tokens=False).ids)
        if num_tokens > self.max_prompt_tokens:
            too_many = f"{num_tokens} tokens, and the model's prompt has room for {self.max_prompt_tokens}"
            raise UsageError(f"{option} {show(text)}: has {too_many}; give fewer")

    def decoder_ids(self, prompt_ids: Sequence[int], previous: Sequence[int]) -> list[int]:
        """The token ids the decoder starts from.

        Args:
            prompt_ids: from `prompt_ids`.
            previous: the text before this window, timestamps included, as it was generated.
        """
        before = (*prompt_ids, *previous)[-self.max_prompt_tokens :]
        return [self.start_of_prev, *before, self.sot] if before else [self.sot]

    def postprocess(
        self,
        language: str | None,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        decode: Decode,
        *,
        timestamps: bool,
        **of_engine: Any,
    ) -> DecodingResult:
        """What the generated tokens mean.

        Args:
            language: of the request; None when it was to be detected.
            token_ids: as generated.
            logprobs: a natural logarithm for each, or nothing at all.
            decode: text tokens to text, nothing tidied up.
            timestamps: whether the request was for them.
            of_engine: the fields of the result that do not follow from the tokens.
        """
        language_prob = None
        if not self.checkpoint.is_multilingual:
            language = "en"
        elif language is None and token_ids:
            language = self.language_of.get(token_ids[0])
            language_prob = math.exp(logprobs[0]) if logprobs else None
        num_forced = 2 * self.checkpoint.is_multilingual + (not timestamps)  # as many as `controls` confined
        ids, of_ids = token_ids[num_forced:], logprobs[num_forced:]
        # Not strict: without log-probabilities there are none beside the ids.
        counted = [p for i, p in zip(ids, of_ids, strict=False) if self._is_text(i) or i == self.end]
        text_ids = [i for i in ids if self._is_text(i)]
        segments: tuple[Segment, ...] = ()
        if timestamps:
            first = self.first_timestamp
            segments = cut_segments(ids, of_ids, first_timestamp=first, is_text=self._is_text, decode=decode)
        return DecodingResult(
            # A character whose bytes a timestamp parts is read in two halves: the text is what its segments say.
            text="".join(s.text for s in segments) if segments else decode(text_ids),
            language=language,
            language_prob=language_prob,
            num_tokens=len(text_ids),
            avg_logprob=sum(counted) / len(counted) if counted else None,
            segments=segments,
            token_ids=tuple(text_ids),
            token_logprobs=tuple(p for i, p in zip(ids, of_ids, strict=False) if self._is_text(i)),
            resume_s=resume_s([i for i in ids if i != self.end], self.first_timestamp) if timestamps else None,
            **of_engine,
        )

    def has_room_for(self, texts: Sequence[str], language: str | None, encode: Callable[[str], Sequence[int]]) -> bool:
        """Whether the decoder can read texts at once, to be aligned; arguments as `given_result` takes them."""
        num_control = len(self.alignment_ids(language, ())[0])
        room = self.checkpoint.config.get("max_target_positions", 448) - num_control
        return sum(len(encode(_spaced(text, language))) for text in texts) <= room

    def given_result(
        self, language: str | None, texts: Sequence[GivenText], encode: Callable[[str], Sequence[int]]
    ) -> DecodingResult:
        """Texts that are said in one window, as if the model had answered so.

        Args:
            language: None where the checkpoint is English-only.
            texts: in seconds from the window's start.
            encode: text to token ids, without special tokens around them.

        Raises:
            RowError: `bad_row`, a text holds control tokens.
        """
        segments = []
        for given in texts:
            text = _spaced(given.text, language)
            ids = tuple(encode(text))
            if not all(map(self._is_text, ids)):
                raise RowError("bad_row", f"text {show(text)}: holds a control token such as <|…|>; remove it")
            segments.append(Segment(given.start_s, given.end_s, text, ids, len(ids), None))
        text_ids = tuple(i for segment in segments for i in segment.token_ids)
        return DecodingResult(
            text="".join(segment.text for segment in segments),
            num_tokens=len(text_ids),
            finish_reason="stop",
            avg_logprob=None,
            language=language if self.checkpoint.is_multilingual else "en",
            language_prob=None,
            queue_s=0.0,
            first_token_s=0.0,
            generate_s=0.0,
            segments=tuple(segments),
            token_ids=text_ids,
        )

    @property
    def alignment_heads(self) -> list[list[int]]:
        """Layer and head of those of the decoder that look at what is being said: the checkpoint's own list, or as
        openai-whisper does without one, all of the upper half of the layers."""
        config = self.checkpoint.config
        num_layers, num_heads = config.get("decoder_layers", 0), config.get("decoder_attention_heads", 0)
        named = self.checkpoint.generation_config.get("alignment_heads")
        if not named:
            return [[layer, head] for layer in range(num_layers // 2, num_layers) for head in range(num_heads)]
        if not all(0 <= layer < num_layers and 0 <= head < num_heads for layer, head in named):
            raise UsageError(
                f"--word-timestamps: {self.checkpoint.name}: its generation_config.json names alignment_heads that its "
                f"decoder of {num_layers} layers with {num_heads} heads does not have"
            )
        return sorted([layer, head] for layer, head in named)

    def alignment_ids(self, language: str | None, text_ids: Sequence[int]) -> tuple[list[int], int]:
        """What the decoder reads when the words of an answer are given their times, without timestamps, as
        openai-whisper has it; and how many tokens stand before the one that the text follows."""
        control = [self.sot]
        if self.checkpoint.is_multilingual:
            control += [self.checkpoint.languages[language or "en"], self.task_id]
        ids = [*control, self.no_timestamps, *text_ids, self.end]
        return ids[: self.checkpoint.config.get("max_target_positions", 448)], len(control)

    def text_groups(self, result: DecodingResult) -> list[list[int]]:
        """The text tokens of each of its segments; all in one where it has none."""
        if not result.segments:
            return [list(result.token_ids)]
        return [[i for i in segment.token_ids if self._is_text(i)] for segment in result.segments]

    def _is_text(self, token: int) -> bool:
        return token not in self._control_ids and not is_timestamp(token, self.first_timestamp)


def _spaced(text: str, language: str | None) -> str:
    """As the model writes it: text begins with a space where the language sets spaces between words."""
    return text if language in NO_SPACES else f" {text}"
