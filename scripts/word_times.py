#!/usr/bin/env python3
"""Are asrbatch's times of words those of openai-whisper? Window by window, on the same features and the same tokens.

    python scripts/word_times.py --peer FOLDER [--model tiny.en] [--set prompts-en] [--dtype float32] [--join 600]

`--peer` is a folder with openai-whisper and what it imports, such as the site-packages of an environment of its own
(`pip install --no-deps openai-whisper tiktoken regex requests … numba llvmlite`): its numba must not come near vLLM's
process, so it is put behind everything else and imported when the engine is closed. `--join` puts the recordings
together, with half a second between them, to one of so many seconds, cut into windows of 30 s.

The engine decodes each window; its words are compared with those of openai-whisper's `add_word_timestamps`, given the
engine's tokens, segments and features, and the same weights in float32. Compared are the words before they are fitted
into their segments, because openai-whisper moves segments instead; how many the fitting moves is said too.

Not measured: whether either of them is right; speed.
"""

import argparse
import json
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from get_model import MODELS, model_folder
from longform_peers import original_model
from speech_common import choose, read_set, say

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine.base import DecodingOptions
from asrbatch.engine.engine import start_engine
from asrbatch.models.words import fit
from asrbatch.runs.model_selection import resolve_model
from asrbatch.types import DecodingResult, WordTiming

RATE, WINDOW_S, GAP_S = 16_000, 30, 0.5
# One frame of the alignment, and what rounding to hundredths adds.
BOUNDS_S = (0.0201, 0.0401)


class TimedWindow(NamedTuple):
    """One window as the engine left it; features float32 [mel bins, frames]."""

    samples: np.ndarray
    features: Any
    result: DecodingResult
    groups: tuple[tuple[WordTiming, ...], ...]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare times of words with openai-whisper's.")
    parser.add_argument("--peer", required=True, help="folder with openai-whisper and its dependencies")
    parser.add_argument("--model", choices=MODELS, default="tiny.en")
    parser.add_argument("--set", default="prompts-en", help="of get_speech.py")
    parser.add_argument("--language", default="en")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--count", type=int, default=60, help="recordings")
    parser.add_argument("--join", type=int, help="seconds of one recording that they are put together to")
    given = parser.parse_args()
    clips = [clip.samples() for clip in choose(read_set(given.set), given.count)]
    windows = cut(joined(clips, given.join)) if given.join else clips
    folder = model_folder(given.model)
    timed = time_words(folder, windows, given.dtype, given.language)
    sys.path.append(given.peer)
    print(json.dumps({**vars(given), "peer": None, **compare(folder, timed, given.language)}, ensure_ascii=False))
    return 0


def joined(clips: list[np.ndarray], seconds: int) -> np.ndarray:
    """Clips one after the other, float32 at 16 kHz, again from the first where they are not enough."""
    gap, parts, length = np.zeros(round(GAP_S * RATE), np.float32), [], 0
    while length < seconds * RATE:
        clip = clips[len(parts) // 2 % len(clips)]
        parts += [clip, gap]
        length += len(clip) + len(gap)
    return np.concatenate(parts)[: seconds * RATE]


def cut(samples: np.ndarray) -> list[np.ndarray]:
    return [samples[at : at + WINDOW_S * RATE] for at in range(0, len(samples), WINDOW_S * RATE)]


def time_words(folder: Path, windows: list[np.ndarray], dtype: str, language: str) -> list[TimedWindow]:
    """Every window that the model hears text in."""
    engine_config = EngineConfig(str(folder), dtype=dtype, mode="thread")
    answers: SimpleQueue = SimpleQueue()
    spec = resolve_model(RunConfig("-", engine_config, word_timestamps=True))
    engine = start_engine(spec, lambda *outcome: answers.put(outcome))

    def collect(count: int) -> dict[int, Any]:
        found = dict(answers.get() for _ in range(count))
        for outcome in found.values():
            if isinstance(outcome, Exception):
                raise outcome
        return found

    try:
        requests = [engine.preprocess(samples, None) for samples in windows]
        features = [engine._api.features(request.engine_input).float() for request in requests]
        for number, request in enumerate(requests):
            engine.submit(number, request, DecodingOptions(language=language))
        results = {number: result for number, result in collect(len(requests)).items() if result.text.strip()}
        for number, result in results.items():
            engine.align(number, requests[number], result, len(windows[number]))
        words = collect(len(results))
        say(f"{len(results)} of {len(windows)} windows have text")
        return [TimedWindow(windows[n], features[n], results[n], words[n].groups) for n in sorted(results)]
    finally:
        engine.close()


def compare(folder: Path, timed: list[TimedWindow], language: str) -> dict[str, Any]:
    """How far apart the words of both are; those that are more than a frame apart are listed on standard error."""
    from whisper.timing import add_word_timestamps
    from whisper.tokenizer import get_tokenizer

    model = original_model(str(folder))
    tokenizer = get_tokenizer(model.is_multilingual, language=language, task="transcribe")
    apart, moved, num_other_texts = [], [], 0
    for window in timed:
        length_s = len(window.samples) / RATE
        ends = [length_s if each.end_s is None else each.end_s for each in window.result.segments]
        segments = [
            {"seek": 0, "start": each.start_s, "end": end, "tokens": [i for i in each.token_ids if i < tokenizer.eot]}
            for each, end in zip(window.result.segments, ends, strict=True)
        ]
        frames = min(len(window.samples) // 160, 3000)
        add_word_timestamps(
            segments=segments, model=model, tokenizer=tokenizer, mel=window.features, num_frames=frames,
            last_speech_timestamp=0.0,
        )  # fmt: skip
        theirs = [word for segment in segments for word in segment["words"]]
        ours = [word for group in window.groups for word in group]
        if [word["word"] for word in theirs] != [word.text for word in ours]:
            num_other_texts += 1
            say(f"other words: {[word['word'] for word in theirs]} and {[word.text for word in ours]}")
            continue
        for group, segment, end in zip(window.groups, window.result.segments, ends, strict=True):
            fitted = fit(group, segment.start_s, end)
            moved += [
                max(abs(a.start_s - b.start_s), abs(a.end_s - b.end_s)) for a, b in zip(group, fitted, strict=True)
            ]
        for word, other in zip(ours, theirs, strict=True):
            apart.append(max(abs(word.start_s - other["start"]), abs(word.end_s - other["end"])))
            if apart[-1] > BOUNDS_S[0]:
                say(
                    f"{word.text!r}: {word.start_s:.2f} to {word.end_s:.2f}, {other['start']:.2f} to {other['end']:.2f}"
                )
    within = {
        f"within_{round(bound * 1000)}_ms": round(float(np.mean(np.array(apart) < bound)), 4) for bound in BOUNDS_S
    }
    num_moved = int((np.array(moved) > BOUNDS_S[0]).sum())
    return {"windows": len(timed), "words": len(apart), **within, "moved": num_moved, "other_texts": num_other_texts}


if __name__ == "__main__":
    sys.exit(main())
