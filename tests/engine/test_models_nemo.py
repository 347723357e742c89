"""NVIDIA NeMo's own plugin, in the real engine; only where both are installed: `make test-nemo` sets that up and runs
this.
"""

import json

import numpy as np
import pytest
import soundfile
from conftest import read_jsonl, write_jsonl
from engine_client import RATE, samples_of

pytest.importorskip("nemo.collections.speechlm2", reason="needs NeMo: make test-nemo")


@pytest.fixture(scope="module")
def nemo(tmp_path_factory):
    from tiny_nemo import nemo_speech_lm

    return nemo_speech_lm(tmp_path_factory.mktemp("nemo"))


def test_nemo_speech_lm_is_run_by_its_own_plugin(nemo, cli, tmp_path, demo_rows):
    """Two recordings, a long one in windows, and a crumb that would kill its encoder with the engine around it."""
    clips = samples_of(demo_rows)[:2]
    soundfile.write(tmp_path / "long.wav", np.resize(np.concatenate(clips), 50 * RATE), RATE)
    soundfile.write(tmp_path / "crumb.wav", np.zeros(1, np.float32), RATE)
    rows = [{"id": f"u{i}", "audio_filepath": row["audio_filepath"]} for i, row in enumerate(demo_rows[:2])]
    rows += [{"id": "long", "audio_filepath": "long.wav"}, {"id": "crumb", "audio_filepath": "crumb.wav"}]
    for file in [*nemo.glob("tokenizer*"), *nemo.glob("*.jinja")]:
        file.unlink()  # what --tokenizer names is then all there is
    # What the backend that asrbatch follows gives vLLM.
    overrides = {"architectures": ["NeMoSpeechLMForConditionalGeneration"], "model_type": "nemo_speechlm"}
    options = ["--plugin", "nemo_speechlm", "--dtype", "float32", "--max-tokens", 16, "--tokenizer", nemo / "backbone"]
    options += ["--engine-arg", f"hf_overrides={json.dumps(overrides)}", "--engine-arg", "max_num_seqs=4"]
    options += ["--engine-arg", "max_model_len=1024", "--engine-arg", "block_size=64"]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    done = cli("transcribe", manifest, "-m", nemo, "-o", "o.jsonl", *options, timeout=900)
    assert done.returncode == 3, done.stderr
    written = {row["id"]: row for row in read_jsonl(tmp_path / "o.jsonl")}
    assert {i: row["status"] for i, row in written.items()} == {"u0": "ok", "u1": "ok", "long": "ok", "crumb": "failed"}
    assert written["crumb"]["error"]["kind"] == "too_short"
    assert written["u0"]["pred_text"] != written["u1"]["pred_text"], "the audio matters"
    assert len(written["long"]["windows"]) == 2
    engine = json.loads((tmp_path / "o.run.json").read_text())["sessions"][0]["engine"]
    assert engine["asked"]["style"] == "chat" and engine["asked"]["placeholder"] == "<|audio|>"
    assert engine["asked"]["asked_about"].startswith(
        "<|im_start|>user\nTranscribe the following: <|audio|>×13<|im_end|>"
    )
    assert engine["asked"]["plugins"] == {"nemo_speechlm": "nemo-toolkit 3.0.0"}
    assert engine["settings"]["tokenizer"] == str(nemo / "backbone") and engine["settings"]["hf_overrides"] == overrides
