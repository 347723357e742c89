"""`--word-timestamps` on the real engine: nothing else changes, words are where they are said, none is encoded twice.

One engine, in fp32 and with one sequence at a time, so that texts do not depend on what runs beside them."""

import json
import time
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import soundfile
import torch
from audio_loading import load_audio, request
from conftest import read_jsonl, write_jsonl
from engine_client import RATE, spec_of
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asrbatch.engine.settings import alignment_bytes
from asrbatch.errors import UsageError


@pytest.fixture(scope="module")
def timed(engines, transcribe, tiny_en, tmp_path_factory):
    """Runs on the engine that times words, also those that ask for none; returns rows by index, and the record."""
    options = {"args": ("max_num_seqs=1",)}
    folder = tmp_path_factory.mktemp("timed")

    def call(manifest, **more):
        output = folder / f"{len(list(folder.iterdir()))}.jsonl"
        summary = transcribe(manifest, tiny_en, output, **options, **more)
        record = json.loads(summary.paths.record.read_text())
        return {row["index"]: row for row in read_jsonl(output)}, record

    return call


def worker_of(engines):
    """vLLM's worker of the one engine that times words."""
    engine = engines.that(lambda spec: spec.word_timestamps and not spec.aligns)
    return engine, engine._driver.engine.engine_core.engine_core.model_executor.driver_worker.worker


@pytest.fixture(scope="module")
def speech(demo_rows, two_windows, tmp_path_factory):
    """Some sentences, and a recording of two windows."""
    rows = [*[row for row in demo_rows if row["duration"] < 8][:3], two_windows]
    return write_jsonl(tmp_path_factory.mktemp("speech") / "m.jsonl", rows)


@pytest.fixture(scope="module")
def demo(timed, speech):
    return timed(speech, word_timestamps=True)


def words_of(row: dict) -> list[dict]:
    return [word for segment in row["segments"] for word in segment["words"]]


def without_words(row: dict) -> dict:
    segments = [{name: value for name, value in segment.items() if name != "words"} for segment in row["segments"]]
    return {**row, "segments": segments, "timing": None}


def check_words(row: dict) -> None:
    for segment in row["segments"]:
        words = segment["words"]
        assert "".join(word["word"] for word in words).strip() == segment["text"]
        times = [at for word in words for at in (word["start"], word["end"])]
        assert times == sorted(times) and segment["start"] <= times[0] and times[-1] <= segment["end"]
        assert all(word["start"] < word["end"] and 0 < word["probability"] <= 1 for word in words)


def test_nothing_else_changes_and_every_segment_has_its_words(demo, transcribe, tiny_en, speech, tmp_path):
    rows, record = demo
    transcribe(speech, tiny_en, tmp_path / "plain.jsonl", args=("max_num_seqs=1",))
    plain = {row["index"]: row for row in read_jsonl(tmp_path / "plain.jsonl")}
    assert [json.dumps(without_words(rows[i])) for i in sorted(rows)] == [
        json.dumps({**plain[i], "timing": None}) for i in sorted(plain)
    ]
    for row in rows.values():
        assert row["segments"]
        check_words(row)
    assert record["fingerprint"]["word_timestamps"] is True
    assert record["sessions"][-1]["encoded_again"] == 0


def test_words_are_where_somebody_speaks(timed, speech_wav, tmp_path):
    """A sentence twice, with known silence around it: as often, at the same distance, and never in the silence."""
    speech = load_audio(request(str(speech_wav))).samples
    silence = np.zeros(4 * RATE, np.float32)
    soundfile.write(tmp_path / "twice.wav", np.concatenate([speech, silence, speech]), RATE)
    stereo = np.stack([np.zeros_like(speech), speech], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, RATE)
    rows = [
        {"audio_filepath": str(speech_wav)},
        {"audio_filepath": "twice.wav"},
        {"audio_filepath": "twice.wav", "offset": len(speech) / RATE + 4},
        {"audio_filepath": "stereo.wav", "channel": 1},
    ]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    for options in ({}, {"windows": "sequential", "vad_filter": True, "fallback": True}, {"timestamps": False}):
        found, _ = timed(manifest, word_timestamps=True, **options)
        alone, twice = words_of(found[0]), words_of(found[1])
        assert [w["word"] for w in twice] == [w["word"] for w in alone] * 2
        second_s = len(speech) / RATE + 4
        starts = np.array([w["start"] for w in alone])
        assert np.array([w["start"] for w in twice[: len(alone)]]) == pytest.approx(starts, abs=0.25)
        assert np.array([w["start"] for w in twice[len(alone) :]]) - second_s == pytest.approx(starts, abs=0.25)
        for other in (2, 3):
            assert [(w["word"], w["start"], w["end"]) for w in words_of(found[other])] == [
                (w["word"], w["start"], w["end"]) for w in alone
            ]


def test_what_was_not_kept_is_encoded_again_with_the_same_words(engines, demo, timed, speech):
    _, worker = worker_of(engines)
    kept = worker.model_runner.encoder_cache
    assert kept.num_bytes == 0, "everything was taken or discarded"
    most, kept._max_bytes = kept._max_bytes, 0
    try:
        rows, record = timed(speech, word_timestamps=True)
    finally:
        kept._max_bytes = most
    assert {i: without_words(row) for i, row in rows.items()} == {i: without_words(row) for i, row in demo[0].items()}
    for i, row in rows.items():
        assert words_of(row) == words_of(demo[0][i])
    assert record["sessions"][-1]["encoded_again"] == sum(len(row["windows"]) for row in rows.values())


def test_what_is_discarded_leaves_nothing_behind(engines, demo, speech_wav):
    """As many as one call tells of; also what was never submitted."""
    engine, worker = worker_of(engines)
    answers: SimpleQueue = SimpleQueue()
    engine.deliver = lambda key, outcome: answers.put(outcome)
    requests = [engine.preprocess(load_audio(request(str(speech_wav))).samples, None) for _ in range(9)]
    for number, each in enumerate(requests[:8]):
        engine.submit((number, 0), each)
    assert all(answers.get(timeout=120).text for _ in range(8))
    kept = worker.model_runner.encoder_cache
    assert kept.num_bytes == 8 * 1500 * 384 * 4
    for each in requests:
        engine.discard(each)
    deadline = time.monotonic() + 60
    while kept.num_bytes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert kept.num_bytes == 0 and answers.empty()


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made under it held at once, of any device."""

    def __init__(self):
        super().__init__()
        self._live, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for made in filter(torch.is_tensor, tree_leaves(found)):
            storage = made.untyped_storage()
            self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
        self.most = max(self.most, sum(num_bytes for _, num_bytes in self._live.values()))
        return found


# As turbo: its 4 layers of 1280 with 20 heads; its alignment_heads, and what stands for a checkpoint that names none.
TURBO = {
    "d_model": 1280, "encoder_attention_heads": 20, "decoder_attention_heads": 20, "encoder_layers": 1,
    "decoder_layers": 4, "decoder_ffn_dim": 5120, "num_mel_bins": 128, "vocab_size": 51866,
}  # fmt: skip
HEADS = [[2, 4], [2, 11], [3, 3], [3, 6], [3, 11], [3, 14]]


@pytest.fixture
def turbo(demo, tiny_en, tmp_path):
    """vLLM's Whisper of that shape, on a device that computes nothing; and its configuration."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models.whisper import WhisperForConditionalGeneration

    for path in Path(tiny_en).glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | TURBO
    (tmp_path / "config.json").write_text(json.dumps(config))
    vllm_config = EngineArgs(str(tmp_path), dtype="bfloat16", kv_cache_memory_bytes=2**28).create_engine_config()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with set_current_vllm_config(vllm_config), torch.device("meta"):
            model = WhisperForConditionalGeneration(vllm_config=vllm_config)
    finally:
        torch.set_default_dtype(default)
    for module in model.modules():
        if hasattr(module, "quant_method"):
            module.cpu_linear = torch.nn.functional.linear  # vLLM's own choice on a CPU, made when weights are there
    return model, config


@pytest.mark.parametrize(
    ("heads", "is_given", "num_windows"), [(HEADS, False, 16), (HEADS, True, 16), (None, False, 4)]
)
def test_a_call_for_a_large_model_has_the_memory_that_is_left_to_it(turbo, tiny_en, heads, is_given, num_windows):
    from asrbatch.engine.vllm.cross_attention import Aligner, KeptEncodings

    model, config = turbo
    tokens, places = 448, 1500
    spec = spec_of(tiny_en, **({"text_field": "text"} if is_given else {"word_timestamps": True}))
    checkpoint = replace(spec.checkpoint, config=config, generation_config={"alignment_heads": heads})
    spec = replace(spec, checkpoint=checkpoint, dtype="bfloat16", word_timestamps=True)
    meta = torch.device("meta")
    aligner = Aligner(model, meta, spec.prompts.alignment_heads, KeptEncodings(0), None)
    windows = [["key", list(range(tokens)), 3, tokens - 3, places, None]] * num_windows
    with torch.inference_mode(), LiveBytes() as live:
        ids = torch.zeros(num_windows, tokens, dtype=torch.long, device=meta)
        one = torch.empty(places, TURBO["d_model"], dtype=torch.bfloat16, device=meta)
        looks, hidden = aligner.decode(ids, torch.stack([one] * num_windows), windows, is_whole=is_given)
        if is_given:
            logits = model.compute_logits(hidden[0]).float().log_softmax(-1)
            assert logits.shape == (tokens, TURBO["vocab_size"])
    assert [each.shape for each in looks] == [(tokens - 3, places)] * num_windows
    assert (looks[0].dtype, hidden.shape) == (torch.float32, (num_windows, tokens, TURBO["d_model"]))
    assert live.most < alignment_bytes(spec, num_windows) < 1.6 * live.most


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("worker_extension_cls=mine.Extension",), "--engine-arg worker_extension_cls: words need it"),
        (("tensor_parallel_size=2",), "--engine-arg tensor_parallel_size: words are timed by one worker; .*--devices"),
    ],
)
def test_what_cannot_be_is_refused_before_the_engine_starts(tiny_en, args, message):
    mode = "process" if "parallel" in args[0] else "thread"
    with pytest.raises(UsageError, match=f"--word-timestamps and {message}"):
        spec_of(tiny_en, args=args, mode=mode, word_timestamps=True)


def test_a_bound_without_words_is_refused(tiny_en):
    with pytest.raises(UsageError, match="--encoder-cache 100: is for --word-timestamps"):
        spec_of(tiny_en, encoder_cache_mb=100)
