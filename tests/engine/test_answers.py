"""What the real engine answers beyond text: timestamps, the probability of no speech, temperatures, previous text.

On five sentences of a novel read aloud, one after the other, and beside transformers on the same weights.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engine_client import RATE, EngineClient, samples_of
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    SuppressTokensLogitsProcessor,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTimeStampLogitsProcessor,
)

from asrbatch.engine.base import DecodingOptions


@pytest.fixture
def tiny(engines, tiny_en) -> EngineClient:
    return EngineClient(engines.start, tiny_en)


@pytest.fixture
def multilingual(engines, base) -> EngineClient:
    return EngineClient(engines.start, base)


@pytest.fixture(scope="module")
def sentences(demo_rows) -> list[np.ndarray]:
    return samples_of([row for row in demo_rows if "austen" in row["audio_filepath"]])


@pytest.fixture(scope="module")
def novel(sentences) -> np.ndarray:
    return np.concatenate(sentences)


JOINS_S = [7.10, 10.09, 15.39, 21.44]


class Transformers:
    """Whisper as transformers runs it; the loop is ours, so that the rules for tokens are theirs alone."""

    def __init__(self, folder: str):
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.features = WhisperFeatureExtractor.from_pretrained(folder)

    @torch.inference_mode()
    def hear(self, clip: np.ndarray):
        """What the decoder needs of the audio."""
        return self.model.get_encoder()(self.features(clip, sampling_rate=RATE, return_tensors="pt").input_features)

    @torch.inference_mode()
    def logits(self, heard, ids: list[int], past=None) -> torch.Tensor:
        """Of the token after `ids`, of which all but the last are in `past`: (1, vocabulary)."""
        new = torch.tensor([ids if past is None else ids[past.get_seq_length() :]])
        return self.model(encoder_outputs=heard, decoder_input_ids=new, past_key_values=past).logits[:, -1]

    def greedy(self, clip: np.ndarray, start: list[int]) -> list[int]:
        """With timestamps, up to the end token."""
        config = self.model.generation_config
        rules = [
            SuppressTokensLogitsProcessor(config.suppress_tokens),
            WhisperTimeStampLogitsProcessor(config, begin_index=len(start)),
        ]
        heard, ids, past = self.hear(clip), list(start), EncoderDecoderCache(DynamicCache(), DynamicCache())
        while ids[-1] != config.eos_token_id:
            row = self.logits(heard, ids, past)
            for rule in rules:
                row = rule(torch.tensor([ids]), row)
            ids.append(int(row.argmax()))
        return ids[len(start) : -1]


@pytest.fixture(scope="module")
def transformers_tiny(tiny_en):
    return Transformers(tiny_en)


@pytest.fixture(scope="module")
def transformers_base(base):
    return Transformers(base)


def ids_of(answer) -> list[int]:
    return [token for segment in answer.segments for token in segment.token_ids]


@pytest.mark.parametrize("model", ["tiny", "multilingual"])
def test_timestamps_are_near_the_joins(model, novel, request):
    (answer,) = request.getfixturevalue(model)([novel], timestamps=True)
    ends = [segment.end_s for segment in answer.segments]
    for join_s in JOINS_S:
        assert min(abs(end_s - join_s) for end_s in ends) < 0.45
    times = [t for segment in answer.segments for t in (segment.start_s, segment.end_s)]
    assert times == sorted(times) and times[0] == 0.0 and times[-1] == pytest.approx(len(novel) / RATE, abs=0.6)
    assert all(segment.start_s < segment.end_s for segment in answer.segments)
    assert "".join(segment.text for segment in answer.segments) == answer.text
    assert sum(segment.num_tokens for segment in answer.segments) == answer.num_tokens
    assert all(-1.5 < segment.avg_logprob < 0 for segment in answer.segments)
    assert answer.finish_reason == "stop" and answer.resume_s is None


def test_timestamps_are_those_of_transformers(tiny, novel, sentences, transformers_tiny):
    prompts = tiny.engine._processor.prompts
    for clip, answer in zip([novel, *sentences[:2]], tiny([novel, *sentences[:2]], timestamps=True), strict=True):
        expected = transformers_tiny.greedy(clip, [prompts.sot])
        assert ids_of(answer) == expected


def test_what_the_end_of_a_window_cuts_off_is_to_be_heard_again(multilingual, novel):
    """A full window of 30 s that ends within a sentence."""
    (answer,) = multilingual([np.concatenate([novel, novel])[: 30 * RATE]], timestamps=True)
    assert answer.resume_s == pytest.approx(len(novel) / RATE, abs=0.6)
    assert answer.resume_s in [segment.end_s for segment in answer.segments]
    assert answer.segments[-1].end_s in (None, answer.resume_s)


def test_no_speech_is_as_likely_as_transformers_finds_it(
    tiny, multilingual, sentences, transformers_tiny, transformers_base
):
    clips = [np.zeros(5 * RATE, np.float32), sentences[1], sentences[1][: RATE // 10]]
    for asked, transformers in ((tiny, transformers_tiny), (multilingual, transformers_base)):
        prompts = asked.engine._processor.prompts
        rows = [transformers.logits(transformers.hear(clip), [prompts.sot])[0] for clip in clips]
        expected = [float(row.softmax(0)[prompts.no_speech]) for row in rows]
        assert expected[0] > 0.9 and expected[1] < 0.1
        assert [answer.no_speech_prob for answer in asked(clips)] == pytest.approx(expected, abs=1e-3)
        for question in ({"timestamps": True}, {"language": "en"}, {"temperature": 0.7}):
            (answer,) = asked([sentences[1]], **question)
            assert answer.no_speech_prob == pytest.approx(expected[1], abs=1e-3)


def test_the_same_request_may_be_asked_again(multilingual, sentences):
    """Features are computed once, whatever is asked of them, even at the same time."""
    requests = [multilingual.engine.preprocess(clip, None) for clip in sentences[:2]]
    questions = [
        DecodingOptions(),
        DecodingOptions("fr"),
        DecodingOptions(),
        DecodingOptions(timestamps=False),
        DecodingOptions(previous=(50364, 440, 50464)),
    ]
    for i, question in enumerate(questions):
        multilingual.engine.submit((0, i), requests[0], question)
    multilingual.engine.submit((1, 0), requests[1], questions[0])
    one, french, again, plain, _, other = multilingual.collect(len(questions) + 1)
    assert (one.text, one.segments) == (again.text, again.segments)
    assert (one.language, french.language) == ("en", "fr") and french.text != one.text
    assert plain.segments == () and other.text != one.text


def test_a_temperature_draws_and_a_run_repeats(tiny, novel):
    (greedy,) = tiny([novel], timestamps=True)
    (warm,) = tiny([novel], timestamps=True, temperature=1.0)
    (again,) = tiny([novel], timestamps=True, temperature=1.0)
    assert (greedy.temperature, warm.temperature) == (0.0, 1.0)
    assert warm.text != greedy.text and warm.avg_logprob < greedy.avg_logprob
    assert (again.text, again.segments) == (warm.text, warm.segments)
    times = [t for segment in warm.segments for t in (segment.start_s, segment.end_s) if t is not None]
    assert times == sorted(times), "the rules hold at any temperature"


def test_a_language_is_detected_not_drawn(multilingual):
    """On noise every language is unlikely."""
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    (greedy,) = multilingual([noise])
    answers = [multilingual([noise], temperature=temperature)[0] for temperature in (0.4, 1.0)]
    assert [(a.language, a.language_prob) for a in answers] == [
        (greedy.language, pytest.approx(greedy.language_prob))
    ] * 2
    assert greedy.language_prob < 0.5


def test_previous_text_reaches_the_model_after_the_prompt(tiny, sentences, transformers_tiny):
    """As token ids, with timestamps; the prompt of the row comes first."""
    prompts, encode = tiny.engine._processor.prompts, tiny.engine._processor.frontend.encode
    (before,) = tiny(sentences[:1], timestamps=True)
    (plain,) = tiny(sentences[1:2], timestamps=True)
    (after,) = tiny(sentences[1:2], timestamps=True, previous=tuple(ids_of(before)))
    (prompted,) = tiny(sentences[1:2], "OF JANE AUSTEN.", timestamps=True, previous=tuple(ids_of(before)))
    assert plain.avg_logprob != after.avg_logprob != prompted.avg_logprob
    prompt = encode(" OF JANE AUSTEN.")
    for answer, ids in ((after, ids_of(before)), (prompted, [*prompt, *ids_of(before)])):
        expected = transformers_tiny.greedy(sentences[1], [prompts.start_of_prev, *ids, prompts.sot])
        assert ids_of(answer) == expected
    (capital,) = tiny(
        sentences[:1], timestamps=True, previous=tuple(encode(" HE WROTE IN CAPITAL LETTERS. ALWAYS, AND LOUDLY."))
    )
    assert capital.text != before.text


def test_previous_text_longer_than_half_of_the_decoder(tiny, sentences):
    """Its beginning is left out, as Whisper does; the answer has the other half."""
    encode = tiny.engine._processor.frontend.encode
    long = encode(
        " Mr. John Dashwood had then leisure to consider how much there might be prudently in his power." * 40
    )
    (whole,) = tiny(sentences[1:2], timestamps=True, previous=tuple(long))
    (last,) = tiny(sentences[1:2], timestamps=True, previous=tuple(long[-223:]))
    (less,) = tiny(sentences[1:2], timestamps=True, previous=tuple(long[-222:]))
    assert len(long) > 448 and (whole.text, whole.avg_logprob) == (last.text, pytest.approx(last.avg_logprob, abs=1e-5))
    assert less.avg_logprob != pytest.approx(last.avg_logprob, abs=1e-5)


def test_texts_from_several_threads(tiny):
    """Encoding and decoding at the same time, by many: nothing is refused, nothing is mixed up."""
    frontend = tiny.engine._processor.frontend
    texts = [f" This is sentence number {i}, in Zürich and 東京." for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: frontend.decode(frontend.encode(text)), texts)) == texts
