#!/usr/bin/env python3
"""What the frontend costs: everything between a manifest and the engine, measured with an engine that answers at once.

    python scripts/bench_frontend.py [--rounds 3] [--windows 200] [--mel-bins 80] [--cases TEXT …] [--vllm] [--out FILE]

Real are the run (`asrbatch.runs.runner.run`), manifest, files, decoder processes, features, engine inputs, rows and
record. Of vLLM there are configuration, renderer and processors of a 2-layer checkpoint, but no weights: `submit` makes
the engine's input and delivers the same answer. Files hold real speech, end to end: each is one window.

- **Processor time**: of each thread and process, from /proc/…/schedstat, from when the engine is up until it is closed.
- **GIL held**: another process looks some 1,000 times a second into the memory of this one: is the interpreter's lock
  held, and by which thread? It never takes the lock (`thread_clocks.py`).
- **Bytes**: what system calls wrote and read (`/proc/…/io`) between decoder processes and ours.
- **Floors**: decoding in this process with nothing around it; features and request of samples that are in memory.

`--vllm` adds the real AsyncLLM with that checkpoint: once fed by asrbatch, once by vLLM's own frontend, which decodes
with vLLM's loaders in as many threads, and renders. Only our process is counted there, not EngineCore.
Every round runs every case once, in an order that is turned around each time.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from bench import BareEngine, spread
from get_model import model_folder
from speech_common import SAMPLE_RATE, read_samples, read_set, say
from thread_clocks import GROUPS, LOOP, OTHER, PREPARATION, Clocks, LockWatch

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine.base import DecodingOptions
from asrbatch.runs.runner import run
from asrbatch.types import DecodingResult

OURS, OURS_ASYNC, VLLM = "asrbatch", "asrbatch, AsyncLLM", "vLLM's frontend, AsyncLLM"
# FFmpeg's container and codec, rate, layout; None: libsndfile writes it at 16 kHz, mono.
CODECS = {
    "wav": None,
    "flac": None,
    "mp3": ("mp3", "libmp3lame", 44_100, "stereo"),
    "opus": ("ogg", "libopus", 48_000, "mono"),
}
DISTINCT_FILES = 40
ANSWER = DecodingResult("an answer", 2, "stop", -0.1, "en", None, 0.0, 0.0, 0.0)
MAX_TOKENS = 8  # the checkpoint's weights are noise, and would go on to the end
# What a GPU can do at most of large-v3-turbo, windows a second: dense bfloat16 (989, 312, 121 TFLOP/s) at 2.3 TFLOP a
# window, at the four fifths of it that the best kernels reach.
GPUS = {"H200, H100": 343, "A100": 108, "L4": 42}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run: so many files of one codec and length, by so many workers."""

    system: str
    codec: str
    seconds: float
    workers: int
    windows: int

    def __str__(self) -> str:
        return f"{self.system}: {self.codec} {self.seconds:g} s, {self.workers} workers"


@dataclasses.dataclass
class FrontendTurn:
    """A case's figures in one round; all but `pss_mib` for one window.

    Attributes:
        per_s: windows a second.
        cpu_ms, gil_ms: by group of threads.
        kib: by what moved them.
        pss_mib: of the largest decoder process.
    """

    per_s: float
    cpu_ms: dict[str, float]
    gil_ms: dict[str, float]
    kib: dict[str, float]
    pss_mib: float

    @property
    def cpu(self) -> float:
        return sum(self.cpu_ms.values())

    @property
    def gil(self) -> float:
        return sum(self.gil_ms.values())


# --- files and checkpoint -------------------------------------------------------------------------------------------


def make_files(folder: Path, codec: str, seconds: float, speech: np.ndarray) -> list[str]:
    """Files of one codec and length, each with another stretch of the speech."""
    folder.mkdir(parents=True)
    paths, size = [], round(seconds * SAMPLE_RATE)
    for number in range(DISTINCT_FILES):
        samples = np.roll(speech, -number * len(speech) // DISTINCT_FILES)[:size]
        paths.append(str(folder / f"{number:02}.{codec}"))
        if CODECS[codec] is None:
            soundfile.write(paths[-1], samples, SAMPLE_RATE, "PCM_16")
        else:
            encode(paths[-1], samples, *CODECS[codec])
    return paths


def encode(path: str, samples: np.ndarray, container: str, codec: str, rate: int, layout: str) -> None:
    channels = {"mono": 1, "stereo": 2}[layout]
    frames = np.repeat(soxr.resample(samples, SAMPLE_RATE, rate)[:, None], channels, 1)
    with av.open(path, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(frames).reshape(1, -1), "flt", layout)
        frame.sample_rate, frame.pts = rate, 0
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux(stream.encode(piece))


def make_checkpoint(folder: Path, mel_bins: int) -> str:
    """A Whisper of 2 + 2 narrow layers with the tokenizer of tiny.en; its weights are noise."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    source = model_folder("tiny.en")
    folder.mkdir()
    for path in source.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = WhisperConfig.from_pretrained(source)
    config.update({"num_mel_bins": mel_bins, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2})
    config.update({"encoder_attention_heads": 1, "decoder_attention_heads": 1})
    config.update({"encoder_ffn_dim": 64, "decoder_ffn_dim": 64})
    torch.manual_seed(1)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    (folder / "generation_config.json").write_bytes((source / "generation_config.json").read_bytes())
    extractor = json.loads((source / "preprocessor_config.json").read_text()) | {"feature_size": mel_bins}
    extractor.pop("mel_filters", None)
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return str(folder)


# --- in the measured process ----------------------------------------------------------------------------------------


class InstantEngine:
    """`base.Engine` for Whisper without weights; real in all that comes before the model."""

    max_num_seqs = 256  # as on a GPU: so many windows may wait

    def __init__(self, spec: Any):
        from asrbatch.engine import environment
        from asrbatch.engine.processors import make_processor
        from asrbatch.engine.settings import engine_settings

        environment.configure(mode="thread", device_kind=spec.device.kind)
        from asrbatch.engine.vllm import api, registry

        config, renderer, _ = registry.without_engine(engine_settings(spec))
        self._api, self.facts = api, {"mode": "thread", "device": "none", **api.VERSIONS}
        self.processor = make_processor(api, SimpleNamespace(model_config=config, renderer=renderer), spec)
        self.deliver: Any = None

    def start_preprocess_thread(self) -> None:
        self._api.set_num_threads(1)

    def preprocess(self, samples: Any, prompt: str | None, language: str | None = None) -> Any:
        return self.processor.preprocess(samples, prompt, language)

    def submit(self, key: Any, request: Any, options: DecodingOptions) -> None:
        self.processor.engine_input(request, options)
        self.processor.sampling_params(options)
        self.deliver(key, ANSWER)

    def discard(self, request: Any) -> None:
        pass


class Lent:
    """An engine that a run may use but not close; looks at the clocks when it is lent and when it is given back.

    Closing the engine comes before the end of threads and decoder processes, so all of them are still there."""

    def __init__(self, engine: Any, clocks: "Clocks"):
        self._engine, self._clocks = engine, clocks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def start_preprocess_thread(self) -> None:
        self._clocks.name_thread()
        self._engine.start_preprocess_thread()

    def close(self, timeout_s: float = 0.0) -> None:
        self._clocks.end()


class Measured:
    """The process in which cases run; `turn` returns what one used."""

    def __init__(self, checkpoint: str, files: dict[tuple[str, float], list[str]]):
        self._checkpoint, self._files, self._engines = checkpoint, files, {}
        self.clocks = Clocks()

    def floors(self) -> dict[str, float]:
        """Milliseconds of processor for one file, in this thread alone."""
        floors = {}
        for (codec, seconds), paths in self._files.items():
            floors[f"decoding, {codec} {seconds:g} s"] = _cpu_ms(read_samples, paths)
        engine = self._engine(OURS)
        engine.start_preprocess_thread()
        for seconds in sorted({seconds for _, seconds in self._files}):
            audio = [read_samples(path) for path in self._files["flac", seconds]]
            floors[f"features and request, {seconds:g} s"] = _cpu_ms(lambda s: engine.preprocess(s, None), audio)
        return floors

    def turn(self, case: Case) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="asrbatch-bench-") as scratch:
            paths = list(itertools.islice(itertools.cycle(self._files[case.codec, case.seconds]), case.windows))
            wall_s = self._vllm(case, paths) if case.system == VLLM else self._asrbatch(case, paths, Path(scratch))
        return {"wall_s": wall_s} | self.clocks.used

    def close(self) -> None:
        for engine in self._engines.values():
            getattr(engine, "close", lambda: None)()

    def _asrbatch(self, case: Case, paths: Sequence[str], scratch: Path) -> float:
        manifest = scratch / "manifest.jsonl"
        manifest.write_text(
            "".join(json.dumps({"id": f"{i:06}", "audio_filepath": path}) + "\n" for i, path in enumerate(paths))
        )

        def start(spec: Any, deliver: Any, on_step: Any) -> Any:
            engine = self._engine(case.system, spec)
            engine.deliver = deliver
            self.clocks.begin()
            return Lent(engine, self.clocks)

        config = self._config(manifest, scratch / "out.jsonl", case.system, case.workers)
        summary = run(config, start=start)
        if failed := [row for row in summary.rows() if row["status"] != "ok"]:
            raise AssertionError(f"{len(failed)} rows failed: {failed[0]['error']}")
        return summary.progress.stage_times.wall

    def _engine(self, system: str, spec: Any = None) -> Any:
        from asrbatch.engine.engine import start_engine
        from asrbatch.runs.model_selection import resolve_model

        kind = OURS if system == OURS else OURS_ASYNC
        if kind not in self._engines:
            spec = spec or resolve_model(self._config(Path("-"), Path("out.jsonl"), kind, 1))
            self._engines[kind] = InstantEngine(spec) if kind == OURS else start_engine(spec, None)
        return self._engines[kind]

    def _config(self, manifest: Path, output: Path, system: str, workers: int) -> RunConfig:
        mode = "thread" if system == OURS else "process"
        return RunConfig(
            manifest=str(manifest),
            engine=EngineConfig(model=self._checkpoint, dtype="bfloat16", mode=mode, max_tokens=MAX_TOKENS),
            output=str(output),
            language="en",
            timestamps=False,
            workers=workers,
        )

    def _vllm(self, case: Case, paths: Sequence[str]) -> float:
        """Seconds that vLLM's own frontend takes."""
        bare = BareEngine(self._engine(VLLM))
        self.clocks.begin()
        return asyncio.run_coroutine_threadsafe(self._stream(bare, case, paths), bare._ours._driver._loop).result()

    async def _stream(self, bare: BareEngine, case: Case, paths: Sequence[str]) -> float:
        from vllm.multimodal.media.audio import load_audio_pyav, load_audio_soundfile

        load = load_audio_soundfile if CODECS[case.codec] is None else load_audio_pyav
        room, loop = asyncio.Semaphore(2 * bare._ours.max_num_seqs), asyncio.get_running_loop()

        async def one(path: str, threads: ThreadPoolExecutor) -> None:
            async with room:
                samples, _ = await loop.run_in_executor(threads, lambda: load(path, sr=SAMPLE_RATE))
                stream = bare._vllm.generate(bare._prompt(samples), bare._params, f"bare-{next(bare._numbers)}")
                async for _ in stream:
                    pass

        started = time.monotonic()
        with ThreadPoolExecutor(case.workers, "asrbatch-preprocess", self.clocks.name_thread) as threads:
            await asyncio.gather(*(one(path, threads) for path in paths))
            wall_s = time.monotonic() - started
            self.clocks.end()  # while the threads are there
        return wall_s


def _cpu_ms(work: Any, items: Iterable[Any]) -> float:
    """The least of two passes, per item."""
    return min(_pass_ms(work, items) for _ in range(2))


def _pass_ms(work: Any, items: Iterable[Any]) -> float:
    started, count = time.thread_time(), 0
    for item in items:
        work(item)
        count += 1
    return (time.thread_time() - started) * 1e3 / count


def measured_process(connection: Connection, checkpoint: str, files: Any, log: str) -> None:
    """Serves cases until the other end hangs up. First word: where its interpreter's lock is."""
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    measured = Measured(checkpoint, files)
    connection.send(measured.clocks.lock)
    try:
        while True:
            case = connection.recv()
            connection.send(measured.floors() if case is None else measured.turn(case))
    except EOFError:
        measured.close()
        os._exit(0)  # vLLM's threads may hang


# --- in ours --------------------------------------------------------------------------------------------------------


class Watched:
    """The measured process, and the holder of its interpreter's lock."""

    def __init__(self, checkpoint: str, files: Any, log: Path):
        context = multiprocessing.get_context("spawn")
        self._log = log
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=measured_process, args=(theirs, checkpoint, files, str(log)))
        self._process.start()
        theirs.close()
        self._watch = LockWatch(self._process.pid, self._receive())

    def floors(self) -> dict[str, float]:
        self._connection.send(None)
        return self._receive()

    def turn(self, case: Case) -> FrontendTurn:
        self._connection.send(case)
        held_s = self._watch.until(self._connection)
        used = self._receive()
        return FrontendTurn(
            case.windows / used["wall_s"],
            {group: used["cpu"][group] * 1e3 / case.windows for group in GROUPS},
            {group: seconds * 1e3 / case.windows for group, seconds in held_s(used).items()},
            {name: count / 1024 / case.windows for name, count in used["io"].items()},
            used["pss"] / 2**20,
        )

    def close(self) -> None:
        self._connection.close()
        self._process.join(20)
        self._process.kill()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            sys.exit(f"bench_frontend: the measured process died\n{self._log.read_text(errors='replace')[-3000:]}")


def cases_of(windows: int, with_vllm: bool) -> list[Case]:
    """The matrix: workers, codecs and lengths are varied one at a time."""
    ways = [("flac", 30.0, 1), ("flac", 30.0, 2), ("flac", 30.0, 4)]
    ways += [(codec, 30.0, 1) for codec in CODECS if codec != "flac"]
    ways += [("flac", seconds, 1) for seconds in (2.0, 5.0, 6.0, 15.0)]
    cases = [Case(OURS, *way, windows) for way in ways]
    if with_vllm:
        cases += [Case(system, "flac", s, 1, windows) for system in (OURS_ASYNC, VLLM) for s in (30.0, 5.0)]
    return cases


def table(turns: dict[Case, list[FrontendTurn]]) -> list[str]:
    """One line a case, of medians; windows a second, processor and lock with their spread."""
    heads = ["case", "windows/s", "processor ms", *(f"{group} ms" for group in GROUPS), "GIL ms"]
    heads += ["GIL: preparation, loop, other", "KiB decoders wrote, we read", "decoder PSS MiB"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for case, of in turns.items():
        middle = {g: statistics.median(turn.cpu_ms[g] for turn in of) for g in GROUPS}
        gil = (statistics.median(turn.gil_ms.get(g, 0.0) for turn in of) for g in (PREPARATION, LOOP, OTHER))
        cells = [str(case), spread([turn.per_s for turn in of], 0), spread([turn.cpu for turn in of], 1)]
        cells += [*(f"{value:.1f}" for value in middle.values()), spread([turn.gil for turn in of], 2)]
        cells += [", ".join(f"{value:.2f}" for value in gil)]
        cells += [", ".join(f"{value:.0f}" for value in of[0].kib.values())]
        cells += [f"{max(turn.pss_mib for turn in of):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cores_table(turn: FrontendTurn) -> list[str]:
    """What feeds a GPU with windows of 30 s at its limit."""
    lines = ["| GPU | windows/s at most | cores for our frontend | GIL, of one core |", "|---|---:|---:|---:|"]
    for name, per_s in GPUS.items():
        lines.append(f"| {name} | {per_s} | {per_s * turn.cpu / 1e3:.1f} | {per_s * turn.gil / 1e3:.0%} |")
    return lines


def report(turns: dict[Case, list[FrontendTurn]], floors: dict[str, float], facts: str) -> str:
    lines = [facts, "", "Per window; median (least to greatest) of the rounds.", "", *table(turns), ""]
    lines += ["| floor | processor ms |", "|---|---:|", *(f"| {k} | {v:.2f} |" for k, v in floors.items()), ""]
    base = next((case for case in turns if (case.system, case.codec, case.seconds) == (OURS, "flac", 30.0)), None)
    if base is not None:
        lines += cores_table(sorted(turns[base], key=lambda turn: turn.cpu)[len(turns[base]) // 2])
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what comes between a manifest and the engine.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=200, help="of each case in a round")
    parser.add_argument("--mel-bins", type=int, default=80, choices=(80, 128), help="128 as large-v3 and turbo")
    parser.add_argument("--cases", nargs="*", default=[""], help="only those with one of these in their names")
    parser.add_argument("--vllm", action="store_true", help="also the real AsyncLLM, fed by us and by vLLM's frontend")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables as Markdown too")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    cases = [c for c in cases_of(arguments.windows, arguments.vllm) if any(text in str(c) for text in arguments.cases)]
    turns: dict[Case, list[FrontendTurn]] = {case: [] for case in cases}
    speech = np.concatenate([clip.samples() for clip in read_set("demo")])
    facts = (
        f"{arguments.mel_bins} mel bins, {arguments.windows} windows, {os.cpu_count()} cores, {arguments.rounds} rounds"
    )
    with tempfile.TemporaryDirectory(prefix="asrbatch-bench-") as scratch:
        folder = Path(scratch)
        say("writing files and a checkpoint")
        wanted = {(case.codec, case.seconds) for case in cases} | {("flac", case.seconds) for case in cases}
        files = {way: make_files(folder / f"{way[0]}-{way[1]:g}", *way, speech) for way in sorted(wanted)}
        process = Watched(make_checkpoint(folder / "model", arguments.mel_bins), files, folder / "log")
        try:
            floors = process.floors()
            process.turn(dataclasses.replace(cases[0], windows=DISTINCT_FILES))  # a warm-up
            for number in range(arguments.rounds):
                say(f"round {number + 1} of {arguments.rounds}; load average {os.getloadavg()[0]:.1f}")
                for case in cases if number % 2 else cases[::-1]:
                    turns[case].append(turn := process.turn(case))
                    say(f"   {case}: {turn.per_s:.0f} windows/s, {turn.cpu:.1f} ms, GIL {turn.gil:.2f} ms")
        finally:
            process.close()
    text = report(turns, floors, facts)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
