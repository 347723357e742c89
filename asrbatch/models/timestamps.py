"""Cuts the tokens of a Whisper answer into segments at its timestamps.

Knows token ids and nothing of tokenizers, prompts or the engine. Timestamps are found by number, not by name: some
tokenizers list none of them.
"""

from collections.abc import Callable, Sequence

from asrbatch.types import Segment

# openai-whisper's audio.py: one encoder position is two feature frames of 10 ms; a window of 30 s has 1500 of them.
STEP_S = 0.02
NUM_TIMESTAMPS = 1501  # 0.00 to 30.00 s

Decode = Callable[[Sequence[int]], str]
"""Text tokens to text, nothing tidied up."""


def cut_segments(
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    *,
    first_timestamp: int,
    is_text: Callable[[int], bool],
    decode: Decode,
) -> tuple[Segment, ...]:
    """Every text token, in segments, in order.

    Text before a first timestamp begins at 0.0, text after a closing timestamp where that one was. Timestamps with
    nothing between them make no segment; tokens that are neither text nor timestamps are left out.

    Args:
        token_ids: as generated.
        logprobs: a natural logarithm for each, or nothing at all.
        first_timestamp: the id of 0.00 s.
    """
    segments: list[Segment] = []
    opening: tuple[int, ...] = ()  # the timestamp before the text, as a token
    start_s, text, of_text = 0.0, [], []

    def close(closing: tuple[int, ...], end_s: float | None) -> None:
        mean = sum(of_text) / len(of_text) if of_text else None
        segments.append(Segment(start_s, end_s, decode(text), (*opening, *text, *closing), len(text), mean))

    for i, token in enumerate(token_ids):
        if is_text(token):
            text.append(token)
            # A slice, because without log-probabilities there is none to take.
            of_text += logprobs[i : i + 1]
        elif is_timestamp(token, first_timestamp):
            at_s = seconds(token, first_timestamp)
            if text:
                close((token,), at_s)
                opening, text, of_text = (), [], []
            else:
                opening = (token,)
            start_s = at_s
    if text:
        close((), None)
    return tuple(segments)


def resume_s(token_ids: Sequence[int], first_timestamp: int) -> float | None:
    """Where the model says to listen on, in seconds from the window's start; None when it heard the window to its end.

    After two timestamps in a row a segment is closed and the next one begun; text after the last such pair was cut off
    by the end of the window, and is better heard again. A single timestamp at the end says that nothing was cut off.
    The rule is that of openai-whisper's `transcribe.py`.

    Args:
        token_ids: as generated, without the end token.
    """
    stamps = [is_timestamp(token, first_timestamp) for token in token_ids]
    if stamps[-2:] == [False, True]:
        return None
    for i in range(len(stamps) - 1, 0, -1):
        if stamps[i - 1] and stamps[i]:
            return seconds(token_ids[i - 1], first_timestamp)
    return None


def is_timestamp(token: int, first_timestamp: int) -> bool:
    return first_timestamp <= token < first_timestamp + NUM_TIMESTAMPS


def seconds(token: int, first_timestamp: int) -> float:
    """What a timestamp token says, from the window's start."""
    # 0.02 is no exact float: 35 steps would be 0.7000000000000001 s.
    return round((token - first_timestamp) * STEP_S, 2)
