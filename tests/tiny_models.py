"""Tiny speech models with random weights, as checkpoints that vLLM loads: what they say is noise, how they are asked is
real.

Each is built from a configuration when a test wants it, with a tokenizer trained on the licence, which never changes.
"""

import json
from itertools import pairwise
from pathlib import Path

import torch
from conftest import REPO
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperFeatureExtractor

END, PAD = "<|im_end|>", "<|endoftext|>"


def chat_template(audio: str | None, suffix: str = "") -> str:
    """A ChatML template.

    Args:
        audio: what it writes for an audio part; None for a template that takes plain text only.
        suffix: what follows the line that opens the answer.
    """
    if audio is None:
        content = "{{ message['content'] }}"
    else:
        content = (
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in "
            "message['content'] %}"
            "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}" + audio + "{% endif %}{% endfor %}{% endif %}"
        )
    opening = "<|im_start|>assistant\n" + suffix
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n" + content + "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}" + opening + "{% endif %}"
    )


def tokenizer(folder: Path, special: list[str], template: str, plain: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 600 entries, saved to a folder.

    Args:
        special: tokens that a decoder leaves out of a text.
        plain: tokens of the vocabulary that it leaves in, such as `<think>`.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator((REPO / "LICENSE").read_text(encoding="utf-8").splitlines(), trainer)
    bpe.add_special_tokens([PAD, "<|im_start|>", END, *special])
    bpe.add_tokens(list(plain))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def text_config(vocabulary: int, end: int, **more) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "eos_token_id": end,
        "tie_word_embeddings": False,
        **more,
    }


def qwen2_audio(
    folder: Path, *, template: str | None = None, plain: tuple[str, ...] = (), architecture: str | None = None
) -> Path:
    """Asked by its chat template; hears 30 s.

    Args:
        template: of the chat; the model's own by default.
        plain: see `tokenizer`.
        architecture: what the checkpoint says it is; the model's own name by default.
    """
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    torch.manual_seed(0)
    audio = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    fast = tokenizer(folder, ["<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"], template or chat_template(audio), plain)
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 80,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 128,
            "d_model": 64,
            "max_source_positions": 1500,
        },
        text_config=text_config(_rounded(fast), fast.eos_token_id, model_type="qwen2"),
        audio_token_index=fast.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config).float()
    _loud(model)
    _save(model, folder, fast)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=30, sampling_rate=16000)
    Qwen2AudioProcessor(extractor, fast, chat_template=fast.chat_template).save_pretrained(folder)
    change_config(folder, architectures=[architecture or "Qwen2AudioForConditionalGeneration"])
    return folder


def glm_asr(folder: Path) -> Path:
    """Asked by vLLM's transcription interface; hears what its context holds."""
    from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration, GlmAsrProcessor

    torch.manual_seed(0)
    audio = "<|begin_of_audio|><|pad|><|end_of_audio|>"
    fast = tokenizer(folder, ["<|begin_of_audio|>", "<|pad|>", "<|end_of_audio|>"], chat_template(audio))
    config = GlmAsrConfig(
        audio_config={
            "hidden_size": 64,
            "intermediate_size": 256,  # the projector takes four frames at once
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_mel_bins": 80,
            "max_position_embeddings": 1500,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.5},
        },
        text_config=text_config(_rounded(fast), [fast.eos_token_id]),
        audio_token_id=fast.convert_tokens_to_ids("<|pad|>"),
        tie_word_embeddings=False,
        architectures=["GlmAsrForConditionalGeneration"],
    )
    model = GlmAsrForConditionalGeneration(config).float()
    _loud(model)
    _save(model, folder, fast)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=30)
    GlmAsrProcessor(extractor, fast, chat_template=fast.chat_template).save_pretrained(folder)
    return folder


def _rounded(fast: PreTrainedTokenizerFast) -> int:
    return (len(fast) + 63) // 64 * 64


def _loud(model) -> None:
    """Larger weights than a fresh model's, so that what it hears changes what it says."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)


def _save(model, folder: Path, fast: PreTrainedTokenizerFast) -> None:
    model.generation_config = GenerationConfig(eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id)
    model.save_pretrained(folder)
    # transformers 5 writes `language_model.model.model.…`, checkpoints on the hub have `language_model.model.…`, as
    # vLLM expects.
    file = str(folder / "model.safetensors")
    weights = {
        name.replace("language_model.model.model.", "language_model.model."): w for name, w in load_file(file).items()
    }
    save_file(weights, file, {"format": "pt"})


def make_it_say(folder: Path, after: str, tokens: list[str]) -> None:
    """Changes a Qwen2-Audio's weights: after one token it says the next, whatever it hears; after the last, it ends.

    Args:
        after: what the prompt ends in.
        tokens: of the vocabulary, each once.
    """
    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    chain = [fast.convert_tokens_to_ids(token) for token in tokens]
    (before,) = fast(after, add_special_tokens=False)["input_ids"]
    file = str(folder / "model.safetensors")
    weights = load_file(file)
    for name, weight in weights.items():
        # Nothing is added to a token on its way, so that what comes out is the token itself.
        if name.startswith("language_model") and name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
    embedding, head = weights["language_model.model.embed_tokens.weight"], weights["language_model.lm_head.weight"]
    embedding /= embedding.norm(dim=1, keepdim=True)
    head.zero_()
    for token, following in pairwise([before, *chain, fast.eos_token_id]):
        head[following] += 20 * embedding[token]
    save_file(weights, file, {"format": "pt"})


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def adapter(folder: Path, model: Path) -> Path:
    """A LoRA adapter (PEFT's files) for the language model of a checkpoint made here, large enough to change what it
    says.
    """
    torch.manual_seed(1)
    rank, weights = 4, {}
    for name, weight in load_file(str(model / "model.safetensors")).items():
        if name.startswith("language_model") and name.endswith("q_proj.weight"):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            weights[f"{module}.lora_A.weight"] = torch.randn(rank, weight.shape[1])
            weights[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], rank)
    save_file(weights, str(folder / "adapter_model.safetensors"))
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def change_adapter(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def quantise(model: Path) -> Path:
    """Changes a checkpoint made here: its language model's weights become 8-bit integers with a scale for each channel.

    The layout is that of compressed-tensors, as llm-compressor writes it.
    """
    file = str(model / "model.safetensors")
    weights = load_file(file)
    for name in [n for n in weights if n.startswith("language_model") and n.endswith("_proj.weight")]:
        scale = weights[name].abs().amax(dim=1, keepdim=True) / 127
        weights[name.replace(".weight", ".weight_scale")] = scale
        weights[name] = (weights[name] / scale).round().to(torch.int8)
    save_file(weights, file, {"format": "pt"})
    of = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**of, "strategy": "channel", "dynamic": False},
        "input_activations": {**of, "strategy": "token", "dynamic": True},
    }
    change_config(
        model,
        quantization_config={
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["re:.*lm_head", "re:.*audio_tower.*", "re:.*multi_modal_projector.*"],
        },
    )
    return model
