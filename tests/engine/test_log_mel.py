"""Features by our own hand against transformers' extractor, which computes 30 s whatever a window holds."""

import numpy as np
import pytest
import torch
from engine_client import samples_of
from transformers import WhisperFeatureExtractor

from asrbatch.engine.vllm.log_mel import LogMel

RATE, MOST = 16_000, 480_000
# Around the first frames, around one that begins or ends with a sample, and around a whole window.
LENGTHS = [0, 1, 2, 120, 199, 200, 201, 359, 360, 361, 400, 1600, 16_000, 79_960, 80_000, 123_457, 480_001, 500_000]
LENGTHS += [MOST - n for n in (1000, 361, 360, 201, 200, 161, 160, 159, 41, 40, 39, 2, 1, 0)]


def noise(num_samples, amplitude):
    samples = np.random.default_rng(num_samples).standard_normal(num_samples) * amplitude
    # As speech: louder and softer, by more than the range that features have.
    return (samples * np.logspace(0, -5, max(num_samples, 1))[:num_samples]).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    """As in preprocess threads; a team of them is slower by far on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("amplitude", [0.3, 1e-3, 3e-5, 0.0])
@pytest.mark.parametrize("mel_bins", [80, 128])
def test_features_are_those_of_the_reference(mel_bins, amplitude):
    extractor = WhisperFeatureExtractor(feature_size=mel_bins)
    log_mel = LogMel(extractor, torch.float32)
    for num_samples in LENGTHS:
        samples = noise(num_samples, amplitude)
        expected = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features[0]
        found = log_mel(samples)
        assert found.shape == expected.shape and found.is_contiguous()
        assert (found - expected).abs().max() < 1e-6, num_samples


def test_silence_behind_speech_is_the_floor_of_its_window(demo_rows):
    speech = samples_of(demo_rows)[0]
    features = LogMel(WhisperFeatureExtractor(), torch.float32)(speech)
    behind = features[:, (len(speech) + 200) // 160 + 1 :]
    assert behind.numel() > 100_000 and (behind == features.max() - 2).all()


def test_the_least_value_of_silence_is_that_of_no_power():
    """8 below the loudest of quiet noise is less than what 1e-10 of power has: there silence is not the floor."""
    features = LogMel(WhisperFeatureExtractor(), torch.float32)(noise(RATE, 3e-5))
    assert features.max() - 2 < -1.5 and (features[:, 200:] == -1.5).all()


def test_another_extractor_is_not_taken_for_transformers():
    class Other(WhisperFeatureExtractor):
        pass

    assert LogMel.is_supported(WhisperFeatureExtractor())
    for other in (Other(), WhisperFeatureExtractor(dither=1e-4), WhisperFeatureExtractor(padding_value=0.1), None):
        assert not LogMel.is_supported(other)
