"""Signs that a text is not what was said: figures, and flags for people who filter; nothing here changes a text.

The thresholds are those of the original Whisper (openai/whisper, `transcribe.py`) where it has them. Its mean
log-probability is over all sampled tokens, timestamps included, after its token rules; ours over the text's and the end
token, before them."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

from asrbatch.types import DecodingResult

# Whisper: above this ratio of a text's bytes to its compressed bytes it repeats itself.
COMPRESSION_RATIO = 2.4
# Whisper: below this mean log-probability the model did not believe what it wrote.
AVG_LOGPROB = -1.0
# Whisper: above this probability nobody speaks, unless the model believed what it wrote.
NO_SPEECH_PROB = 0.6
# The compression ratio does not see short loops ("Thank you. Thank you. …"): so often in a row, a phrase is one. Ours.
LOOP_REPEATS = 6
_LONGEST_PHRASE = 8
# Below this gain the audio does not hold the text. Ours, measured by scripts/text_mismatch.py: see
# docs/measurements/times-of-words.md.
AUDIO_GAIN = 1.3
# Fast speech has 20 to 25 characters a second, an auctioneer 35. Ours.
CHARS_PER_S = 40.0


def metrics(text: str, seconds: float, avg_logprob: float | None, no_speech_prob: float | None) -> dict[str, Any]:
    """What the guards look at, for a text and the audio it is said to come from.

    Args:
        text: stripped.
        seconds: of audio; may be 0.
    """
    return {
        "avg_logprob": rounded(avg_logprob, 4),
        "compression_ratio": round(compression_ratio(text), 3),
        "repeats": repeats(text),
        "chars_per_s": round(len(text) / seconds, 2) if seconds > 0 else None,
        "no_speech_prob": rounded(no_speech_prob, 4),
    }


def flags(result: DecodingResult, seconds: float) -> list[str]:
    """What is to be said about an answer: `empty`, `truncated`, `loop`, `low_confidence`, `no_speech`, `too_fast`.

    Args:
        seconds: of audio it was given.
    """
    text = result.text.strip()
    signs = {
        "empty": not text,
        "truncated": result.is_truncated,
        "loop": is_repetitive(text),
        "low_confidence": is_low_confidence(result),
        "no_speech": is_no_speech(result),
        "too_fast": len(text) > CHARS_PER_S * max(seconds, 1.0),
    }
    return [flag for flag, holds in signs.items() if holds]


def is_repetitive(text: str) -> bool:
    return compression_ratio(text) > COMPRESSION_RATIO or repeats(text) >= LOOP_REPEATS


def is_low_confidence(result: DecodingResult) -> bool:
    return result.avg_logprob is not None and result.avg_logprob < AVG_LOGPROB


def is_no_speech(result: DecodingResult) -> bool:
    """Whisper's rule: the model heard nobody speak, and did not believe what it wrote all the same."""
    probability = result.no_speech_prob
    believed = result.avg_logprob is not None and result.avg_logprob > AVG_LOGPROB
    return probability is not None and probability > NO_SPEECH_PROB and not believed


def is_mismatch(audio_gains: Sequence[float] | None) -> bool:
    """Whether some of a given text is not what is said; see `AlignedWords.audio_gains`."""
    return audio_gains is not None and any(gain < AUDIO_GAIN for gain in audio_gains)


def rounded(value: float | None, digits: int) -> float | None:
    """For JSON: a number that is not finite is null."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def compression_ratio(text: str) -> float:
    """Whisper's measure, on UTF-8 bytes; 0 for an empty text."""
    # Half a surrogate pair is text to JSON and to Python, and would raise here.
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data)) if data else 0.0


def repeats(text: str) -> int:
    """How often in a row a phrase stands in a text; the most over phrases of 1 to 8 words.

    Of characters where a language writes no spaces: where its words would have 20 characters and more.
    """
    words = text.split()
    units = words if len(text) < 20 * len(words) else list(text)
    most = min(1, len(units))
    for length in range(1, min(_LONGEST_PHRASE, len(units) // 2) + 1):
        same = 0  # units in a row that equal the one a phrase before
        for before, unit in zip(units, units[length:], strict=False):
            same = same + 1 if unit == before else 0
            most = max(most, same // length + 1)
    return most
