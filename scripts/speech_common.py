"""What parity.py and bench.py share: which clips, how they sound, how texts are scored, and Hugging Face's Whisper.

The clips come from get_speech.py, the weights from get_model.py. Imports torch and transformers only where they are
used; never imports vllm.
"""

import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from get_model import cache_folder
from get_speech import speech_manifest

from asrbatch.audio.clip import Clip
from asrbatch.audio.load import stream_audio

SAMPLE_RATE = 16_000  # Hz, of every Whisper
WINDOW_S = 30.0  # what Whisper hears at once; longer recordings would compare ways to cut, not engines
# Decoder positions that hold no text, as asrbatch counts them: so every system may generate equally much.
PROMPT_TOKENS = 4


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


# --- clips ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeechClip:
    """One recording, no longer than Whisper's window; `row` is its manifest row, with an absolute path."""

    id: str
    path: str
    text: str
    duration_s: float
    row: dict[str, Any]

    def samples(self) -> Any:
        """1-D float32, mono, 16 kHz: exactly what asrbatch hears."""
        return read_samples(self.path, self.duration_s)


def read_samples(path: str, duration_s: float | None = None) -> np.ndarray:
    """A recording as asrbatch hears it; 1-D float32, mono, 16 kHz."""
    with closing(stream_audio(path, Clip(path, duration_s=duration_s), SAMPLE_RATE)) as stream:
        return np.concatenate(list(stream))


def read_set(name: str) -> list[SpeechClip]:
    """The clips of one of get_speech.py's sets that fit the window, in manifest order; fetched on first use."""
    lines = speech_manifest(name, cache_folder()).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        SpeechClip(r["id"], r["audio_filepath"], r["text"], r["duration"], r) for r in rows if r["duration"] <= WINDOW_S
    ]


def choose(clips: Sequence[SpeechClip], count: int) -> list[SpeechClip]:
    """The same `count` clips every time, as good as random: those whose ids have the smallest
    SHA-256, in that order.
    """
    if count > len(clips):
        sys.exit(f"{count} clips asked for, but the set has {len(clips)} of at most {WINDOW_S:.0f} s")
    return sorted(clips, key=lambda clip: hashlib.sha256(clip.id.encode()).digest())[:count]


def write_manifest(clips: Sequence[SpeechClip], path: Path) -> str:
    path.write_text("".join(json.dumps(clip.row, ensure_ascii=False) + "\n" for clip in clips), encoding="utf-8")
    return str(path)


def describe(clips: Sequence[SpeechClip]) -> str:
    lengths = [clip.duration_s for clip in clips]
    return (
        f"{len(clips)} recordings, {sum(lengths):.0f} s of speech, {min(lengths):.1f} to {max(lengths):.1f} s long, "
        f"median {statistics.median(lengths):.1f} s"
    )


def texts_by_id(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """asrbatch's output rows to stripped texts; a failed row's text names its error, so that it
    equals no transcript.
    """
    return {
        row["id"]: row["pred_text"].strip() if row["status"] == "ok" else f"[failed: {row['error']['kind']}]"
        for row in rows
    }


# --- scores ---------------------------------------------------------------------------------------------------------


def wer_percent(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate after Whisper's own English normaliser (case, punctuation, numbers, contractions), in percent."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    spoken = [(r, h) for r, h in pairs if r]  # jiwer refuses a reference without words
    return 100 * jiwer.wer([r for r, _ in spoken], [h for _, h in spoken])


# --- Hugging Face ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HfText:
    """`ids`: the text tokens alone, without control and end tokens. `text` is stripped."""

    text: str
    ids: tuple[int, ...]


class HuggingFace:
    """transformers' WhisperForConditionalGeneration, greedy, without timestamps, fallback or previous text.

    `suppress_tokens` and `begin_suppress_tokens` come from the checkpoint's generation config, as they do in asrbatch.

    Args:
        folder: of the checkpoint.
        dtype: a torch dtype's name.
        batch: utterances generated at once.
    """

    def __init__(self, folder: str | Path, dtype: str, batch: int = 8):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self._torch = torch
        self._batch = batch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.model = self.model.eval().to(self._device)
        self._features = transformers.WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = transformers.WhisperTokenizerFast.from_pretrained(folder)
        config = self.model.generation_config
        self._end = config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0]
        self._is_multilingual = config.is_multilingual
        self.max_new_tokens = self.model.config.max_target_positions - PROMPT_TOKENS

    def transcribe(self, audio: Sequence[Any], progress: Any = None) -> list[HfText]:
        """Texts of some windows, in batches in the given order; `progress` is told how many are done."""
        results: list[HfText] = []
        for start in range(0, len(audio), self._batch):
            results += self._generate(audio[start : start + self._batch])
            if progress:
                progress(len(results))
        return results

    def first_choice(self, samples: Any, ids: Sequence[int], position: int) -> list[tuple[str, int, float]]:
        """What HF weighs after the text tokens `ids[:position]`: every allowed token as (text, id,
        logit), best first.
        """
        torch, config = self._torch, self.model.generation_config
        prompt = self._prompt_ids() + list(ids[:position])
        with torch.inference_mode():
            logits = (
                self.model(
                    input_features=self._mel([samples]), decoder_input_ids=torch.tensor([prompt], device=self._device)
                )
                .logits[0, -1]
                .float()
            )
            begin = config.begin_suppress_tokens if position == 0 else None
            logits[[*(config.suppress_tokens or ()), *(begin or ())]] = -torch.inf
        values, order = logits.sort(descending=True)
        return [(self.tokenizer.decode([i]), i, v) for i, v in zip(order.tolist(), values.tolist(), strict=True)]

    def text_ids(self, text: str) -> list[int]:
        """A transcript's tokens as the model would have written them: with a space in front of the first word."""
        return self.tokenizer.encode(" " + text, add_special_tokens=False) if text else []

    def _generate(self, audio: Sequence[Any]) -> list[HfText]:
        asked = {"language": "en", "task": "transcribe"} if self._is_multilingual else {}
        with self._torch.inference_mode():
            sequences = self.model.generate(
                self._mel(audio),
                do_sample=False,
                num_beams=1,
                return_timestamps=False,
                condition_on_prev_tokens=False,
                max_new_tokens=self.max_new_tokens,
                **asked,
            )
        ids = [
            tuple(t for t in sequence if t < self._end) for sequence in sequences.tolist()
        ]  # control tokens lie above
        return [HfText(self.tokenizer.decode(list(i)).strip(), i) for i in ids]

    def _mel(self, audio: Sequence[Any]) -> Any:
        features = self._features(list(audio), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        return features.to(self._device, self.model.dtype)

    def _prompt_ids(self) -> list[int]:
        named = (
            ["<|startoftranscript|>"]
            + (["<|en|>", "<|transcribe|>"] if self._is_multilingual else [])
            + ["<|notimestamps|>"]
        )
        return self.tokenizer.convert_tokens_to_ids(named)
