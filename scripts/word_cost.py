#!/usr/bin/env python3
"""What times of words cost, how long the engine is held up for them, and whether kills change them. Prints tables.

    python scripts/word_cost.py [--model tiny.en] [--dtype bfloat16] [--rounds 5] [--memory] [--kills 8] [--rows 40]

Speed: recordings of get_speech.py, short, and 10 minutes of them put together, with and without `--word-timestamps`, in
turn, on two engines that stay up in one process; every second round in the opposite order. RTFx is that of the run
(`rtfx_engine`). Of each call that aligns windows: how long it takes in the worker, how many windows it has while how
many wait, and how long a finished window waits for its words.

`--memory`: the most that a run in a process of its own takes, with and without.

`--kills N`: a run with times of words is killed (SIGKILL) N times, each time after some more rows and a random part of
a second, then goes on to its end; its rows are compared with those of an unbroken one, in float32 and with one sequence
at a time, so that texts do not depend on what runs beside them. Compared is everything but the clocks of `timing`.

Not measured: GPUs.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from get_model import MODELS, model_folder
from longform import read_rows, write_rows
from speech_common import choose, read_set, say
from word_known_times import recordings

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine.engine import start_engine
from asrbatch.runs.runner import run

LONG = {"en": "prompts", "fr": "prompts-fr"}  # of word_known_times.py


class Call(NamedTuple):
    """One call that aligned windows.

    Attributes:
        worker_s: in the worker, while which the engine takes no step.
        num_waiting: windows whose words were waited for when it began, its own among them.
        waits_s: of each of its windows, from its answer to its words.
    """

    worker_s: float
    num_windows: int
    num_waiting: int
    waits_s: list[float]


class KeptEngines:
    """`start_engine` that starts an engine with words and one without, once; they stay up.

    Attributes:
        calls: of the engine with words, since they were cleared.
    """

    def __init__(self) -> None:
        self._engines: dict[bool, Any] = {}
        self.calls: list[Call] = []

    def start(self, spec: Any, deliver: Callable[..., None], on_step: Callable[[str], None]) -> Any:
        if spec.word_timestamps not in self._engines:
            engine = start_engine(spec, deliver, on_step)
            self._engines[spec.word_timestamps] = engine
            if spec.word_timestamps:
                self._watch(engine)
        engine = self._engines[spec.word_timestamps]
        engine.deliver = deliver
        return _LeftOpen(engine)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def _watch(self, engine: Any) -> None:
        aligner = engine._aligner
        worker = engine._driver.engine.engine_core.engine_core.model_executor.driver_worker.worker._asrbatch_aligner
        in_worker, align = [], aligner._align

        def timed(windows: list[Any]) -> Any:
            started = time.monotonic()
            found = worker_align(windows)
            in_worker.append(time.monotonic() - started)
            return found

        def watched(tasks: list[Any], discarded: list[Any]) -> None:
            waiting = len(tasks) + len(aligner._tasks)
            align(tasks, discarded)
            ended = time.monotonic()
            if tasks:
                waits_s = [ended - task.queued_at for task in tasks]
                self.calls.append(Call(sum(in_worker), len(tasks), waiting, waits_s))
            in_worker.clear()

        worker_align, worker.align, aligner._align = worker.align, timed, watched


class _LeftOpen:
    def __init__(self, engine: Any):
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self, timeout_s: float = 0.0) -> None:
        pass


# --- speed ----------------------------------------------------------------------------------------------------------


def manifests(language: str, count: int, folder: Path) -> dict[str, Path]:
    short = [clip.row for clip in choose(read_set(f"prompts-{language}"), count)]
    long, *_ = recordings(LONG[language])
    long = {name: long[name] for name in ("id", "audio_filepath", "duration", "lang")}
    return {
        f"{count} short": write_rows(folder / "short.jsonl", short),
        "10 minutes": write_rows(folder / "long.jsonl", [long]),
    }


def measure_speed(options: argparse.Namespace, folder: Path) -> None:
    engines, found, calls = KeptEngines(), {}, {}
    try:
        for name, manifest in manifests(options.language, options.rows, folder).items():
            for number in range(options.rounds + 1):
                for words in (False, True) if number % 2 else (True, False):
                    engines.calls.clear()
                    before = time.process_time()
                    mark = run_once(engines, manifest, options, folder / "out.jsonl", words)
                    # Another process may slow a turn, which is why they alternate; the first round warms up.
                    if number:
                        found.setdefault((name, words), []).append((mark["rtfx_engine"], time.process_time() - before))
                        calls.setdefault(name, []).extend(engines.calls)
            say(f"{name}: {[round(rtfx, 1) for rtfx, _ in found[name, True]]} with, "
                f"{[round(rtfx, 1) for rtfx, _ in found[name, False]]} without")  # fmt: skip
    finally:
        engines.close()
    print_speed(options, found)
    print_calls(options, calls)


def run_once(
    engines: KeptEngines, manifest: Path, options: argparse.Namespace, output: Path, words: bool
) -> dict[str, Any]:
    engine = EngineConfig(str(model_folder(options.model)), dtype=options.dtype, mode="thread")
    config = RunConfig(str(manifest), engine, output=str(output), word_timestamps=words, overwrite=True)
    summary = run(config, start=engines.start)
    return json.loads(summary.paths.done.read_text(encoding="utf-8"))


def print_speed(options: argparse.Namespace, found: dict[tuple[str, bool], list[tuple[float, float]]]) -> None:
    print("| model | recordings | RTFx without words | with | ratio: median (least to greatest) | CPU seconds: ratio |")
    print("|---|---|---:|---:|---:|---:|")
    for name in dict.fromkeys(name for name, _ in found):
        without, with_words = found[name, False], found[name, True]
        rtfx, cpu = (
            sorted(mine[at] / theirs[at] for mine, theirs in zip(with_words, without, strict=True)) for at in (0, 1)
        )
        medians = [statistics.median(rtfx for rtfx, _ in each) for each in (without, with_words)]
        cells = [
            f"{options.model}, {options.dtype}", f"{name}, {options.language}", *(f"{each:.1f}" for each in medians),
            f"{statistics.median(rtfx):.3f} ({rtfx[0]:.3f} to {rtfx[-1]:.3f})", f"{statistics.median(cpu):.3f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def print_calls(options: argparse.Namespace, found: dict[str, list[Call]]) -> None:
    heads = "calls | windows a call | fewer than 8 while 8 wait | ms a call: median | 90 % | most"
    print(f"\n| model | recordings | {heads} | a window waits, s: median | most |\n|---|---|{'---:|' * 8}")
    for name, calls in found.items():
        ms, waits_s = [1000 * call.worker_s for call in calls], [wait for call in calls for wait in call.waits_s]
        small = sum(call.num_windows < 8 <= call.num_waiting for call in calls)
        cells = [
            f"{options.model}, {options.dtype}", f"{name}, {options.language}", str(len(calls)),
            f"{statistics.mean(call.num_windows for call in calls):.1f}", str(small),
            f"{statistics.median(ms):.0f}", f"{statistics.quantiles(ms, n=10)[-1]:.0f}", f"{max(ms):.0f}",
            f"{statistics.median(waits_s):.2f}", f"{max(waits_s):.2f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


# --- runs of their own ----------------------------------------------------------------------------------------------


def command(manifest: Path, options: argparse.Namespace, output: Path, *more: str) -> list[str]:
    model = str(model_folder(options.model))
    return [sys.executable, "-m", "asrbatch", "transcribe", str(manifest), "-m", model, "-o", str(output), *more]


def measure_memory(options: argparse.Namespace, folder: Path) -> None:
    manifest = manifests(options.language, options.rows, folder)["10 minutes"]
    print("\n| model | words | peak MiB |\n|---|---|---:|")
    for words in (False, True):
        more = ["--dtype", options.dtype, "--overwrite", *(["--word-timestamps"] if words else [])]
        process = subprocess.Popen(
            command(manifest, options, folder / "out.jsonl", *more),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"status {status}")
        print(f"| {options.model}, {options.dtype} | {words} | {usage.ru_maxrss / 1024:.0f} |", flush=True)


def measure_kills(options: argparse.Namespace, folder: Path) -> None:
    manifest = manifests(options.language, options.rows, folder)[f"{options.rows} short"]
    # Some rows of several windows among them.
    (long,) = read_rows(folder / "long.jsonl")
    rows = read_rows(manifest)
    pieces = [{**long, "id": f"long {at}", "offset": at, "duration": 75.0} for at in range(0, 450, 75)]
    mixed = [*rows, *pieces]
    random.Random(options.kills).shuffle(mixed)
    write_rows(manifest, mixed)
    more = ["--word-timestamps", "--dtype", "float32", "--engine-arg", "max_num_seqs=1"]
    whole, broken = folder / "whole.jsonl", folder / "broken.jsonl"
    subprocess.run(command(manifest, options, whole, *more), check=True, stderr=subprocess.DEVNULL)
    chance, places = random.Random(options.kills), []
    for number in range(options.kills):
        before = number_of_rows(broken)
        process = subprocess.Popen(
            command(manifest, options, broken, *more), stderr=subprocess.DEVNULL, start_new_session=True
        )
        wanted = before + chance.randrange(1, max(2, 2 * (len(mixed) - before) // (options.kills - number + 1)))
        while number_of_rows(broken) < wanted and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.random() / 2)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        places.append(number_of_rows(broken))
        say(f"killed at {places[-1]} of {len(mixed)} rows")
    subprocess.run(command(manifest, options, broken, *more), check=True, stderr=subprocess.DEVNULL)
    rows, again = ({row["id"]: {**row, "timing": None} for row in read_rows(path)} for path in (whole, broken))
    words = [[word for segment in row["segments"] for word in segment["words"]] for row in rows.values()]
    same = sum(rows[id] == again.get(id) for id in rows)
    num_words = sum(map(len, words))
    print(
        f"\nkilled {len(places)} times, at {places} rows; {same} of {len(rows)} rows the same, with {num_words} words"
    )
    for id, row in rows.items():
        if row != again.get(id):
            say(f"{id}: {[name for name in row if row[name] != (again.get(id) or {}).get(name)]}")


def number_of_rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="What times of words cost.")
    parser.add_argument("--model", choices=MODELS, default="tiny.en")
    parser.add_argument("--language", choices=LONG, default="en")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, default=40, help="short recordings")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of speed; 0 leaves it out")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asrbatch-word-cost-") as folder:
        # First: a child's peak begins with what its parent holds.
        if options.memory:
            measure_memory(options, Path(folder))
        if options.rounds:
            measure_speed(options, Path(folder))
        if options.kills:
            measure_kills(options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
