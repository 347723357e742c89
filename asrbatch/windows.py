"""Which pieces of an utterance's audio are asked of the engine. Integer samples; knows nothing of text or of vLLM."""

from collections.abc import Callable

from .types import Window


def whole(num_samples: int, limit_samples: int) -> list[Window]:
    """One window with everything. Longer audio was refused while decoding (`too_long`), never cut."""
    if num_samples > limit_samples:
        raise ValueError(f"{num_samples} samples do not fit one window of {limit_samples}")
    return [Window(0, num_samples)]


SPLITTERS: dict[str, Callable[[int, int], list[Window]]] = {"none": whole}
