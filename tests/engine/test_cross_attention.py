"""The worker's arithmetic beside the fused attention: the median, the standardising, shapes on the meta device, and the
bound of what is kept."""

import numpy as np
import pytest
import torch

from asrbatch.engine.vllm.cross_attention import KeptEncodings, add_looks, median_over_time


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 60])
def test_median_of_seven_with_mirrored_ends(length):
    values = torch.randn(3, length, generator=torch.Generator().manual_seed(length))
    found = median_over_time(values)
    if length < 4:
        assert torch.equal(found, values)
        return
    mirrored = np.pad(values.numpy(), ((0, 0), (3, 3)), mode="reflect")
    expected = np.median(np.lib.stride_tricks.sliding_window_view(mirrored, 7, axis=1), axis=-1)
    assert np.array_equal(found.numpy(), expected)


def test_a_place_that_every_token_looks_at_tells_nothing():
    scores = torch.zeros(2, 3, 30)
    scores[:, :, 5:9] = 5.0  # everybody looks here
    for token in range(3):
        scores[:, token, 10 * token : 10 * token + 10] += 3.0
    looks = torch.zeros(3, 30)
    for of_layer in (scores[:1], scores[1:]):
        add_looks(looks, of_layer, slice(None))
    looks /= 2
    assert [int(row.argmax()) // 10 for row in looks] == [0, 1, 2]
    assert looks.mean(dim=0).abs().max() < 1e-4, "each place is standardised over tokens"


@pytest.mark.parametrize(("heads", "tokens", "places"), [(1, 2, 1), (6, 40, 3), (8, 448, 1500)])
def test_shapes_on_a_device_that_computes_nothing(heads, tokens, places):
    looks = torch.zeros(tokens - 1, places, device="meta")
    add_looks(looks, torch.empty(heads, tokens, places, device="meta"), slice(1, None))
    assert (looks.shape, looks.device.type) == ((tokens - 1, places), "meta")


def test_what_is_kept_is_taken_once_and_stays_within_its_bound():
    one = torch.ones(4, 8)  # 128 bytes
    kept = KeptEncodings(300)
    kept["a"], kept["b"], kept["c"] = one, 2 * one, 3 * one
    assert set(kept) == {"a", "b", "c"}, "vLLM's own cache is as it was"
    del kept["b"]  # as vLLM does a step later
    assert kept.take("c") is None, "it did not fit"
    kept["a"] = 4 * one  # preempted, and encoded again
    assert kept.num_bytes == 256
    assert torch.equal(kept.take("b"), 2 * one) and torch.equal(kept.take("a"), 4 * one)
    assert kept.take("a") is None and kept.num_bytes == 0
    kept["d"] = one
    kept.discard("d")
    kept.discard("never seen")
    assert kept.num_bytes == 0 and kept.take("d") is None


def test_a_window_of_a_batch_does_not_keep_the_batch():
    batch = torch.ones(16, 4, 8)
    kept = KeptEncodings(10**6)
    kept["a"] = batch[3]
    assert kept.take("a").untyped_storage().nbytes() == 128
