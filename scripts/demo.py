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

from rich.console import Console
from rich.table import Table

REPO = Path(__file__).resolve().parent.parent
OUT = REPO / "demo"
ASRBATCH = str(Path(sys.executable).with_name("asrbatch"))
NEXT = """
the report, to read and listen to the errors:
  .venv/bin/asrbatch report demo/out.jsonl
your own files, with this model:
  .venv/bin/asrbatch transcribe FOLDER --model {model} --output run/out.jsonl
two models on these recordings: docs/quick-start.md"""


def step(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, prints: bool = False, ok: tuple[int, ...] = (0,)) -> str:
    """Shows a command, runs it and returns what it printed to standard output, or lets it print that there."""
    names = {sys.executable: ".venv/bin/python", ASRBATCH: ".venv/bin/asrbatch"}
    shown = [names.get(str(part), str(part)) for part in command]
    print(f"$ {shlex.join(shown)}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    done = subprocess.run(
        [str(part) for part in command], cwd=REPO, stdout=None if prints else subprocess.PIPE, text=True
    )
    if done.returncode not in ok:
        sys.exit(f"demo: that command ended with exit code {done.returncode}")
    return (done.stdout or "").strip()


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
    step("scoring")
    run(ASRBATCH, "score", "demo/out.jsonl", prints=True, ok=(0, 3))
    print(f"\nthe whole demo took {time.monotonic() - started:.0f} s; the rows are in demo/out.jsonl", file=sys.stderr)
    print(NEXT.format(model=shlex.quote(model)), file=sys.stderr)


def show(rows: list[dict]) -> None:
    table = Table("", "reference", "transcript", title="transcripts beside their references", show_lines=True)
    for row in rows:
        is_ok = row["status"] == "ok"
        transcript = row["pred_text"] if is_ok else f"[{row['error']['kind']}] {row['error']['message']}"
        table.add_row(str(row["index"]), row["text"][:160], transcript[:160])
    Console().print(table, markup=False)


if __name__ == "__main__":
    main()
