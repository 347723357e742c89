"""A small real function in the engine's place: it counts tone bursts and says "beep" so many times.

A lost, doubled or misordered window changes the text.
"""

import threading
from dataclasses import replace

import numpy as np

from asrbatch.engine.base import AlignedWords, DecodingOptions, Request
from asrbatch.errors import EngineDiedError, RowError
from asrbatch.types import DecodingResult, Segment, WordTiming

RATE = 16000


def find_bursts(samples: np.ndarray) -> list[tuple[float, float | None]]:
    """Start and end in seconds of stretches of sound, in frames of 20 ms; the end is None when it lies beyond the
    samples.
    """
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    loud = np.concatenate([[False], np.abs(frames).max(axis=1) > 0.05, [False]])
    starts, ends = (np.flatnonzero(loud[1:-1] & ~loud[:-2]), np.flatnonzero(loud[1:-1] & ~loud[2:]) + 1)
    return [
        (s * 0.02, e * 0.02 if e < len(frames) else None) for s, e in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def beep_answer(samples: np.ndarray, question: DecodingOptions) -> DecodingResult:
    """One "beep" for each burst, with its times; a burst that goes on beyond the samples is not closed."""
    bursts = find_bursts(samples)
    segments = tuple(Segment(start, end, " beep", (1,), 1, -0.1) for start, end in bursts)
    closed = [end for _, end in bursts if end is not None]
    resume = closed[-1] if closed and bursts[-1][1] is None else None
    text = "".join(s.text for s in segments)
    answer = DecodingResult(text, len(bursts), "stop", -0.1, question.language or "en", None, 0.0, 0.001, 0.002)
    answer = replace(answer, temperature=question.temperature)
    return replace(answer, segments=segments, resume_s=resume) if question.timestamps else answer


class BeepEngine:
    """Answers in threads, out of order; `fate` may replace an answer by a failure."""

    max_num_seqs = 4

    def __init__(self, deliver, fate=lambda key: None, seconds=lambda key: 0.002):
        self.deliver, self._fate, self._seconds = deliver, fate, seconds
        self.held = self.most_held = 0
        self.discarded = []
        self._lock = threading.Lock()

    def start_preprocess_thread(self):
        pass

    def preprocess(self, samples, prompt, language=None):
        if prompt == "refuse":
            raise RowError("bad_row", "prompt 'refuse': refused")
        return Request((), samples, float(np.abs(samples).max()), lambda peak: None)

    def close(self, timeout_s=10.0):
        pass

    def submit(self, key, request, question):
        with self._lock:
            self.held += 1
            self.most_held = max(self.most_held, self.held)
        threading.Timer(self._seconds(key), self._answer, (key, request, question)).start()

    def _answer(self, key, request, question):
        with self._lock:
            self.held -= 1
        failure = self._fate(key)
        self.deliver(key, failure or self.read(request.engine_input, question))

    def has_room_for(self, texts, language):
        return True

    def align(self, key, request, result, num_samples):
        """Each "beep" is as long as its burst; later than all else, so that a row which does not wait has no words."""
        bursts = find_bursts(request.engine_input)
        said = [(WordTiming(" beep", start, num_samples / RATE if end is None else end, 0.9),) for start, end in bursts]
        groups = tuple(said) if result.segments else (tuple(word for words in said for word in words),)
        threading.Timer(5 * self._seconds(key.key), self.deliver, (key, AlignedWords(groups))).start()

    def discard(self, request):
        self.discarded.append(request)

    def read(self, samples, question):
        return beep_answer(samples, question)


class DiesOn:
    """Starts engines that die whenever row `index` is among what they hold."""

    def __init__(self, index: int):
        self.index = index
        self.held_at_death: list[set[int]] = []

    def __call__(self, spec, deliver, on_step):
        held: dict = {}
        died = EngineDiedError("the engine process died: killed by row 7")

        def fate(key):
            if self.index in {index for index, _ in held} | {key[0]}:
                self.held_at_death.append({index for index, _ in held})
                return died
            held.pop(key, None)
            return None

        engine = BeepEngine(deliver, fate, seconds=lambda key: 0.05)
        submit = engine.submit
        engine.submit = lambda key, request, question: (held.update({key: 1}), submit(key, request, question))
        engine.facts, engine.close = {"vllm": "-", "torch": "-", "device": "-"}, lambda: None
        return engine
