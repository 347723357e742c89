#!/usr/bin/env python3
"""Transcribe long recordings with another system's own long-form method, and write down what it said and when.

    python scripts/longform_peers.py SYSTEM --weights DIR --threads N --out FILE.json MANIFEST…       (what longform.py
    runs)

Each system in a process of its own, on the CPU, in float32, offline, one recording after another, given audio that is
already in memory. SYSTEM is a key of SYSTEMS, which holds the settings in full. Three families:

- transformers: `WhisperForConditionalGeneration.generate` on a whole recording, with timestamps: each window begins
  where the last segment ended. "fallback" is the recipe of Whisper's model card
- faster-whisper: `WhisperModel.transcribe` (the same method) and `BatchedInferencePipeline` (windows cut by a voice
  detector, in batches of 8, without timestamps)
- openai-whisper: the original `transcribe`, the reference of the method. It comes from a folder in PYTHONPATH, for
  which longform.py sees; the weights are those of the others, renamed

A system without "fallback" decodes greedily and keeps the answer, whatever it looks like. With it, answers that repeat
themselves or are improbable are decoded again at rising temperatures, with a fixed seed.

Knows nothing of scores or of asrbatch.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

SAMPLE_RATE = 16_000
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCH = 8
SEED = 0

# No judgement of an answer, hence no second attempt and nothing skipped as silence; the names differ by one underscore.
PLAIN = {"temperature": 0.0, "compression_ratio_threshold": None, "no_speech_threshold": None}
ORIGINAL = PLAIN | {"logprob_threshold": None, "condition_on_previous_text": False}
CTRANSLATE2 = PLAIN | {"log_prob_threshold": None, "condition_on_previous_text": False, "beam_size": 1}
CARD = {
    "temperature": TEMPERATURES,
    "compression_ratio_threshold": 1.35,  # in token space, where openai-whisper's 2.4 is one of characters
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
}
PREVIOUS = {"condition_on_previous_text": True}

# System to family and arguments; what is not named has the family's default.
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformers": ("transformers", {"condition_on_prev_tokens": False}),
    "transformers, previous text": ("transformers", {"condition_on_prev_tokens": True}),
    "transformers, fallback": ("transformers", CARD | {"condition_on_prev_tokens": False}),
    "transformers, previous text, fallback": ("transformers", CARD | {"condition_on_prev_tokens": True}),
    "faster-whisper": ("faster-whisper", CTRANSLATE2),
    "faster-whisper, VAD": ("faster-whisper", CTRANSLATE2 | {"vad_filter": True}),
    "faster-whisper, previous text": ("faster-whisper", CTRANSLATE2 | PREVIOUS),
    "faster-whisper, beam 5": ("faster-whisper", CTRANSLATE2 | {"beam_size": 5}),
    "faster-whisper as it comes (beam 5, previous text, fallback)": ("faster-whisper", {}),
    "faster-whisper as it comes, VAD": ("faster-whisper", {"vad_filter": True}),
    "faster-whisper batched (VAD), beam 1": ("faster-whisper batched", {"beam_size": 1, "batch_size": BATCH}),
    "faster-whisper batched (VAD), beam 5": ("faster-whisper batched", {"beam_size": 5, "batch_size": BATCH}),
    "openai-whisper": ("openai-whisper", ORIGINAL),
    "openai-whisper, previous text": ("openai-whisper", ORIGINAL | PREVIOUS),
    "openai-whisper as it comes (previous text, fallback)": ("openai-whisper", {"temperature": TEMPERATURES}),
}

# Start and end in seconds from the recording's start, text as it was said; and with `--words` those, as asrbatch's.
Segments = list[dict[str, Any]]
Transcribe = Callable[[Any, str, bool], Segments]  # audio, language, whether the model knows several


def segment(start: float, end: float, text: str, words: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    more = {} if words is None else {"words": [{k: word[k] for k in ("word", "start", "end")} for word in words]}
    return {"start": round(start, 3), "end": round(end, 3), "text": text, **more}


# --- families -------------------------------------------------------------------------------------------------------


def transformers_family(weights: str, threads: int, arguments: dict[str, Any]) -> Transcribe:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.WhisperForConditionalGeneration.from_pretrained(weights, dtype=torch.float32).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(weights)
    tokenizer = transformers.WhisperTokenizerFast.from_pretrained(weights)
    end = tokenizer.eos_token_id  # control and timestamp tokens lie above it

    def transcribe(audio: Any, language: str, is_multilingual: bool) -> Segments:
        torch.manual_seed(SEED)
        heard = extractor(
            audio,
            sampling_rate=SAMPLE_RATE,
            truncation=False,
            padding="longest",
            return_attention_mask=True,
            return_tensors="pt",
        )
        asked = {"language": language, "task": "transcribe"} if is_multilingual else {}
        with torch.inference_mode():
            result = model.generate(**heard, **asked, **arguments, return_timestamps=True, return_segments=True)
        texts = ([t for t in found["tokens"].tolist() if t < end] for found in result["segments"][0])
        return [
            segment(float(found["start"]), float(found["end"]), tokenizer.decode(ids))
            for found, ids in zip(result["segments"][0], texts, strict=True)
        ]

    return transcribe


def faster_whisper_family(
    weights: str, threads: int, arguments: dict[str, Any], is_batched: bool = False
) -> Transcribe:
    import ctranslate2
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(weights, device="cpu", compute_type="float32", cpu_threads=threads, local_files_only=True)
    system = BatchedInferencePipeline(model) if is_batched else model

    def transcribe(audio: Any, language: str, _is_multilingual: bool) -> Segments:
        ctranslate2.set_random_seed(SEED)
        segments, _ = system.transcribe(audio, language=language, **arguments)
        return [segment(s.start, s.end, s.text, None if s.words is None else [*map(vars, s.words)]) for s in segments]

    return transcribe


def batched_family(weights: str, threads: int, arguments: dict[str, Any]) -> Transcribe:
    return faster_whisper_family(weights, threads, arguments, is_batched=True)


def openai_family(weights: str, threads: int, arguments: dict[str, Any]) -> Transcribe:
    import torch

    torch.set_num_threads(threads)
    model = original_model(weights)

    def transcribe(audio: Any, language: str, _is_multilingual: bool) -> Segments:
        torch.manual_seed(SEED)
        result = model.transcribe(audio, language=language, fp16=False, verbose=None, **arguments)
        return [segment(s["start"], s["end"], s["text"], s.get("words")) for s in result["segments"]]

    return transcribe


# A module's name in transformers, piece by piece, and in openai-whisper.
RENAMED = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"final_layer_norm", "mlp_ln"),
    (r"encoder_attn\.", "cross_attn."),
    (r"self_attn\.", "attn."),
    (r"([qkv])_proj", {"q": "query", "k": "key", "v": "value"}),
    (r"out_proj", "out"),
    (r"fc1", "mlp.0"),
    (r"fc2", "mlp.2"),
    (r"decoder\.embed_tokens", "decoder.token_embedding"),
    (r"embed_positions\.weight", "positional_embedding"),
    (r"encoder\.layer_norm", "encoder.ln_post"),
    (r"decoder\.layer_norm", "decoder.ln"),
)


def original_name(name: str) -> str:
    """openai-whisper's name of a tensor of transformers' WhisperForConditionalGeneration."""
    for pattern, new in RENAMED:
        name = re.sub(pattern, new if isinstance(new, str) else lambda match, new=new: new[match[1]], name)
    return name


def original_model(weights: str) -> Any:
    """openai-whisper's model with the weights of a checkpoint in the Hugging Face layout; a tensor left over is an
    error.
    """
    import torch
    from safetensors.torch import load_file
    from whisper.model import ModelDimensions, Whisper

    config = json.loads(Path(weights, "config.json").read_text(encoding="utf-8"))
    model = Whisper(
        ModelDimensions(
            n_mels=config["num_mel_bins"],
            n_audio_ctx=config["max_source_positions"],
            n_audio_state=config["d_model"],
            n_audio_head=config["encoder_attention_heads"],
            n_audio_layer=config["encoder_layers"],
            n_vocab=config["vocab_size"],
            n_text_ctx=config["max_target_positions"],
            n_text_state=config["d_model"],
            n_text_head=config["decoder_attention_heads"],
            n_text_layer=config["decoder_layers"],
        )
    )
    tensors = load_file(Path(weights, "model.safetensors"))
    model.load_state_dict({original_name(name): tensor.float() for name, tensor in tensors.items()})
    generation = json.loads(Path(weights, "generation_config.json").read_text(encoding="utf-8"))
    heads = torch.zeros(config["decoder_layers"], config["decoder_attention_heads"], dtype=torch.bool)
    for layer, head in generation["alignment_heads"]:
        heads[layer, head] = True
    model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return model.eval()


FAMILIES = {
    "transformers": (transformers_family, ("transformers", "torch")),
    "faster-whisper": (faster_whisper_family, ("faster-whisper", "ctranslate2")),
    "faster-whisper batched": (batched_family, ("faster-whisper", "ctranslate2")),
    "openai-whisper": (openai_family, ("openai-whisper", "torch")),
}


# --- the run --------------------------------------------------------------------------------------------------------


def run(
    system: str, weights: str, is_multilingual: bool, threads: int, manifests: list[Path], more: dict[str, Any]
) -> dict[str, Any]:
    """One entry per manifest row: `id`, `segments`, `text` and `wall_s`, the seconds of the whole call."""
    import soundfile

    family, arguments = SYSTEMS[system][0], SYSTEMS[system][1] | more
    build, packages = FAMILIES[family]
    transcribe = build(weights, threads, arguments)
    rows = []
    for line in (line for manifest in manifests for line in manifest.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        audio, rate = soundfile.read(row["audio_filepath"], dtype="float32")
        if rate != SAMPLE_RATE or audio.ndim != 1:
            sys.exit(f"{row['audio_filepath']}: needs 16 kHz, mono")
        started = time.monotonic()
        segments = transcribe(audio, row["lang"], is_multilingual)
        wall_s = time.monotonic() - started
        print(
            f"   {system}: {row['id']}, {row['duration'] / wall_s:.1f} times as fast as speech",
            file=sys.stderr,
            flush=True,
        )
        text = "".join(found["text"] for found in segments)
        rows.append({"id": row["id"], "text": text, "segments": segments, "wall_s": wall_s})
    return {"system": system, "settings": arguments, "versions": {p: version(p) for p in packages}, "rows": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description="Transcribe long recordings with another system.")
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--weights", required=True, metavar="DIR", help="as the system wants them")
    parser.add_argument("--multilingual", action="store_true", help="the model knows several languages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--words", action="store_true", help="with the words of each segment; not of transformers")
    a = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(a.threads)}
    more = {"word_timestamps": True} if a.words else {}
    result = run(a.system, a.weights, a.multilingual, a.threads, a.manifests, more)
    a.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
