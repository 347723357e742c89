"""Answers to one window: the first, and with `--fallback` those at rising temperatures until one is good enough.

Ladder, thresholds and the exception for silence are those of the original Whisper (openai/whisper, `transcribe.py`),
which also takes what repeats itself or was cut off for a failure only as far as the compression ratio sees it; a short
loop and a cut-off answer are failures here. When none is good enough the original keeps the last, at temperature 1.0;
as faster-whisper does, the most probable is kept here, of those without loop or cut if there is one.

Pure: knows nothing of the engine.
"""

from collections.abc import Sequence
from typing import Any

from asrbatch.models import quality
from asrbatch.types import DecodingResult

GREEDY = (0.0,)
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

# What makes an answer be asked for again; recorded with a run.
THRESHOLDS = {
    "compression_ratio": quality.COMPRESSION_RATIO,
    "avg_logprob": quality.AVG_LOGPROB,
    "no_speech_prob": quality.NO_SPEECH_PROB,
    "repeats": quality.LOOP_REPEATS,
}


class Attempts:
    """The answers to one window.

    Args:
        temperatures: to be tried in turn; the first is asked with anyway.

    Attributes:
        results: in the order they were asked for.
    """

    def __init__(self, temperatures: Sequence[float]):
        self._temperatures = temperatures
        self.results: list[DecodingResult] = []

    def add(self, result: DecodingResult) -> None:
        self.results.append(result)

    def replace_last(self, result: DecodingResult) -> None:
        """By the same answer, of which more is known."""
        self.results[-1] = result

    @property
    def next_temperature(self) -> float | None:
        """What to try next; None when the last answer is good enough or the ladder has ended."""
        tried = len(self.results)
        if tried == len(self._temperatures) or (tried and not failure_reasons(self.results[-1])):
            return None
        return self._temperatures[tried]

    @property
    def chosen(self) -> DecodingResult:
        """The answer that counts: the only one, the good one, or the best of bad ones."""
        last = self.results[-1]
        if len(self.results) == 1 or not failure_reasons(last):
            return last
        # Below every mean log-probability: an answer that has none is chosen last.
        return max(self._sound or self.results, key=lambda r: -1e9 if r.avg_logprob is None else r.avg_logprob)

    @property
    def reason(self) -> str | None:
        """Why the chosen one was chosen; None when there was no choice."""
        if len(self.results) == 1:
            return None
        if not failure_reasons(self.results[-1]):
            return "first without faults"
        return "highest avg_logprob of those without loop or cut" if self._sound else "highest avg_logprob"

    @property
    def _sound(self) -> list[DecodingResult]:
        return [r for r in self.results if not r.is_truncated and not quality.is_repetitive(r.text.strip())]


def failure_reasons(result: DecodingResult) -> list[str]:
    """Why an answer is to be asked for again, each as `metric value`; none for silence, where any text is wrong."""
    if quality.is_no_speech(result):
        return []
    text = result.text.strip()
    found: list[str] = []
    if (ratio := quality.compression_ratio(text)) > quality.COMPRESSION_RATIO:
        found.append(f"compression_ratio {ratio:.2f}")
    if (times := quality.repeats(text)) >= quality.LOOP_REPEATS:
        found.append(f"repeats {times}")
    if quality.is_low_confidence(result):
        found.append(f"avg_logprob {result.avg_logprob:.2f}")
    if result.finish_reason == "length":
        found.append("finish_reason length")
    elif result.is_truncated:
        found.append("unclosed <think>")
    return found


def as_rows(attempts: Attempts) -> list[dict[str, Any]]:
    """What a row says about them, in order; nothing when there was only one."""
    if len(attempts.results) == 1:
        return []
    return [
        {
            "temperature": result.temperature,
            "text": result.text.strip(),
            "num_tokens": result.num_tokens,
            "finish_reason": result.finish_reason,
            "avg_logprob": quality.rounded(result.avg_logprob, 4),
            "faults": failure_reasons(result),
            "chosen": result is attempts.chosen,
        }
        for result in attempts.results
    ]
