"""A plugin that is not of vLLM: a model class, its placeholder, a template for plain text, answers that begin with a
thought.

The thought ends in what Qwen3-ASR's answers begin with, and the class takes that off as Qwen3-ASR's does.
"""

import json

import pytest
import tiny_models
from conftest import read_jsonl, write_jsonl
from vllm_plugins import install_plugin, seen

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

    @classmethod
    def post_process_output(cls, text):
        return text.rsplit("<asr_text>", 1)[-1]
"""
SAYS = ["<think>", "Hm.", "</think>", "language", " English", "<asr_text>", "He", " said", " so."]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where the plugin is installed."""
    folder = tmp_path_factory.mktemp("site")
    install_plugin(folder, PLUGIN, "thinking_audio_plugin", REGISTER)
    (folder / "thinking_audio_model.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    """Thinks before it answers; its template begins the thought itself when it is told to, for a
    prompt that says so.
    """
    folder = tmp_path_factory.mktemp("thinking")
    begins = "{% if begin_thought | default(false) and 'Think' in messages[0]['content'] %}<think>{% endif %}"
    template = tiny_models.chat_template(None, begins)
    tiny_models.qwen2_audio(folder, template=template, plain=tuple(SAYS), architecture=ARCHITECTURE)
    tiny_models.make_it_say(folder, "\n", SAYS)
    return folder


def test_thoughts_are_kept_beside_the_answers(cli, site, thinking, tmp_path, demo_rows):
    """The first the model's own, the second begun by the template."""
    audio = demo_rows[1]["audio_filepath"]
    rows = [{"id": "its own", "audio_filepath": audio}, {"id": "begun", "audio_filepath": audio, "prompt": "Think:"}]
    options = ["--dtype", "float32", "--engine-arg", "max_num_seqs=2", "--plugin", PLUGIN, "--engine-mode", "process"]
    options += ["--chat-template-kwargs", '{"begin_thought": true}']
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    done = cli("transcribe", manifest, "-m", thinking, "-o", "o.jsonl", *options, env=seen(site))
    assert done.returncode == 0, done.stderr
    written = read_jsonl(tmp_path / "o.jsonl")
    assert {row["id"] for row in written} == {"its own", "begun"}
    for row in written:
        assert (row["pred_text"], row["reasoning"], row["flags"]) == ("He said so.", "Hm.", [])
        assert row["windows"][0]["reasoning"] == "Hm." and row["num_tokens"] == 3, "of the text alone"
        assert (row["language"], row["language_prob"]) == ("en", None), "as the model said, in what its class took off"
    record = json.loads((tmp_path / "o.run.json").read_text())
    engine = record["sessions"][0]["engine"]
    asked = engine["asked"]
    assert (
        engine["mode"] == "process"
        and asked["architecture"] == ARCHITECTURE
        and asked["plugins"] == {PLUGIN: f"{PLUGIN} 1.5"}
    )
    said = (
        "<|im_start|>user\nTranscribe the following: "
        "<|audio_bos|><|AUDIO|>×25<|audio_eos|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert asked["asked_about"] == said
    assert record["fingerprint"]["asked"]["plugins"] == {PLUGIN: f"{PLUGIN} 1.5"}
    assert record["fingerprint"]["asked"]["chat_template_kwargs"] == {"begin_thought": True}
