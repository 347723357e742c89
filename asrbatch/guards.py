"""Signs that a text is not what was said, as flags for people who filter; nothing here changes a text.

The thresholds are those of the original Whisper (openai/whisper, `transcribe.py`) where it has them.
"""

import zlib
from collections.abc import Sequence

# Whisper: above this ratio of a text's bytes to its compressed bytes it repeats itself.
COMPRESSION_RATIO = 2.4
# Whisper: below this mean log-probability the model did not believe what it wrote.
AVG_LOGPROB = -1.0
# The compression ratio does not see short loops ("Thank you. Thank you. …"): so often in a row at the end of a text, a
# phrase of 1 to 8 words is one. Ours.
LOOP_REPEATS = 6
_LONGEST_PHRASE = 8


def flags(text: str, avg_logprob: float | None) -> list[str]:
    """`loop` and `low_confidence`, where they apply to the text of a window.

    Args:
        avg_logprob: None when nothing was generated.
    """
    found = []
    if compression_ratio(text) > COMPRESSION_RATIO or repeats(text.split()) >= LOOP_REPEATS:
        found.append("loop")
    if avg_logprob is not None and avg_logprob < AVG_LOGPROB:
        found.append("low_confidence")
    return found


def compression_ratio(text: str) -> float:
    """Whisper's measure, on UTF-8 bytes; 0 for an empty text."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data)) if data else 0.0


def repeats(words: Sequence[str]) -> int:
    """How often the phrase at the end of a text stands there in a row; the most over phrases of 1 to 8 words."""
    most = min(1, len(words))
    for length in range(1, min(_LONGEST_PHRASE, len(words) // 2) + 1):
        phrase, count, end = words[-length:], 1, len(words) - length
        while end >= length and words[end - length : end] == phrase:
            count, end = count + 1, end - length
        most = max(most, count)
    return most
