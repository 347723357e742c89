"""A plugin that is not of vLLM: a model class, its placeholder, a template for plain text, answers that begin with a thought."""

import json

import pytest
import tiny_models
from conftest import read_jsonl, write_jsonl
from test_models_facts import install_plugin, seen

PLUGIN = "thinking_audio"
ARCHITECTURE = "ThinkingAudioForConditionalGeneration"
REGISTER = f"""
def register():
    from vllm import ModelRegistry

    if "{ARCHITECTURE}" in ModelRegistry.get_supported_archs():
        raise RuntimeError("registered twice in one process")
    ModelRegistry.register_model("{ARCHITECTURE}", "thinking_audio_model:{ARCHITECTURE}")
"""
MODEL = f"""
from vllm.model_executor.models.qwen2_audio import Qwen2AudioForConditionalGeneration


class {ARCHITECTURE}(Qwen2AudioForConditionalGeneration):
    @classmethod
    def get_placeholder_str(cls, modality, i):
        if modality == "audio":
            return "<|audio_bos|><|AUDIO|><|audio_eos|>"
        raise ValueError("it only hears")
"""
SAYS = ["<think>", "Hm.", "</think>", "He", " said", " so."]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where the plugin is installed."""
    folder = tmp_path_factory.mktemp("site")
    install_plugin(folder, PLUGIN, "thinking_audio_plugin", REGISTER)
    (folder / "thinking_audio_model.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    """Thinks before it answers; its template begins the thought itself when it is told to."""
    folder = tmp_path_factory.mktemp("thinking")
    template = tiny_models.chat_template(None, "{% if begin_thought is defined %}<think>{% endif %}")
    tiny_models.qwen2_audio(folder, template=template, plain=tuple(SAYS), architecture=ARCHITECTURE)
    tiny_models.make_it_say(folder, "\n", SAYS)
    return folder


@pytest.fixture
def transcribed(cli, site, thinking, tmp_path, demo_rows):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "u", "audio_filepath": demo_rows[1]["audio_filepath"]}])

    def call(*options):
        options = ["--dtype", "float32", "--engine-arg", "max_num_seqs=2", *options]
        done = cli("transcribe", manifest, "-m", thinking, "-o", "o.jsonl", *options, env=seen(site))
        if done.returncode:
            return done.stderr
        (row,) = read_jsonl(tmp_path / "o.jsonl")
        return row, json.loads((tmp_path / "o.run.json").read_text())

    return call


def test_a_thought_is_kept_beside_the_answer(transcribed):
    row, record = transcribed("--plugin", PLUGIN, "--engine-mode", "process")
    assert (row["pred_text"], row["reasoning"], row["flags"]) == ("He said so.", "Hm.", [])
    assert row["windows"][0]["reasoning"] == "Hm." and row["num_tokens"] == 3, "of the text alone"
    asked = record["sessions"][0]["engine"]["asked"]
    assert asked["architecture"] == ARCHITECTURE and asked["plugins"] == {PLUGIN: f"{PLUGIN} 1.5"}
    said = "<|im_start|>user\nTranscribe the following: <|audio_bos|><|AUDIO|>×25<|audio_eos|><|im_end|>\n<|im_start|>assistant\n"
    assert asked["asked_about"] == said
    assert record["fingerprint"]["asked"]["plugins"] == {PLUGIN: f"{PLUGIN} 1.5"}


def test_a_template_may_begin_the_thought(transcribed):
    row, record = transcribed("--chat-template-kwargs", '{"begin_thought": true}')
    assert (row["pred_text"], row["reasoning"], row["flags"]) == ("He said so.", "Hm.", [])
    assert row["num_tokens"] == 3, "of the text alone"
    assert record["fingerprint"]["asked"]["chat_template_kwargs"] == {"begin_thought": True}
