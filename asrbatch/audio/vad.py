"""Where somebody speaks: Silero VAD, run by ONNX Runtime on one core. The only importer of onnxruntime.

The model file is found in the installed package `silero-vad`, whose own code is not imported (it would bring torch).
Knows nothing of windows.
"""

import hashlib
import importlib.util
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch.errors import UsageError
from asrbatch.formatting import install_line

SAMPLE_RATE = 16_000
FRAME = 512  # samples that one probability stands for
_CONTEXT = 64  # samples before a frame that the model sees with it
_STATE = (1, 1, 128)
# The model gets used to what goes on for long: after 30 s of music as loud as speech it misses 28 of 80 short
# utterances, and finds the others up to 1.5 s late. So it listens a second time, and then begins anew with every 4 s of
# audio, having seen the 2 s before: with both, 2 of 80, and 95 % within 0.42 s. (Alone, the second loses words in
# steady noise. With a shorter memory it takes more music for speech: of 18 minutes, this one takes 0.4 s.)
_FRAMES_OF_MEMORY, _FRAMES_BEFORE = 4 * SAMPLE_RATE // FRAME, 2 * SAMPLE_RATE // FRAME

_NEEDED_BY = "--windows silence or --vad-filter"
_INSTALL = install_line("vad")
_lock = threading.Lock()


def check_available(sample_rate: int = SAMPLE_RATE) -> None:
    """Whether `SileroVad` can work. Imports nothing.

    Raises:
        UsageError: a package is missing or too old, or the audio is not at 16 kHz.
    """
    if sample_rate != SAMPLE_RATE:
        raise UsageError(
            f"{_NEEDED_BY}: voice activity is found at {SAMPLE_RATE} Hz, and this model takes {sample_rate} Hz"
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(f"{_NEEDED_BY} needs onnxruntime, which is not installed: {_INSTALL}")
    _model_path()


@cache
def model_digest() -> str:
    """SHA-256 of the model file, in hexadecimal.

    Raises:
        UsageError: the package is missing or too old.
    """
    return hashlib.sha256(_model_path().read_bytes()).hexdigest()


def _model_path() -> Path:
    package = importlib.util.find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise UsageError(f"{_NEEDED_BY} needs silero-vad, which is not installed: {_INSTALL}")
    path = Path(package.submodule_search_locations[0], "data", "silero_vad_16k_sequence.onnx")
    if not path.is_file():
        raise UsageError(f"{_NEEDED_BY} needs silero-vad 6.2.3 or newer ({path.name} is missing): {_INSTALL}")
    return path


@cache
def _load(path: Path) -> Any:
    # Since 1.29 its builds for Linux report every session to Microsoft unless this is set before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # in the thread that calls
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class SileroVad:
    """Finds speech in one recording, from its start on: two passes at once, of which the more probable counts."""

    def __init__(self) -> None:
        # Loaded once; any number of threads may use it at the same time.
        with _lock:
            self._session = _load(_model_path())
        self._whole, self._recent = _Memory(self._session), _Memory(self._session)
        self._num_frames = 0
        # What the second pass sees again, the context of that, and what there is of the next frame.
        self._held = np.zeros(_CONTEXT + _FRAMES_BEFORE * FRAME, np.float32)

    def __call__(self, samples: np.ndarray, is_end: bool) -> np.ndarray:
        """How probable it is that somebody speaks, for each frame that these samples complete.

        Frames follow each other from the recording's start; the last is filled up with zeros. How a recording is
        divided into calls changes nothing.

        Args:
            samples: float32 [n] at 16 kHz, in [-1, 1]: those after the ones given last.
            is_end: no more will follow.

        Returns:
            float32 [frames], each 0 to 1.
        """
        held = np.concatenate([self._held, samples])
        if is_end:
            held = np.pad(held, (0, -(len(held) - _CONTEXT) % FRAME))
        frames = np.lib.stride_tricks.sliding_window_view(held, _CONTEXT + FRAME)[::FRAME]
        start, found = _FRAMES_BEFORE, [np.empty(0, np.float32)]
        while start < len(frames):
            age = self._num_frames % _FRAMES_OF_MEMORY
            if age == 0 and self._num_frames:
                self._recent = _Memory(self._session)
                self._recent.run(frames[start - _FRAMES_BEFORE : start])
            end = min(start + _FRAMES_OF_MEMORY - age, len(frames))
            found.append(np.maximum(self._whole.run(frames[start:end]), self._recent.run(frames[start:end])))
            self._num_frames += end - start
            start = end
        self._held = held[(len(frames) - _FRAMES_BEFORE) * FRAME :].copy()
        return np.concatenate(found)


class _Memory:
    """The model's state after the frames it has seen."""

    def __init__(self, session: Any):
        self._session = session
        self._hidden = self._cell = np.zeros(_STATE, np.float32)

    def run(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities [n] of frames [n, context + frame]."""
        inputs = {"input": np.ascontiguousarray(frames), "h": self._hidden, "c": self._cell}
        found, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
        return found.reshape(-1)
