"""The real engine, asked directly: options that tests share, so that they share its engine, and a queue for its
answers.
"""

from queue import SimpleQueue

import numpy as np
from audio_loading import load_audio, request

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine.base import DecodingOptions
from asrbatch.engine.spec import EngineSpec
from asrbatch.runs.model_selection import resolve_model

RATE = 16000


def spec_of(folder: str, *, args=("max_num_seqs=4",), mode="thread", **options) -> EngineSpec:
    """What a run would start; fp32, a few sequences at a time."""
    engine = EngineConfig(str(folder), dtype="float32", mode=mode, args=args)
    return resolve_model(RunConfig("-", engine, **options))


def samples_of(rows: list[dict]) -> list[np.ndarray]:
    return [load_audio(request(r["audio_filepath"])).samples for r in rows if r["duration"] < 29]


class EngineClient:
    """An engine and the queue its answers arrive in.

    Args:
        start: `engine.start_engine`, or what has its signature.
        folder: of the checkpoint.
    """

    def __init__(self, start, folder: str, **options):
        self.answers: SimpleQueue = SimpleQueue()
        self.engine = start(spec_of(folder, **options), lambda key, outcome: self.answers.put((key, outcome)))

    def __call__(self, clips, prompt=None, timeout_s=120, **question):
        """Submits all clips at once; outcomes in their order. Without timestamps unless asked for."""
        for i, clip in enumerate(clips):
            self.engine.submit(
                (i, 0), self.engine.preprocess(clip, prompt), DecodingOptions(**{"timestamps": False, **question})
            )
        return self.collect(len(clips), timeout_s)

    def collect(self, count, timeout_s=120):
        got = dict(self.answers.get(timeout=timeout_s) for _ in range(count))
        return [got[key] for key in sorted(got)]
