"""Whisper's token rules in the engine's logits processor, beside those of transformers; and vLLM's logprobs, gathered
at once.

The processor is driven as vLLM drives it: rows come, go and move between steps, and tokens are placeholders until it
samples."""

import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrbatch.engine import environment
from asrbatch.models.whisper import CONTROLS_KEY, Controls

# A small vocabulary: text below END, control tokens, then the timestamps.
END, LANGUAGES, TASK, NO_TIMESTAMPS, ZERO = 30, (31, 32, 33), 34, 36, 37
SIZE = ZERO + 1501
SUPPRESS, BEGIN = (2, 5, 34, 35), (7, END)
NEVER = float("-inf")


@pytest.fixture(scope="module")
def api():
    environment.configure(mode="thread", device_kind="cpu")
    from asrbatch.engine.vllm import api

    threads = torch.get_num_threads()
    api.set_num_threads(1)  # thousands of small operations
    yield api
    api.set_num_threads(threads)


@pytest.fixture(scope="module")
def processor(api):
    from asrbatch.engine.vllm.logits import WhisperLogitsProcessor

    return lambda: WhisperLogitsProcessor(None, torch.device("cpu"), False)


def kind_of(timestamps: bool, forced: tuple) -> Controls:
    if timestamps:
        return Controls((*SUPPRESS, NO_TIMESTAMPS), BEGIN, forced, ZERO, END)
    return Controls(SUPPRESS, BEGIN, (*forced, (NO_TIMESTAMPS,)), None, END)


class BatchRequest:
    """A request in the batch: its kind and its tokens so far."""

    def __init__(self, controls: Controls | None, tokens=()):
        self.controls, self.output_ids = controls, list(tokens)

    @property
    def params(self):
        return SimpleNamespace(extra_args=self.controls and {CONTROLS_KEY: self.controls.as_dict()})

    def expected(self, logits: torch.Tensor) -> torch.Tensor:
        """One row as transformers would have it: (vocabulary,)."""
        from transformers import SuppressTokensLogitsProcessor, WhisperTimeStampLogitsProcessor

        controls = self.controls
        if controls is None:
            return logits
        position = len(self.output_ids)
        if position < len(controls.forced):
            allowed = list(controls.forced[position])
            best = allowed[int(logits[allowed].argmax())]
            return torch.full_like(logits, NEVER).index_fill_(0, torch.tensor([best]), float(logits[best]))
        text = torch.tensor([self.output_ids[len(controls.forced) :]], dtype=torch.long)
        row = SuppressTokensLogitsProcessor(list(controls.suppress))(text, logits[None].clone())
        if controls.first_timestamp is None:
            if not text.numel():
                row[0, list(controls.begin_suppress)] = NEVER
            return row[0]
        config = SimpleNamespace(
            no_timestamps_token_id=NO_TIMESTAMPS, eos_token_id=END, bos_token_id=END, max_initial_timestamp_index=50
        )
        return WhisperTimeStampLogitsProcessor(config, begin_index=0)(text, row)[0]


def drawn(dice: random.Random) -> BatchRequest:
    """A request of some kind; some come back from preemption with tokens that obey no rules."""
    forced = dice.choice([(), ((31,), (TASK,)), (LANGUAGES, (TASK,))])
    controls = dice.choice([None, kind_of(False, forced), *[kind_of(True, forced)] * 4])
    some = [
        dice.choice([dice.randrange(END), ZERO + dice.randrange(1501)]) for _ in range(dice.choice([0, 0, 0, 1, 2, 9]))
    ]
    return BatchRequest(controls, some)


def change_batch(batch: list[BatchRequest], dice: random.Random):
    """Lets requests end, come and move as vLLM does (removed, added into their places, then moved);
    returns its update.
    """
    from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

    slots = dict(enumerate(batch))
    removed = [i for i in slots if dice.random() < 0.15]
    for i in removed:
        del slots[i]
    empty = sorted(removed)
    added, moved = [], []
    for _ in range(dice.choice([0, 0, 1, 1, 2, 5])):
        i = empty.pop(0) if empty else len(batch) + len(added) - len(removed)
        slots[i] = drawn(dice)
        added.append((i, slots[i].params, [], slots[i].output_ids))
    while empty and (last := max(slots, default=-1)) > empty[0]:  # the last row moves into the first gap
        i = empty.pop(0)
        slots[i] = slots.pop(last)
        moved.append((last, i, MoveDirectionality.UNIDIRECTIONAL))
    if len(slots) > 1 and dice.random() < 0.3:
        one, other = dice.sample(range(len(slots)), 2)
        slots[one], slots[other] = slots[other], slots[one]
        moved.append((one, other, MoveDirectionality.SWAP))
    batch[:] = [slots[i] for i in range(len(slots))]
    if not (removed or added or moved):
        return None
    return BatchUpdate(batch_size=len(batch), removed=sorted(removed, reverse=True), added=added, moved=moved)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_rows_come_go_and_move_and_each_obeys_the_rules(processor, seed):
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    logits_processor, batch = processor(), []
    for _ in range(40):
        logits_processor.update_state(change_batch(batch, dice))
        if not batch:
            continue
        logits = torch.randn(len(batch), SIZE, generator=generator) * 3
        # Now text is likelier, now the timestamps together: about half the rows must say one.
        logits[:, ZERO:] += torch.empty(len(batch), 1).uniform_(-9, 1, generator=generator)
        expected = torch.stack([r.expected(row) for r, row in zip(batch, logits, strict=True)])
        given_logits = logits.clone()
        chosen = logits_processor.apply(given_logits)
        assert chosen is given_logits
        assert torch.equal(chosen, expected)
        tokens = torch.multinomial(chosen.softmax(1), 1, generator=generator)[:, 0].tolist()
        for request, token in zip(batch, tokens, strict=True):
            if dice.random() < 0.1:  # as when vLLM discards a token
                continue
            request.output_ids.append(-1)
            request.output_ids[-1:] = [token]
        if dice.random() < 0.1 and batch[0].output_ids:
            del batch[0].output_ids[-dice.randrange(1, 3) :]  # as when it takes some back


def first_row(processor, controls: Controls, tokens, logits: torch.Tensor) -> torch.Tensor:
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

    logits_processor, request = processor(), BatchRequest(controls, tokens)
    added = [(0, request.params, [], request.output_ids)]
    logits_processor.update_state(BatchUpdate(batch_size=1, removed=[], added=added, moved=[]))
    return logits_processor.apply(logits)[0]


def allowed(row: torch.Tensor) -> set[int]:
    return set((row > NEVER).nonzero()[:, 0].tolist())


def test_the_first_timestamp_is_no_later_than_a_second(processor):
    row = first_row(processor, kind_of(True, ()), [], torch.zeros(1, SIZE))
    assert allowed(row) == {ZERO + k for k in range(51)}


def test_a_segment_is_never_empty_and_time_never_runs_back(processor):
    after_text = first_row(processor, kind_of(True, ()), [ZERO + 20, 3], torch.zeros(1, SIZE))
    assert min(allowed(after_text)) == ZERO + 21, (
        "timestamps together are likelier: one must come, and later than the last"
    )
    closing = first_row(processor, kind_of(True, ()), [ZERO + 20, 3, ZERO + 30], torch.zeros(1, SIZE))
    assert min(allowed(closing)) == ZERO + 30, "the next segment may begin where this one ended"
    at_the_end = first_row(processor, kind_of(True, ()), [ZERO, 3, ZERO + 1500, ZERO + 1500, 4], torch.zeros(1, SIZE))
    assert max(allowed(at_the_end)) == END + 3, "nothing follows 30.00 s but text and the end"


def test_words_that_were_added_behind_the_timestamps_are_text(processor):
    logits = torch.zeros(1, SIZE + 2)
    logits[0, ZERO:SIZE] = -9.0
    opened = first_row(processor, kind_of(True, ()), [ZERO], logits.clone())
    assert {SIZE, SIZE + 1} < allowed(opened) and ZERO not in allowed(opened)
    closing = first_row(processor, kind_of(True, ()), [ZERO, SIZE, ZERO + 9], logits.clone())
    assert not allowed(closing) & {3, SIZE, SIZE + 1} and END in allowed(closing), (
        "a word that was added is no timestamp"
    )


def test_unknown_rules_are_refused(processor):
    cls = type(processor())
    rules = kind_of(True, ()).as_dict()
    cls.validate_params(SimpleNamespace(extra_args={CONTROLS_KEY: rules}))
    cls.validate_params(SimpleNamespace(extra_args=None))
    for wrong in ({**rules, "supress": []}, {k: v for k, v in rules.items() if k != "end"}):
        with pytest.raises(
            ValueError, match="asrbatch must hold suppress, begin_suppress, forced, first_timestamp, end, not"
        ):
            cls.validate_params(SimpleNamespace(extra_args={CONTROLS_KEY: wrong}))


@pytest.mark.parametrize("ids_of", [{i: [5] for i in range(6)}, {i: [5, 9] for i in range(6)}, {0: [5], 3: [7, 8]}])
def test_logprobs_gathered_at_once_are_those_that_vllm_gathers(api, ids_of):
    from vllm.v1.sample.sampler import Sampler

    api.gather_few_logprobs_at_once()
    at_once, ours = Sampler.gather_specific_token_logprobs, Sampler()
    api.gather_few_logprobs_at_once()
    assert Sampler.gather_specific_token_logprobs is at_once, "once is enough"
    logprobs, sampled = torch.randn(6, 20).log_softmax(1), torch.tensor([3, 1, 4, 1, 5, 9])
    for one, other in zip(
        at_once(ours, logprobs, ids_of, sampled), at_once.__wrapped__(ours, logprobs, ids_of, sampled), strict=True
    ):
        assert (one is other is None) or (one.dtype == other.dtype and torch.equal(one, other))
