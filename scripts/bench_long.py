#!/usr/bin/env python3
"""Whether long recordings keep the engine as busy as full windows do that are files of their own.

    python scripts/bench_long.py [--model tiny.en] [--rounds 3] [--set prompts]

One recording (longform_data.py) is transcribed whole, cut by `fixed` and by `energy`, and as files of 30 s with `none`:
the same audio, and with `fixed` the same windows. Without timestamps, so that nothing is asked again. Every run is the
command `asrbatch transcribe` in a process of its own; systems alternate, every second round in the opposite order.
Seconds are the run's own (`X.done.json`), without start-up. CPU seconds are those of the whole process and its
decoders, start-up too: on a machine that others use they say more than the clock.

The last column is the median of a system's RTFx divided by that of the files of 30 s in the same round, and the least
and the greatest of these ratios. Not measured: GPUs, reading from slow disks."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import soundfile
from get_model import model_folder
from longform_data import SETS, longform_manifest
from speech_common import WINDOW_S, say

FILES = "files of 30 s"
SYSTEMS = {FILES: "none", "whole, fixed": "fixed", "whole, energy": "energy"}


def pieces(row: dict, folder: Path) -> list[dict]:
    """The recording in files of 30 s."""
    samples, rate = soundfile.read(row["audio_filepath"], dtype="float32")
    size, rows = round(WINDOW_S * rate), []
    for start in range(0, len(samples), size):
        piece, path = samples[start : start + size], folder / f"{start}.flac"
        soundfile.write(path, piece, rate)
        rows.append({"id": path.stem, "audio_filepath": str(path), "duration": len(piece) / rate, "lang": row["lang"]})
    return rows


def run(manifest: Path, windows: str, model: Path, out: Path) -> dict:
    command = [sys.executable, "-m", "asrbatch", "transcribe", str(manifest), "--model", str(model), "--dtype",
    "float32",
               "--windows", windows, "--no-timestamps", "-o", str(out), "--overwrite"]  # fmt: skip
    before = cpu_s()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}")
    return json.loads(out.with_suffix(".done.json").read_text(encoding="utf-8")) | {"cpu_s": cpu_s() - before}


def cpu_s() -> float:
    """Of all processes that ended, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description="Long recordings against files as long as a window.")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", default="prompts", choices=SETS)
    arguments = parser.parse_args()
    (row, *_) = map(json.loads, longform_manifest(arguments.set).read_text(encoding="utf-8").splitlines())
    row = {name: row[name] for name in ("id", "audio_filepath", "duration", "lang")}
    model, found = model_folder(arguments.model), {name: [] for name in SYSTEMS}
    with tempfile.TemporaryDirectory(prefix="asrbatch-bench-long-") as scratch:
        manifests = {}
        for name in SYSTEMS:
            rows = pieces(row, Path(scratch)) if name == FILES else [row]
            manifests[name] = Path(scratch, f"{SYSTEMS[name]}.jsonl")
            manifests[name].write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
        for number in range(arguments.rounds):
            for name, windows in list(SYSTEMS.items())[:: -1 if number % 2 else 1]:
                say(f"round {number + 1}: {name}")
                mark = run(manifests[name], windows, model, Path(scratch, "out.jsonl"))
                seconds = mark["wall_s"] - mark["stages_s"]["startup"]
                found[name].append((row["duration"] / seconds, mark["cpu_s"]))
    print(f"{row['id']}, {row['duration']:.0f} s, Whisper {arguments.model}, float32, {arguments.rounds} rounds\n")
    print("| system | RTFx without start-up | CPU seconds | ratio to files of 30 s (least to greatest) |")
    print("|---|---:|---:|---:|")
    for name, rounds in found.items():
        ratios = sorted(mine[0] / theirs[0] for mine, theirs in zip(rounds, found[FILES], strict=True))
        medians = (statistics.median(each) for each in zip(*rounds, strict=True))
        cells = [
            *(f"{value:.1f}" for value in medians),
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
