"""How long merge-shards takes and how much memory: a made-up run of many rows, merged for real.

    python scripts/bench_merge.py --rows 1000000 --chunks 64 [--words]

The rows are made up; their files are written by asrbatch's own writers, in the order in which rows finish when an
engine holds some hundred at once; with `--words` rows have the times of their words. Each merge is a process of its
own. Prints a Markdown table."""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from asrbatch.audio.buffer import AudioWindow
from asrbatch.audio.windows import WindowConfig
from asrbatch.cluster.merge import merge
from asrbatch.engine.base import AlignedWords
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.models.fallback import GREEDY, Attempts
from asrbatch.pipeline.result import ok_row
from asrbatch.pipeline.state import InFlightWindow, UtteranceState
from asrbatch.runs.fingerprint import digest, fingerprint
from asrbatch.storage.journal import Journal
from asrbatch.storage.metrics import metrics_of_chunks
from asrbatch.storage.paths import RunPaths, chunk_path
from asrbatch.storage.record import RunRecord, write_completion_mark
from asrbatch.types import DecodingResult, Utterance, Window, WordTiming

SAMPLE_RATE = 16000
HELD_AT_ONCE = 256  # rows between manifest and output: how far the order of a rows file strays from the manifest's
WORDS = (
    "the of and to in that it was for on are as with his they be at one have this from or had by hot word but "
    "what some we"
)


def make_manifest(path: Path, num_rows: int) -> None:
    """Some 150 bytes a row."""
    rng = np.random.default_rng(0)
    durations_s = np.minimum(rng.lognormal(1.6, 0.8, num_rows), 30.0).round(3).tolist()
    with open(path, "w", encoding="utf-8") as file:
        for index, duration_s in enumerate(durations_s):
            row = {
                "audio_filepath": f"corpus/part-{index // 10000:04}/utterance-{index:08}.flac",
                "id": f"utterance-{index:08}",
                "duration": duration_s,
                "lang": "en",
                "text": _words(index, duration_s),
            }
            file.write(json.dumps(row) + "\n")


def _words(index: int, duration_s: float) -> str:
    words = WORDS.split()
    return " ".join(words[(index + place * 7) % len(words)] for place in range(1 + int(3.5 * duration_s)))


def make_row(utterance: Utterance, has_words: bool = False) -> dict:
    text = _words(utterance.index, utterance.duration_s)
    num_tokens = len(text) // 4
    result = DecodingResult(f" {text}.", num_tokens, "stop", -0.2179, "en", None, 0.001342, 0.041023, 0.250891)
    window = Window(0, int(utterance.duration_s * SAMPLE_RATE))
    state = FixedTiming(utterance, audio_s=utterance.duration_s)
    in_flight = InFlightWindow(state, 0, AudioWindow(window, np.zeros(0)))
    in_flight.attempts = Attempts(GREEDY)
    in_flight.attempts.add(result)
    if has_words:
        said, step_s = f" {text}.".split(" ")[1:], utterance.duration_s / (text.count(" ") + 1)
        words = tuple(WordTiming(f" {word}", step_s * n, step_s * (n + 1), 1 / (n + 2)) for n, word in enumerate(said))
        in_flight.set_words(AlignedWords((words,), is_encoded_again=False))
    state.answered.append(in_flight)
    return ok_row(state, SimpleNamespace(is_translated=False, window_config=WindowConfig(SAMPLE_RATE, 30.0, 160)))


class FixedTiming(UtteranceState):
    timing = property(lambda self: {"read": 0.004231, "prepare": 0.006128, "total": 0.350982})


def make_run(output: Path, manifest: Manifest, num_chunks: int, has_words: bool = False) -> None:
    sharding = Sharding(manifest.scan.durations_s, num_chunks)
    run = fingerprint(
        manifest=manifest.scan.digest,
        num_rows=len(manifest),
        model="made up",
        revision=None,
        dtype="bfloat16",
        sampling={"temperature": 0.0},
        task="transcribe",
        language=None,
        prompt=None,
        windows="none",
        engine_args={},
        sharding=sharding,
    )
    rng = random.Random(0)
    for chunk_id in range(num_chunks):
        paths = RunPaths(chunk_path(output, chunk_id, num_chunks))
        rows = sharding.rows(chunk_id).tolist()
        rows = [
            rows[place] for place in sorted(range(len(rows)), key=lambda place: place + rng.randrange(HELD_AT_ONCE))
        ]
        record = RunRecord(paths, None, run, len(rows), chunk_id=chunk_id, num_chunks=num_chunks)
        record.write()
        journal = Journal(paths.rows, len(manifest), chunk=sharding.chunk_of == chunk_id)
        for index in rows:
            journal.write(make_row(manifest.read(index), has_words))
        record.update({"rows": len(rows), "audio_s": round(journal.tally.audio_s, 3), "engine_s": 1.0})
        record.end("complete")
        write_completion_mark(
            paths, journal, digest(run), metrics_of_chunks({chunk_id: record.value}, journal.tally.audio_s)
        )
        journal.close()


def measure(output: Path, manifest: Path, num_processes: int | None) -> dict:
    """One merge in this process; seconds by phase, and the most memory it took."""
    clock = [time.perf_counter()]
    merged = merge(
        output, str(manifest), num_processes=num_processes, log=lambda line: clock.append(time.perf_counter())
    )
    clock.append(time.perf_counter())
    assert merged.exit_code == 0, merged.report.lines()
    started, reading, writing, ended = clock
    return {
        "manifest": reading - started,
        "reading": writing - reading,
        "writing": ended - writing,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "readers_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def measured_apart(output: Path, manifest: Path, num_processes: int) -> dict:
    command = [sys.executable, __file__, "--measure", str(output), str(manifest), "--processes", str(num_processes)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))], help="that read chunks"
    )
    parser.add_argument("--repeat", type=int, default=3, help="merges of each kind; the median by total time is shown")
    parser.add_argument("--words", action="store_true", help="rows have the times of their words")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the run is made")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.processes[0])))
        return
    cores = len(os.sched_getaffinity(0))
    print(f"{options.chunks} chunks just written; Python {platform.python_version()}, {cores} cores\n")
    print(
        "| rows | GB | readers | manifest s | reading s | writing s | in all s | rows/s | peak MiB | a reader's MiB |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for num_rows in options.rows:
        folder = Path(tempfile.mkdtemp(prefix="bench-merge-", dir=options.folder))
        try:
            manifest, output = folder / "manifest.jsonl", folder / "out.jsonl"
            make_manifest(manifest, num_rows)
            make_run(output, open_manifest(manifest), options.chunks, options.words)
            num_bytes = sum(path.stat().st_size for path in folder.glob("out.chunk-*.jsonl"))
            for num_processes in options.processes:
                runs = [measured_apart(output, manifest, num_processes) for _ in range(options.repeat)]
                assert output.stat().st_size == num_bytes
                print_line(num_rows, num_bytes, num_processes, runs)
        finally:
            shutil.rmtree(folder)


def print_line(num_rows: int, num_bytes: int, num_processes: int, runs: list[dict]) -> None:
    phases = ("manifest", "reading", "writing")
    median = sorted(runs, key=lambda run: sum(run[phase] for phase in phases))[len(runs) // 2]
    seconds = [median[phase] for phase in phases]
    cells = [
        f"{num_rows:,}",
        f"{num_bytes / 1e9:.2f}",
        str(num_processes),
        *(f"{s:.1f}" for s in (*seconds, sum(seconds))),
    ]
    readers = f"{median['readers_mib']:.0f}" if num_processes > 1 else "-"
    cells += [f"{num_rows / sum(seconds):,.0f}", f"{median['peak_mib']:.0f}", readers]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
