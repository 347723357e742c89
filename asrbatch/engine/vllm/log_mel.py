"""Whisper's features, computed over the samples that are there, and vLLM's input made of them.

transformers' extractor computes 30 s whatever a window holds, and vLLM's renderer tokenises a prompt beside it that
nobody uses. Here both are made once, and of each window only what differs. Equal to transformers' within 1e-6 before
they are rounded to the model's dtype (tests/engine/test_log_mel.py). Import it late, like `api.py`.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from asrbatch.engine.vllm.rendering import Frontend

# The least power, and how far below the loudest features end (openai/whisper, audio.py): powers of ten.
_LEAST, _RANGE = -10.0, 8.0
# Frames at a time: what they take fits the cache of a core, and is not given back to the system in between.
_FRAMES = 500
# Filters at a time: each is zero in most bins, and neighbours in the same ones.
_FILTERS = 16


def make_render(frontend: Frontend, sample_rate: int) -> Callable[[np.ndarray], Any]:
    """What makes vLLM's engine input of the samples of a window: ours, or where something else is wanted than we
    compute, vLLM's renderer. The prompt in it is to be replaced."""
    extractor = frontend.feature_extractor
    if frontend.processor_kwargs or not LogMel.is_supported(extractor):
        return lambda samples: frontend.render(samples, language="en")
    log_mel = LogMel(extractor, frontend.model_config.dtype)
    inputs = WhisperInputs(frontend.render(np.zeros(sample_rate, np.float32), language="en"))
    return lambda samples: inputs(log_mel(samples))


class LogMel:
    """The features of one window. Thread-safe.

    Args:
        extractor: that of the checkpoint; one that `is_supported`.
        dtype: of the features.
    """

    def __init__(self, extractor: WhisperFeatureExtractor, dtype: torch.dtype):
        self._size, self._hop, self._most = extractor.n_fft, extractor.hop_length, extractor.n_samples
        self._dtype, self._shape = dtype, (extractor.feature_size, extractor.nb_max_frames)
        self._window = torch.hann_window(self._size)
        filters = torch.from_numpy(np.asarray(extractor.mel_filters, np.float32).T.copy())
        self._filters = []
        for rows in filters.split(_FILTERS):
            bins = rows.any(0).nonzero()
            used = slice(int(bins[0]), int(bins[-1]) + 1)
            self._filters.append((used, rows[:, used].contiguous()))

    @staticmethod
    def is_supported(extractor: Any) -> bool:
        """Whether it computes what we do: transformers' own, without what its settings may add."""
        return (
            type(extractor) is WhisperFeatureExtractor
            and extractor.dither == 0
            and extractor.padding_value == 0
            and extractor.n_samples % extractor.hop_length == 0
            and bool((np.asarray(extractor.mel_filters) != 0).any(0).all())
        )

    def __call__(self, samples: np.ndarray) -> torch.Tensor:
        """Features [mel bins, frames of a whole window]; what lies behind the window is dropped.

        Args:
            samples: 1-D float32, at the extractor's rate.
        """
        # Those that touch a sample; the others are silence, of the least power.
        num_frames = min(self._shape[1], -(-(len(samples) + self._size // 2) // self._hop))
        frames = self._frames(samples[: self._most], num_frames)
        mel = torch.empty(self._shape[0], num_frames)
        for start in range(0, num_frames, _FRAMES):
            spectrum = torch.view_as_real(torch.fft.rfft(frames[start : start + _FRAMES] * self._window))
            power = spectrum[..., 0].square().addcmul_(spectrum[..., 1], spectrum[..., 1])
            row = 0
            for used, filters in self._filters:
                mel[row : (row := row + len(filters)), start : start + _FRAMES] = filters @ power[:, used].T
        mel.clamp_(min=10**_LEAST).log10_()
        loudest = float(mel.max())
        if num_frames < self._shape[1]:
            loudest = max(loudest, _LEAST)
        floor = np.float32(loudest - _RANGE)
        mel.clamp_(min=float(floor)).add_(4).div_(4)
        silence = (max(np.float32(_LEAST), floor) + np.float32(4)) / np.float32(4)
        features = torch.full(self._shape, float(silence), dtype=self._dtype)
        features[:, :num_frames] = mel
        return features

    def _frames(self, samples: np.ndarray, num_frames: int) -> torch.Tensor:
        """The first frames of a whole window, [num_frames, size], overlapping in memory: samples, silence behind them,
        and mirrored half a frame before its start and behind its end."""
        half = self._size // 2
        padded = np.zeros((num_frames - 1) * self._hop + self._size, np.float32)
        padded[half : half + len(samples)] = samples
        padded[:half] = padded[2 * half : half : -1]
        if (num_behind := len(padded) - half - self._most) > 0:
            padded[-num_behind:] = padded[-num_behind - 2 : -2 * num_behind - 2 : -1]
        return torch.from_numpy(padded).as_strided((num_frames, self._size), (self._hop, 1))


class WhisperInputs:
    """Makes vLLM's engine inputs of features. Thread-safe.

    Args:
        rendered: an input that vLLM's renderer made, of any audio: the pattern for all.
    """

    def __init__(self, rendered: Any):
        self._pattern, self._numbers = rendered, itertools.count()

    def __call__(self, features: torch.Tensor) -> Any:
        """An input of its own; what does not differ is shared, and nobody writes to it."""
        decoder = self._pattern["decoder_prompt"]
        items = decoder["mm_kwargs"]
        (item,) = items["audio"]
        element = dataclasses.replace(item["input_features"], data=features)
        return {
            **self._pattern,
            "decoder_prompt": {
                **decoder,
                "mm_kwargs": type(items)({"audio": [type(item)({"input_features": element})]}),
                # By them vLLM's worker knows encoder outputs: another for each.
                "mm_hashes": {"audio": [f"asrbatch-{next(self._numbers)}"]},
            },
            "arrival_time": time.time(),
        }
