#!/usr/bin/env python3
"""How long does `asrbatch score` take over many rows, and in how much memory?

    python scripts/bench_score.py [--rows 1000000] [--folder DIR]

The rows are real transcripts (tests/data) repeated under new ids, with windows and timing of the size that runs write. Prints
wall and processor seconds and the largest resident set of any process; not measured: reading from a slow file system.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import count, islice
from pathlib import Path

PAIRS = Path(__file__).resolve().parent.parent / "tests/data/prompts.tiny-en.jsonl"
TIMING = {"read": 0.004, "prepare": 0.02, "queue": 5.2, "first_token": 5.8, "generate": 3.8, "total": 9.7}


def rows(pairs: list[dict]):
    for copy in count():
        for at, pair in enumerate(pairs):
            text = pair["pred_text"] or ""
            window = {"start": 0.0, "end": pair["duration"], "text": text, "num_tokens": 9, "finish_reason": "stop"}
            windows = [{**window, "avg_logprob": -0.21, "flags": [], "attempts": []}]
            segments = [{"start": 0.0, "end": pair["duration"], "text": text}]
            more = {"dataset": f"set-{at % 7}", "windows": windows, "segments": segments, "flags": [], "timing": TIMING}
            yield {**pair, "id": f"{pair['id']}-{copy}", **more}


def main() -> int:
    parser = argparse.ArgumentParser(description="Time asrbatch score over many rows.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the rows are put; default a temporary folder")
    arguments = parser.parse_args()
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder, "rows.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in islice(rows(pairs), arguments.rows))
        size_mb, began = path.stat().st_size / 1e6, time.monotonic()
        command = [sys.executable, "-m", "asrbatch", "score", str(path), "--by", "dataset,duration", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        wall_s, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    total = json.loads(done.stdout)["total"]
    print(f"{total['rows']:,} rows, {size_mb:,.0f} MB, WER {total['wer_percent']:.2f} %")
    cpu_s, most_mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"{wall_s:.1f} s wall, {cpu_s:.1f} s of processors, {most_mib:.0f} MiB at most in a process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
