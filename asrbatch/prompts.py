"""How Whisper is asked, and how its answer is read: token ids in, token ids out.

Knows Whisper's control tokens and nothing of the engine. The layout of the prompt is that of the original Whisper
(`<|startofprev|> previous text <|startoftranscript|> language task <|notimestamps|>`); all ids come from the
checkpoint's own files. Two repairs that vLLM's prompt needs are made here: English-only checkpoints get neither a
language nor a task (with them two of three clips come back empty), and previous text is introduced by the real
`<|startofprev|>` token.

A language that nobody stated is detected in the same request that transcribes: the prompt stops at
`<|startoftranscript|>`, and the first three generated tokens are confined to the languages, the task and
`<|notimestamps|>`. The model hears the audio once, and chooses exactly as a separate detection step would.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .checkpoint import Checkpoint
from .errors import RowError, UsageError

TASKS = ("transcribe", "translate")
CONTROLS_KEY = "asrbatch"  # where `Controls` travel in a request's extra arguments


@dataclass(frozen=True)
class Controls:
    """What the logits processor in the engine enforces for one request; plain lists, so that they travel.

    Attributes:
        suppress: token ids that may never be generated.
        begin_suppress: token ids that may not be the first token of the text.
        forced: for each of the first generated tokens, the ids it is confined to; the text begins after them.
    """

    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    forced: tuple[tuple[int, ...], ...] = ()

    def as_dict(self) -> dict[str, list]:
        return {
            "suppress": list(self.suppress),
            "begin_suppress": list(self.begin_suppress),
            "forced": [list(ids) for ids in self.forced],
        }


@dataclass(frozen=True)
class Ask:
    """One window's question.

    Attributes:
        decoder_ids: token ids the decoder starts from.
        language: ISO 639-1 code it is asked in; None when the model is to detect it.
    """

    decoder_ids: tuple[int, ...]
    language: str | None = field(default=None)

    @property
    def detects(self) -> bool:
        return self.language is None


@dataclass(frozen=True)
class Answer:
    """What the generated tokens say; see `types.Generation` for the fields."""

    language: str | None
    language_prob: float | None
    num_tokens: int
    avg_logprob: float | None


class WhisperPrompts:
    """Asks one checkpoint.

    Args:
        checkpoint: a Whisper checkpoint.
        task: `transcribe` or `translate` (into English).
        timestamps: whether answers are to carry timestamps; decides nothing but whether a checkpoint without is refused.

    Raises:
        UsageError: a task the checkpoint lacks, timestamps it lacks, or a checkpoint without Whisper's control tokens.
    """

    def __init__(self, checkpoint: Checkpoint, task: str = "transcribe", *, timestamps: bool = False):
        self.checkpoint = checkpoint
        self.task = task
        if task not in TASKS:
            raise UsageError(f"--task {task}: must be one of {', '.join(TASKS)}")
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
        self.language_of = {i: code for code, i in checkpoint.languages.items()}
        self._control_ids = frozenset(tokens.values())
        generation = checkpoint.generation_config
        self._suppress = tuple(generation.get("suppress_tokens") or ())
        self._begin_suppress = tuple(generation.get("begin_suppress_tokens") or ())
        # Half the decoder's positions, less one for <|startofprev|>, as the original Whisper keeps them.
        self.max_prompt_tokens = checkpoint.config.get("max_target_positions", 448) // 2 - 1

    def check_language(self, language: str) -> str:
        """The checkpoint's own code for a language (`EN`, `en-US`, `en_us` → `en`).

        Raises:
            UsageError: the checkpoint lacks it.
        """
        code = language.strip().lower().replace("_", "-").split("-")[0]
        if code in self.checkpoint.languages:
            return code
        name = self.checkpoint.name
        if not self.checkpoint.is_multilingual:
            raise UsageError(f"language {language!r}: {name} is English-only; give a multilingual checkpoint")
        known = " ".join(sorted(self.checkpoint.languages))
        raise UsageError(f"language {language!r}: {name} has no such language; it has {known}")

    def controls(self, *, detects: bool) -> Controls:
        """What the engine must enforce; one value for all requests of a run that detect, one for all that do not."""
        forced: tuple[tuple[int, ...], ...] = ()
        if detects:
            forced = (tuple(sorted(self.language_of)), (self.task_id,), (self.no_timestamps,))
        return Controls(self._suppress, self._begin_suppress, forced)

    def ask(self, language: str | None, prompt: str | None, encode: Callable[[str], Sequence[int]]) -> Ask:
        """The question for one window.

        Args:
            language: a code `check_language` returned, or None to have the model detect it.
            prompt: previous text; None or blank for none. Its last `max_prompt_tokens` tokens are used, as Whisper itself does.
            encode: text to token ids, without special tokens around them.

        Raises:
            RowError: `bad_row`, the prompt holds control tokens.
        """
        previous = self._previous_ids(prompt, encode) if prompt and not prompt.isspace() else []
        if not self.checkpoint.is_multilingual:
            return Ask((*previous, self.sot, self.no_timestamps), "en")
        if language is None:
            return Ask((*previous, self.sot))
        return Ask((*previous, self.sot, self.checkpoint.languages[language], self.task_id, self.no_timestamps), language)

    def read(self, ask: Ask, token_ids: Sequence[int], logprobs: Sequence[float]) -> Answer:
        """Reads generated token ids; `logprobs` holds one natural logarithm for each, or nothing at all."""
        num_control = 3 if ask.detects else 0
        language, language_prob = ask.language, None
        if ask.detects and token_ids:
            language = self.language_of.get(token_ids[0])
            language_prob = math.exp(logprobs[0]) if logprobs else None
        text = token_ids[num_control:]
        of_text = logprobs[num_control:]
        return Answer(
            language=language,
            language_prob=language_prob,
            num_tokens=sum(1 for t in text if t != self.end),
            avg_logprob=sum(of_text) / len(of_text) if len(of_text) else None,
        )

    def _previous_ids(self, prompt: str, encode: Callable[[str], Sequence[int]]) -> list[int]:
        ids = list(encode(" " + prompt.strip()))
        if not self._control_ids.isdisjoint(ids):
            raise RowError("bad_row", f"prompt {prompt[:60]!r}: holds a control token such as <|…|>; remove it")
        return [self.start_of_prev, *ids[-self.max_prompt_tokens :]]
