"""The real engine, asked directly: features, controls, languages, and the death of its process."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import pytest
import torch

from asrbatch.audio import load_audio
from asrbatch.checkpoint import open_checkpoint
from asrbatch.engine import Failure, start_engine
from asrbatch.engine.settings import detect_device, engine_settings, parse_engine_args
from asrbatch.errors import EngineDiedError, EngineStartError, RowError, UsageError

RATE = 16000


def options(**changed):
    defaults = {
        "device": detect_device(),
        "dtype": "float32",
        "mode": "thread",
        "task": "transcribe",
        "max_tokens": 444,
        "seed": 0,
        "user_args": {"max_num_seqs": 4},
    }
    return {**defaults, **changed}


def samples_of(rows: list[dict]) -> list[np.ndarray]:
    return [load_audio(r["audio_filepath"], name=r["id"], sample_rate=RATE).samples for r in rows if r["duration"] < 29]


class Asked:
    """An engine and the queue its answers arrive in."""

    def __init__(self, engine, answers):
        self.engine, self.answers = engine, answers

    def __call__(self, clips, language=None, prompt=None, timeout_s=120):
        for i, clip in enumerate(clips):
            self.engine.submit((i, 0), self.engine.prepare(clip, language, prompt))
        return self.collect(len(clips), timeout_s)

    def collect(self, count, timeout_s=120):
        got = dict(self.answers.get(timeout=timeout_s) for _ in range(count))
        return [got[key] for key in sorted(got)]


@pytest.fixture
def tiny(engines, tiny_en) -> Asked:
    answers: SimpleQueue = SimpleQueue()
    deliver = lambda key, outcome: answers.put((key, outcome))  # noqa: E731
    return Asked(engines.start(open_checkpoint(tiny_en), deliver=deliver, **options()), answers)


@pytest.fixture(scope="module")
def multilingual(base):
    """Whisper base in an EngineCore process of its own: the other way to run an engine."""
    answers: SimpleQueue = SimpleQueue()
    deliver = lambda key, outcome: answers.put((key, outcome))  # noqa: E731
    engine = start_engine(open_checkpoint(base), deliver=deliver, **options(mode="process"))
    yield Asked(engine, answers)
    engine.close()


def features(request) -> torch.Tensor:
    item = request.engine_input["decoder_prompt"]["mm_kwargs"]["audio"][0]
    return item["input_features"].data


def test_features_from_several_threads_equal_serial_ones(tiny, demo_rows):
    clips = samples_of(demo_rows) * 4
    serial = [tiny.engine.prepare(clip, "en", None) for clip in clips]
    with ThreadPoolExecutor(4, initializer=tiny.engine.prepare_thread) as pool:
        threaded = list(pool.map(lambda clip: tiny.engine.prepare(clip, "en", None), clips))
    assert len({features(r).sum().item() for r in serial}) == len(clips) // 4, "the clips have different features"
    for one, other in zip(serial, threaded, strict=True):
        assert torch.equal(features(one), features(other))
        assert one.engine_input["decoder_prompt"]["prompt_token_ids"] == other.engine_input["decoder_prompt"]["prompt_token_ids"]


def test_the_audio_matters(tiny, demo_rows):
    clips = samples_of(demo_rows)[:2]
    forward, backward = tiny(clips, "en"), tiny(clips[::-1], "en")
    assert forward[0].text != forward[1].text
    assert [g.text for g in backward] == [g.text for g in forward[::-1]]


def test_clocks_and_probabilities_of_an_answer(tiny, demo_rows):
    (answer,) = tiny(samples_of(demo_rows)[:1], "en")
    assert answer.finish_reason == "stop" and answer.language == "en" and answer.language_prob is None
    assert -1 < answer.avg_logprob < 0
    assert 20 < answer.num_tokens < 40
    assert 0 <= answer.queue_s <= answer.first_token_s and 0 < answer.generate_s < 60


def test_suppressed_tokens_are_never_generated(tiny, tiny_en, demo_rows):
    """The engine's logits processor at work: forbid a word the model wants, and one it wants to begin with."""
    api, driver = tiny.engine._api, tiny.engine._driver
    clip = samples_of(demo_rows)[1]  # "He was not an ill-disposed young man."
    ask = tiny.engine.prepare(clip, "en", None)
    (young, man, he) = (tiny.engine._frontend.encode(word)[0] for word in (" young", " man", " He"))
    generation = json.loads((Path(tiny_en) / "generation_config.json").read_text())

    def tokens(suppress=(), begin=()):
        controls = {
            "suppress": [*generation["suppress_tokens"], *suppress],
            "begin_suppress": [*generation["begin_suppress_tokens"], *begin],
            "forced": [],
        }
        outputs: SimpleQueue = SimpleQueue()
        delivered, driver._deliver = driver._deliver, lambda key, output: outputs.put(output)
        try:
            driver.submit((0, 0), ask.engine_input, api.sampling_params(60, 0, {"asrbatch": controls}))
            return api.finished(outputs.get(timeout=60)).token_ids
        finally:
            driver._deliver = delivered

    plain = tokens()
    assert plain[0] == he and young in plain and man in plain
    without = tokens(suppress=[young])
    assert young not in without and without[0] == he
    begun = tokens(begin=[he])
    assert begun[0] != he and young in begun


def test_an_english_only_checkpoint_gets_its_own_prompt(tiny, tiny_en, demo_rows):
    request = tiny.engine.prepare(samples_of(demo_rows)[0], "en", None)
    ids = request.engine_input["decoder_prompt"]["prompt_token_ids"]
    tokens = open_checkpoint(tiny_en).added_tokens
    assert ids == [tokens["<|startoftranscript|>"], tokens["<|notimestamps|>"]]


def test_language_is_detected_in_the_same_request(multilingual, demo_rows):
    answers = multilingual(samples_of(demo_rows)[:3])
    given = multilingual(samples_of(demo_rows)[:3], "en")
    assert [a.language for a in answers] == ["en"] * 3
    assert all(0.5 < a.language_prob <= 1.0 for a in answers) and all(g.language_prob is None for g in given)
    assert [a.text for a in answers] == [g.text for g in given], "detected or told, the model is asked the same"
    assert [a.num_tokens for a in answers] == [g.num_tokens for g in given], "control tokens are not counted"
    assert answers[0].avg_logprob == pytest.approx(given[0].avg_logprob, abs=1e-3)


def test_another_language_is_written_in_another_language(multilingual, demo_rows):
    clip = samples_of(demo_rows)[0]
    (english,), (french,) = multilingual([clip], "en"), multilingual([clip], "fr")
    assert "leisure" in english.text.lower()
    assert french.language == "fr" and french.text != english.text


def test_previous_text_is_heeded_and_not_repeated(multilingual, demo_rows):
    clip = samples_of(demo_rows)[0]
    (plain,) = multilingual([clip], "en")
    (prompted,) = multilingual([clip], "en", prompt="MR JOHN DASHWOOD WAS AT NORLAND. HE WROTE IN CAPITAL LETTERS ONLY.")
    assert plain.text != prompted.text and "NORLAND" not in prompted.text
    assert prompted.text.lower().replace(".", "") .split()[-4:] == ["to", "do", "for", "them"]


def test_a_slow_step_is_not_a_death_and_a_death_is_noticed(multilingual, demo_rows):
    """Last in this module: it kills the engine process."""
    clips = samples_of(demo_rows)[:4]
    (core,) = multiprocessing.active_children()
    requests = [multilingual.engine.prepare(clip, "en", None) for clip in clips]
    os.kill(core.pid, signal.SIGSTOP)
    for i, request in enumerate(requests):
        multilingual.engine.submit((i, 0), request)
    with pytest.raises(Empty):
        multilingual.answers.get(timeout=7)
    os.kill(core.pid, signal.SIGCONT)
    assert all(a.finish_reason == "stop" for a in multilingual.collect(4))

    for i, request in enumerate(requests):
        multilingual.engine.submit((i, 0), request)
    killed = time.monotonic()
    os.kill(core.pid, signal.SIGKILL)
    outcomes = multilingual.collect(4, timeout_s=30)
    assert time.monotonic() - killed < 5
    assert all(isinstance(o, Failure) and isinstance(o.error, EngineDiedError) for o in outcomes)


def test_a_death_with_nothing_in_the_engine_is_noticed(tiny_en):
    answers: SimpleQueue = SimpleQueue()
    before = set(multiprocessing.active_children())
    deliver = lambda key, outcome: answers.put((key, outcome))  # noqa: E731
    engine = start_engine(open_checkpoint(tiny_en), deliver=deliver, **options(mode="process"))
    try:
        (core,) = set(multiprocessing.active_children()) - before
        os.kill(core.pid, signal.SIGKILL)
        key, outcome = answers.get(timeout=5)
    finally:
        engine.close()
    assert key is None and isinstance(outcome.error, EngineDiedError)


def test_an_answer_that_cannot_be_read_is_a_failure_not_a_wait(tiny, demo_rows):
    class OtherVersion:
        def finished(self, output):
            raise AttributeError("'RequestOutput' object has no attribute 'metrics'")

    api, tiny.engine._engine._api = tiny.engine._api, OtherVersion()
    try:
        (outcome,) = tiny(samples_of(demo_rows)[1:2], "en", timeout_s=60)
    finally:
        tiny.engine._engine._api = api
    assert isinstance(outcome, Failure) and "cannot be read" in str(outcome.error)


def test_a_prompt_that_is_no_text_fails_its_row_alone(tiny, demo_rows):
    with pytest.raises(RowError, match="it cannot be asked"):
        tiny.engine.prepare(samples_of(demo_rows)[1], "en", "a\ud800b")


def test_unknown_engine_arguments_are_refused_with_a_suggestion(tiny_en):
    with pytest.raises(UsageError, match=r"max_num_seq: vLLM .* has no such engine argument; did you mean max_num_seqs\?"):
        start_engine(open_checkpoint(tiny_en), deliver=print, **options(user_args={"max_num_seq": 4}))


def test_an_engine_that_cannot_start_says_why(tiny_en, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_en, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineStartError, match="the engine did not start: .*"):
        start_engine(open_checkpoint(str(damaged)), deliver=print, **options())


@pytest.mark.parametrize(
    ("items", "parsed"),
    [
        (["max_num_seqs=32"], {"max_num_seqs": 32}),
        (["--max-num-seqs=32"], {"max_num_seqs": 32}),
        (["enforce_eager=True", "seed=null"], {"enforce_eager": True, "seed": None}),
        (["quantization=fp8"], {"quantization": "fp8"}),
        (['hf_overrides={"a": 1}'], {"hf_overrides": {"a": 1}}),
    ],
)
def test_engine_arguments_are_read_as_json_or_text(items, parsed):
    assert parse_engine_args(items) == parsed


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["max_num_seqs"], "must be key=value"),
        (["dtype=half"], "use --dtype"),
        (["max_num_seqs=many"], "must be a whole number from 1"),
        (["tensor_parallel_size=null"], "must be a whole number from 1"),
        (["max_num_seqs=0"], "must be a whole number from 1"),
        (["max_num_seqs=1", "max-num-seqs=2"], "given twice"),
    ],
)
def test_engine_arguments_that_cannot_be_honoured(items, message):
    with pytest.raises(UsageError, match=message):
        parse_engine_args(items)


def test_user_arguments_win_over_automatic_settings(tiny_en):
    settings = engine_settings(open_checkpoint(tiny_en), detect_device(), "float32", {"max_num_seqs": 3, "enforce_eager": False})
    assert settings["max_num_seqs"] == 3 and settings["enforce_eager"] is False
    assert settings["kv_cache_memory_bytes"] >= 2 * 4 * 384 * 4 * 1948 * 3, "room for three full windows"
