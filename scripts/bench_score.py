#!/usr/bin/env python3
"""How long do `asrbatch score` and `compare` take over many rows, and in how much memory?

    python scripts/bench_score.py [--rows 1000000] [--folder DIR]

Every row joins one to six real transcripts (tests/data), drawn anew, so that rows differ in texts, errors and lengths
as those of a corpus do; windows and timing are of the size that runs write. `compare` gets the rows beside the same
rows with other draws of errors. Prints wall and processor seconds and the largest resident set of any process; not
measured: a slow file system."""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS = Path(__file__).resolve().parent.parent / "tests/data/prompts.tiny-en.jsonl"
TIMING = {"read": 0.004, "prepare": 0.02, "queue": 5.2, "first_token": 5.8, "generate": 3.8, "total": 9.7}


def rows(pairs: list[dict], number: int, spoiled: float):
    """`number` rows, the same ids and references every time; a part `spoiled` of the predictions
    lacks its last word.
    """
    drawn, spoils = random.Random(0), random.Random(1)
    for at in range(number):
        joined = drawn.choices(pairs, k=drawn.randint(1, 6))
        text = " ".join(pair["text"] for pair in joined)
        said = " ".join(pair["pred_text"] or "" for pair in joined)
        said = said.rpartition(" ")[0] if spoils.random() < spoiled else said
        seconds = sum(pair["duration"] for pair in joined)
        window = {"start": 0.0, "end": seconds, "text": said, "num_tokens": 9, "finish_reason": "stop"}
        more = {
            "dataset": f"set-{at % 7}",
            "windows": [{**window, "avg_logprob": -0.21, "flags": [], "attempts": []}],
            "segments": [{"start": 0.0, "end": seconds, "text": said}],
            "flags": [],
            "timing": TIMING,
        }
        yield {
            **joined[0],
            "id": f"row-{at}",
            "status": "ok",
            "text": text,
            "pred_text": said,
            "duration": seconds,
            **more,
        }


def write(path: Path, found) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


def measured(*arguments: str) -> dict:
    """Runs a command; prints what it took."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "asrbatch", *arguments, "--json"], stdout=subprocess.PIPE, text=True)
    wall_s, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    most_mib = used.ru_maxrss / 1024  # of all children so far
    print(f"{arguments[0]}: {wall_s:.1f} s wall, {cpu_s:.1f} s of processors, {most_mib:.0f} MiB at most in a process")
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time asrbatch score and compare over many rows.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the rows are put; default a temporary folder")
    arguments = parser.parse_args()
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        a, b = Path(folder, "a.jsonl"), Path(folder, "b.jsonl")
        write(a, rows(pairs, arguments.rows, 0.0))
        write(b, rows(pairs, arguments.rows, 0.3))
        print(f"{arguments.rows:,} rows, {a.stat().st_size / 1e6:,.0f} MB")
        total = measured("score", str(a), "--by", "dataset,duration")["total"]
        print(f"WER {total['wer_percent']:.2f} %, {total['reference_words']:,} words")
        delta = measured("compare", str(a), str(b), "--by", "dataset")["total"]["wer"]
        print(f"difference {delta['delta_points']:.2f} points, p {delta['p_value']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
