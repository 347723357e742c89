#!/usr/bin/env python3
"""How well does `asrbatch align` tell texts that are said from texts that are not? Prints a table.

    python scripts/text_mismatch.py [--model tiny.en] [--set prompts-en] [--count 200] [--dtype float32]

Aligns recordings with their own texts, and each with the text of another one, which is another text. Says how many of
either are flagged `text_mismatch`, and at which values of `audio_gain` they would be.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from get_model import MODELS, model_folder
from speech_common import choose, read_set, say

import asrbatch
from asrbatch.models.quality import AUDIO_GAIN


def main() -> int:
    parser = argparse.ArgumentParser(description="Align right and wrong texts.")
    parser.add_argument("--model", choices=MODELS, default="tiny.en")
    parser.add_argument("--set", default="prompts-en")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    rows = [clip.row for clip in choose(read_set(options.set), options.count)]
    right, wrong = gains(rows, options), gains(shuffled(rows), options)
    print(f"{options.model}, {options.dtype}, {len(rows)} recordings of {options.set}\n")
    print("| audio_gain | own text | text of another |\n|---|---:|---:|")
    for share in (0, 1, 2, 5, 50):
        of_right, of_wrong = np.percentile(right, share), np.percentile(wrong, 100 - share)
        print(f"| {share} % are {'below' if share else 'not below'} / above | {of_right:.2f} | {of_wrong:.2f} |")
    print("\n| flagged below | own text | text of another |\n|---|---:|---:|")
    for bound in sorted({AUDIO_GAIN, 1.0, 1.5, 2.0, 3.0}):
        print(f"| {bound} | {np.mean(right < bound):.1%} | {np.mean(wrong < bound):.1%} |")
    return 0


def shuffled(rows: list[dict]) -> list[dict]:
    """Each with the text of the next whose letters are others."""
    texts = [row["text"] for row in rows]

    def other(n: int) -> str:
        order = texts[n + 1 :] + texts[:n]
        return next(text for text in order if letters(text) != letters(texts[n]))

    return [{**row, "text": other(n)} for n, row in enumerate(rows)]


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def gains(rows: list[dict], options: argparse.Namespace) -> np.ndarray:
    say(f"aligning {len(rows)} rows")
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "m.jsonl")
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        summary = asrbatch.transcribe(
            manifest,
            model=model_folder(options.model),
            dtype=options.dtype,
            text_field="text",
            output=Path(folder, "out.jsonl"),
        )
        return np.array([window["audio_gain"] for row in summary.rows() for window in row["windows"]])


if __name__ == "__main__":
    sys.exit(main())
