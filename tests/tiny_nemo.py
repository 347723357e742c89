"""A tiny NeMo speech LM with random weights: a small Conformer before a small Qwen3. Needs NeMo:
scripts/setup_nemo.sh.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import chat_template, text_config, tokenizer

PLACEHOLDER = "<|audio|>"
_WIDTH = 64
# The plugin adds rows for its own tokens to the backbone's vocabulary.
_EXTRA_ROWS = 10


def nemo_speech_lm(folder: Path) -> Path:
    """16 kHz; a chat template that takes plain text, and the thinking tags of Qwen3 as plain tokens."""
    from nemo.collections.speechlm2.modules import AudioPerceptionModule
    from omegaconf import DictConfig
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    fast = tokenizer(folder, [PLACEHOLDER], chat_template(None), ("<think>", "</think>"))
    backbone = folder / "backbone"
    vocabulary = (len(fast) + 63) // 64 * 64 - _EXTRA_ROWS
    config = Qwen3Config(
        **text_config(vocabulary, fast.eos_token_id, head_dim=32), architectures=["Qwen3ForCausalLM"], hidden_act="silu"
    )
    config.save_pretrained(backbone)
    fast.save_pretrained(backbone)
    language_model = Qwen3ForCausalLM(config)
    perception = AudioPerceptionModule(DictConfig(_perception())).eval()
    weights = {f"perception.{name}": value for name, value in perception.state_dict().items()}
    weights |= {
        f"llm.{name}": value for name, value in language_model.state_dict().items() if "embed_tokens" not in name
    }
    weights["embed_tokens.weight"] = language_model.model.embed_tokens.weight.data
    # Larger than fresh, so that what it hears changes what it says.
    weights = {n: (w.float() * (4 if w.dim() == 2 else 1) if w.is_floating_point() else w) for n, w in weights.items()}
    save_file({name: value.clone().contiguous() for name, value in weights.items()}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["NeMoSpeechLMForConditionalGeneration"],
                "model_type": "nemo_speechlm",
                "perception": _perception(),
                "pretrained_llm": str(backbone),
                "pretrained_asr": "none",
                "pretrained_weights": False,
                "audio_locator_tag": PLACEHOLDER,
                "prompt_format": "qwen",
                "encoder_chunk_size_seconds": 30.0,
                "dtype": "float32",
            }
        )
    )
    return folder


def _perception() -> dict:
    modules = "nemo.collections.asr.modules"
    return {
        "target": "nemo.collections.speechlm2.modules.perception.AudioPerceptionModule",
        "output_dim": _WIDTH,
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 80,
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": 2,
            "d_model": _WIDTH,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 32,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 2,
            "att_context_size": [-1, -1],
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
            "dropout_att": 0.0,
        },
        "modality_adapter": {
            "_target_": "nemo.collections.speechlm2.modules.perception.IdentityConnector",
            "d_model": _WIDTH,
        },
    }
