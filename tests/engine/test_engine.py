"""The real engine, asked directly: features, controls, languages, and the death of its process."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import pytest
import torch
from engine_client import EngineClient, samples_of, spec_of
from transformers import WhisperFeatureExtractor

from asrbatch.engine.base import DecodingOptions
from asrbatch.engine.engine import start_engine
from asrbatch.engine.settings import engine_settings, parse_engine_args
from asrbatch.engine.vllm.engine_args import engine_arg_names
from asrbatch.errors import EXIT_USAGE, EngineDiedError, EngineStartError, RefusedEngineArgsError, RowError, UsageError


@pytest.fixture
def tiny(engines, tiny_en) -> EngineClient:
    return EngineClient(engines.start, tiny_en)


@pytest.fixture(scope="module")
def multilingual(base):
    """Whisper base in an EngineCore process of its own: the other way to run an engine."""
    asked = EngineClient(start_engine, base, mode="process", word_timestamps=True)
    yield asked
    asked.engine.close()


def features(request) -> torch.Tensor:
    item = request.engine_input["decoder_prompt"]["mm_kwargs"]["audio"][0]
    return item["input_features"].data


def test_features_from_several_threads_equal_serial_ones(tiny, demo_rows):
    clips = samples_of(demo_rows) * 4
    serial = [tiny.engine.preprocess(clip, None) for clip in clips]
    with ThreadPoolExecutor(4, initializer=tiny.engine.start_preprocess_thread) as pool:
        threaded = list(pool.map(lambda clip: tiny.engine.preprocess(clip, None), clips))
    assert len({features(r).sum().item() for r in serial}) == len(clips) // 4, "the clips have different features"
    for one, other in zip(serial, threaded, strict=True):
        assert torch.equal(features(one), features(other))


def test_our_engine_inputs_are_those_of_vllms_renderer_field_by_field(tiny, demo_rows):
    frontend = tiny.engine._processor.frontend
    for clip in [*samples_of(demo_rows)[:4], np.zeros(16_000, np.float32)]:
        ours, vllms = tiny.engine.preprocess(clip, None).engine_input, frontend.render(clip, language="en")
        found, expected = (
            each["decoder_prompt"]["mm_kwargs"]["audio"][0].pop("input_features") for each in (ours, vllms)
        )
        assert (found.data.dtype, found.data.shape, found.data.stride()) == (
            expected.data.dtype, expected.data.shape, expected.data.stride(),
        )  # fmt: skip
        # What `test_log_mel.py` allows, and rounding to the engine's dtype.
        most = 1e-6 + torch.finfo(found.data.dtype).eps
        assert (found.data.float() - expected.data.float()).abs().max() <= most
        assert dataclasses.replace(found, data=None) == dataclasses.replace(expected, data=None)
        # Each is another window, rendered at another time.
        assert ours["decoder_prompt"].pop("mm_hashes").keys() == vllms["decoder_prompt"].pop("mm_hashes").keys()
        assert 0 <= vllms.pop("arrival_time") - ours.pop("arrival_time") < 60
        assert type(ours["decoder_prompt"]["mm_kwargs"]) is type(vllms["decoder_prompt"]["mm_kwargs"])
        assert ours == vllms


def test_each_window_has_features_and_a_name_of_its_own(tiny, demo_rows):
    first, second = (tiny.engine.preprocess(clip, None) for clip in samples_of(demo_rows)[:2])
    names = {r.engine_input["decoder_prompt"]["mm_hashes"]["audio"][0] for r in (first, second)}
    assert len(names) == 2 and not torch.equal(features(first), features(second))
    before = features(first).clone()
    second.clamp(second.peak + 1)
    assert torch.equal(features(first), before)


def test_features_of_a_window_are_those_it_has_in_its_recording(tiny, tiny_en, demo_rows):
    """As openai/whisper and faster-whisper compute them: on the whole, and then cut."""
    loud, quiet = (np.resize(clip, 30 * 16_000) for clip in samples_of(demo_rows)[:2])
    recording = np.concatenate([loud, quiet * np.float32(0.001)])
    whole = WhisperFeatureExtractor.from_pretrained(tiny_en)(
        recording, sampling_rate=16_000, truncation=False, padding=False, return_tensors="pt"
    ).input_features[0]
    first, second = (tiny.engine.preprocess(part, None) for part in (recording[: len(loud)], recording[len(loud) :]))
    inner, expected = slice(2, -2), whole[:, 3000:]  # the frames at the seam hear both sides of it
    assert first.peak == pytest.approx(whole.max().item(), abs=1e-5) and second.peak < first.peak - 1
    assert (features(second)[:, inner] - expected[:, inner]).abs().max() > 0.5, "alone it looks different"
    second.clamp(second.peak)
    assert (features(second)[:, inner] - expected[:, inner]).abs().max() > 0.5, "a floor it had already"
    second.clamp(first.peak)
    assert torch.allclose(features(second)[:, inner], expected[:, inner], atol=1e-5)


def test_the_audio_matters(tiny, demo_rows):
    clips = samples_of(demo_rows)[:2]
    forward, backward = tiny(clips), tiny(clips[::-1])
    assert forward[0].text != forward[1].text
    assert [g.text for g in backward] == [g.text for g in forward[::-1]]


def test_clocks_and_probabilities_of_an_answer(tiny, demo_rows):
    (answer,) = tiny(samples_of(demo_rows)[:1])
    assert answer.finish_reason == "stop" and answer.language == "en" and answer.language_prob is None
    assert -1 < answer.avg_logprob < 0
    assert 20 < answer.num_tokens < 40
    assert 0 <= answer.queue_s <= answer.first_token_s and 0 < answer.generate_s < 60


def test_suppressed_tokens_are_never_generated(tiny, tiny_en, demo_rows):
    """The engine's logits processor at work: forbid a word the model wants, and one it wants to begin with."""
    api, driver = tiny.engine._api, tiny.engine._driver
    clip = samples_of(demo_rows)[1]  # "He was not an ill-disposed young man."
    engine_input = api.with_decoder_ids(
        tiny.engine.preprocess(clip, None).engine_input, [tiny.engine._processor.prompts.sot]
    )
    (young, man, he) = (tiny.engine._processor.frontend.encode(word)[0] for word in (" young", " man", " He"))
    generation = json.loads((Path(tiny_en) / "generation_config.json").read_text())

    def tokens(suppress=(), begin=()):
        controls = tiny.engine._processor.prompts.controls("en", timestamps=False).as_dict() | {
            "suppress": [*generation["suppress_tokens"], *suppress],
            "begin_suppress": [*generation["begin_suppress_tokens"], *begin],
        }
        outputs: SimpleQueue = SimpleQueue()
        delivered, driver._deliver = driver._deliver, lambda key, output: outputs.put(output)
        try:
            driver.submit((0, 0), engine_input, api.sampling_params(60, 0, 0.0, {"asrbatch": controls}))
            return api.tokens_of(outputs.get(timeout=60))[0][1:]
        finally:
            driver._deliver = delivered

    plain = tokens()
    assert plain[0] == he and young in plain and man in plain
    without = tokens(suppress=[young])
    assert young not in without and without[0] == he
    begun = tokens(begin=[he])
    assert begun[0] != he and young in begun


def test_language_is_detected_in_the_same_request(multilingual, demo_rows):
    answers = multilingual(samples_of(demo_rows)[:3])
    given = multilingual(samples_of(demo_rows)[:3], language="en")
    assert [a.language for a in answers] == ["en"] * 3
    assert all(0.5 < a.language_prob <= 1.0 for a in answers) and all(g.language_prob is None for g in given)
    assert [a.text for a in answers] == [g.text for g in given], "detected or told, the model is asked the same"
    assert [a.num_tokens for a in answers] == [g.num_tokens for g in given], "control tokens are not counted"
    assert answers[0].avg_logprob == pytest.approx(given[0].avg_logprob, abs=1e-3)


def test_words_of_an_answer_in_a_process_of_its_own(multilingual, demo_rows):
    """Kept or encoded again, alone or beside another: the same words, inside what was said."""
    engine, clips = multilingual.engine, samples_of(demo_rows)[:2]
    requests = [engine.preprocess(clip, None) for clip in clips]
    for n, request in enumerate(requests):
        engine.submit((n, 0), request, DecodingOptions())
    results = multilingual.collect(2)
    for _ in range(2):  # the second time nothing is kept any more
        for n, request in enumerate(requests):
            engine.align((n, 0), request, results[n], len(clips[n]))
    found: dict = {(0, 0): [], (1, 0): []}
    for _ in range(4):
        key, words = multilingual.answers.get(timeout=120)
        found[key].append(words)
    for n, (first, second) in enumerate(found.values()):
        assert first.groups == second.groups and not first.is_encoded_again
        texts = ["".join(word.text for word in group) for group in first.groups]
        assert texts == [segment.text for segment in results[n].segments]
        times = [at for group in first.groups for word in group for at in (word.start_s, word.end_s)]
        assert 0 <= min(times) < 1 and len(clips[n]) / 16000 - 1 < max(times) <= len(clips[n]) / 16000
    assert all(second.is_encoded_again for _, second in found.values())


def test_language_and_timestamps_in_the_same_request(multilingual, demo_rows):
    clip = samples_of(demo_rows)[0]
    (answer,), (told,), (plain,) = (
        multilingual([clip], timestamps=True),
        multilingual([clip], timestamps=True, language="en"),
        multilingual([clip], language="en"),
    )
    assert (answer.language, answer.text, answer.segments) == ("en", told.text, told.segments)
    assert answer.text == plain.text and plain.segments == ()
    (segment,) = answer.segments
    assert segment.start_s == 0.0 and segment.end_s == pytest.approx(len(clip) / 16000, abs=0.5)
    assert answer.no_speech_prob == told.no_speech_prob == pytest.approx(plain.no_speech_prob, abs=1e-5)
    assert 0 < answer.no_speech_prob < 0.1


def test_another_language_is_written_in_another_language(multilingual, demo_rows):
    clip = samples_of(demo_rows)[0]
    (english,), (french,) = multilingual([clip], language="en"), multilingual([clip], language="fr")
    assert "leisure" in english.text.lower()
    assert french.language == "fr" and french.text != english.text


def test_previous_text_is_heeded_and_not_repeated(multilingual, demo_rows):
    clip = samples_of(demo_rows)[0]
    (plain,) = multilingual([clip], language="en")
    (prompted,) = multilingual(
        [clip], language="en", prompt="MR JOHN DASHWOOD WAS AT NORLAND. HE WROTE IN CAPITAL LETTERS ONLY."
    )
    assert plain.text != prompted.text and "NORLAND" not in prompted.text
    assert prompted.text.lower().replace(".", "").split()[-4:] == ["to", "do", "for", "them"]


def test_a_slow_step_is_not_a_death_and_one_with_nothing_in_the_engine_is_noticed(multilingual, demo_rows):
    """Last in this module: it kills the engine process. `test_resume.py` kills one that has something to do."""
    clips = samples_of(demo_rows)[:4]
    (core,) = multiprocessing.active_children()
    requests = [multilingual.engine.preprocess(clip, None) for clip in clips]
    os.kill(core.pid, signal.SIGSTOP)
    for i, request in enumerate(requests):
        multilingual.engine.submit((i, 0), request, DecodingOptions("en"))
    with pytest.raises(Empty):
        multilingual.answers.get(timeout=7)
    os.kill(core.pid, signal.SIGCONT)
    assert all(a.finish_reason == "stop" for a in multilingual.collect(4))

    os.kill(core.pid, signal.SIGKILL)
    key, outcome = multilingual.answers.get(timeout=30)
    assert key is None and isinstance(outcome, EngineDiedError)
    multilingual.engine.submit((0, 0), requests[0], DecodingOptions("en"))
    assert isinstance(multilingual.collect(1, timeout_s=30)[0], EngineDiedError)


def test_an_answer_that_cannot_be_read_is_a_failure_not_a_wait(tiny, demo_rows):
    api = tiny.engine._api

    class OtherVersion:
        def __getattr__(self, name):
            return getattr(api, name)

        def finish_reason(self, output):
            raise AttributeError("'RequestOutput' object has no attribute 'metrics'")

    tiny.engine._engine._api = OtherVersion()
    try:
        (outcome,) = tiny(samples_of(demo_rows)[1:2], timeout_s=60)
    finally:
        tiny.engine._engine._api = api
    assert isinstance(outcome, EngineDiedError) and "cannot be read" in str(outcome)


def test_the_record_names_every_temperature(tiny, tiny_en):
    spec = dataclasses.replace(spec_of(tiny_en), temperatures=(0.0, 0.2, 1.0))
    kinds = tiny.engine._facts(spec, {})["sampling_params"]
    assert [kind.get("temperature", 1.0) for kind in kinds] == [0.0, 0.2, 1.0], "1.0 is vLLM's default"


def test_a_prompt_that_is_no_text_fails_its_row_alone(tiny, demo_rows):
    with pytest.raises(RowError, match="the model does not take it"):
        tiny.engine.preprocess(samples_of(demo_rows)[1], "a\ud800b")


def test_unknown_engine_arguments_are_refused_with_a_suggestion():
    with pytest.raises(
        UsageError, match=r"max_num_seq: vLLM .* has no such engine argument; did you mean max_num_seqs\?"
    ):
        parse_engine_args(["max_num_seq=4"])


def test_engine_arguments_found_in_the_source_are_those_of_vllm():
    from vllm.engine.arg_utils import EngineArgs

    assert set(engine_arg_names()) == {field.name for field in dataclasses.fields(EngineArgs)}


def test_an_engine_that_cannot_start_says_why(tiny_en, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_en, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineStartError, match="the engine did not start: .*"):
        start_engine(spec_of(damaged), print)


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("args", [("max_model_len=-7",), ("block_size=large",), ('compilation_config={"mode": "x"}',)])
def test_values_of_engine_arguments_that_vllm_refuses_are_the_users_mistake(tiny_en, mode, args):
    """Before, exit code 1, after which job scripts try again."""
    with pytest.raises(RefusedEngineArgsError) as caught:
        start_engine(spec_of(tiny_en, mode=mode, args=args), print)
    name = args[0].partition("=")[0]
    assert f"--engine-arg {name}=" in str(caught.value) and "vLLM refuses this; correct it" in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


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
    settings = engine_settings(spec_of(tiny_en, args=("max_num_seqs=3", "enforce_eager=false")))
    assert settings["max_num_seqs"] == 3 and settings["enforce_eager"] is False
    assert settings["kv_cache_memory_bytes"] >= 2 * 4 * 384 * 4 * 1948 * 3, "room for three full windows"
