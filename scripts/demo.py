#!/usr/bin/env python3
"""The main job on real speech: fetch a small Whisper and a dozen recordings, transcribe, compare with the transcripts.

Everything it runs is printed first and can be repeated by hand. Run it with `make demo`, which sets up what is missing.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import jiwer
from rich.console import Console
from rich.table import Table

REPO = Path(__file__).resolve().parent.parent
OUT = REPO / "demo"
ASRBATCH = str(Path(sys.executable).with_name("asrbatch"))

NORMALISE = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.SubstituteRegexes({r"\bmister\b": "mr", r"-": " "}),
        jiwer.RemovePunctuation(),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
    ]
)


def step(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, ok: tuple[int, ...] = (0,)) -> str:
    """Shows a command, runs it and returns what it printed to standard output."""
    shown = [Path(part).name if part == sys.executable else str(part) for part in command]
    shown = [".venv/bin/asrbatch" if part == ASRBATCH else part for part in shown]
    print(f"$ {shlex.join(shown)}", file=sys.stderr, flush=True)
    done = subprocess.run([str(part) for part in command], cwd=REPO, stdout=subprocess.PIPE, text=True)
    if done.returncode not in ok:
        sys.exit(f"demo: that command ended with exit code {done.returncode}")
    return done.stdout.strip()


def main() -> None:
    started = time.monotonic()
    step("a small real Whisper (tiny.en, 75 MB), fetched and converted once")
    model = run(sys.executable, "scripts/get_model.py", "tiny.en")
    step("real recorded speech with transcripts, fetched once")
    source = run(sys.executable, "scripts/get_speech.py", "demo")
    OUT.mkdir(exist_ok=True)
    manifest = OUT / "demo.jsonl"
    manifest.write_text(Path(source).read_text(encoding="utf-8"), encoding="utf-8")
    first = manifest.read_text(encoding="utf-8").splitlines()[0]
    print(f"its manifest, demo/demo.jsonl, has a row for each recording, such as\n{first}", file=sys.stderr)
    step("transcribing")
    run(ASRBATCH, "transcribe", "demo/demo.jsonl", "--model", model, "--output", "demo/out.jsonl", "--overwrite")
    rows = [json.loads(line) for line in (OUT / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    show(sorted(rows, key=lambda row: row["index"]))
    print(f"\nthe whole demo took {time.monotonic() - started:.0f} s; the rows are in demo/out.jsonl", file=sys.stderr)


def show(rows: list[dict]) -> None:
    console = Console()
    table = Table("", "reference", "transcript", title="transcripts beside their references", show_lines=True)
    references, hypotheses = [], []
    for row in rows:
        if row["status"] == "ok":
            transcript = row["pred_text"]
            references.append(row["text"])
            hypotheses.append(transcript)
        else:
            transcript = f"[{row['error']['kind']}] {row['error']['message']}"
        table.add_row(str(row["index"]), row["text"][:160], transcript[:160])
    console.print(table, markup=False)
    measured = jiwer.process_words(references, hypotheses, reference_transform=_words(), hypothesis_transform=_words())
    mark = json.loads((OUT / "out.done.json").read_text(encoding="utf-8"))
    console.print(
        f"WER {100 * measured.wer:.1f} % over {len(references)} transcribed rows, after lower-casing, without "
        f"punctuation; "
        f"RTFx {mark['rtfx_engine']} while the engine worked, {mark['rtfx_end_to_end']} with start-up",
        markup=False,
    )


def _words() -> jiwer.Compose:
    return jiwer.Compose([NORMALISE, jiwer.ReduceToListOfListOfWords()])


if __name__ == "__main__":
    main()
