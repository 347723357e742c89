"""Damages real audio files of every container and has the real decoder processes read them; prints what became of them.

    python scripts/fuzz_audio.py --count 20000 --seed 1 [--keep FOLDER]

Every input is asked for its header and then decoded, whole or in part, as a run does. It must end in samples that are
finite, or in an error of the row; a crash, a hang, more memory or more sound than its size explains are findings, and
--keep writes such inputs down. The first input of every file is the file itself, which must be decoded. Where a child's
memory stands is read from /proc, so this runs on Linux alone. Exits 1 when there is a finding."""

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile as sf
from fuzz_seeds import RATE, left_out, make_seeds

from asrbatch.audio.clip import Clip
from asrbatch.audio.decoder import Decoder
from asrbatch.audio.decoder_process import DecodeRequest, HeaderRequest
from asrbatch.errors import RowError

# What one input of some 10 to 200 KB may take. Two seconds of sound decode in 0.02 s.
MOST_S = 10.0
MOST_BYTES = 256 << 20  # beside what the process holds when it is idle
# Codecs can stand for silence with a byte or none; more than an hour from two seconds is not read, it is made.
MOST_AUDIO_S = 3600.0
_HEAD_BYTES = 512
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


@dataclass
class Outcome:
    """What became of the inputs made from one seed."""

    inputs: int = 0
    decoded: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    most_bytes: int = 0
    longest_s: float = 0.0
    findings: list[str] = field(default_factory=list)


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A damaged copy: one to four of flipped bytes, extreme numbers, cuts, gaps, repeats, and
    pieces of another file.
    """
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        at = rng.randrange(min(len(data), _HEAD_BYTES) if rng.random() < 0.6 else len(data)) if data else 0
        size = min(len(data) - at, int(2 ** rng.uniform(0, 13)))
        match rng.randrange(10):
            case 0 | 1 | 2:
                for _ in range(rng.choice((1, 2, 4, 16))):
                    if data:
                        data[min(len(data) - 1, at + rng.randrange(64))] = rng.randrange(256)
            case 3 | 4:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice((*_NUMBERS, rng.randrange(1 << 32))) % (1 << 8 * width)
                data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 5:
                del data[rng.randrange(len(data) + 1) :]
            case 6:
                del data[at : at + size]
            case 7:
                data[at:at] = data[at : at + size]
            case 8:
                data[at : at + size] = bytes(size) if rng.random() < 0.5 else rng.randbytes(size)
            case 9:
                other = rng.choice(others)
                cut = rng.randrange(len(other))
                data[at:] = other[cut:] if rng.random() < 0.5 else other[cut : cut + size] + data[at:]
    return bytes(data)


def inputs(seeds: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[int, str, bytes, dict]]:
    """(number, name of the seed, damaged file, which part of it to read); the same for the same arguments."""
    names, others = list(seeds), list(seeds.values())
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        name = names[number % len(names)]
        part = {}
        if rng.random() < 0.3:
            part = {"offset_s": rng.choice((0.1, 1.0, 6.0, 1e6)), "duration_s": rng.choice((None, 0.5, 30.0))}
        if rng.random() < 0.1:
            part["channel"] = rng.randrange(3)
        yield (
            (number, name, mutate(seeds[name], others, rng), part)
            if number >= len(names)
            else (number, name, seeds[name], {})
        )


def fuzz(
    seeds: dict[str, bytes],
    count: int,
    seed: int,
    *,
    num_workers: int = 2,
    keep: Path | None = None,
    say=lambda line: None,
) -> dict[str, Outcome]:
    """Reads so many inputs in decoder processes.

    Returns:
        What became of them, by name of the seed.
    """
    outcomes = {name: Outcome() for name in seeds}
    source, taking, noting = inputs(seeds, count, seed), threading.Lock(), threading.Lock()
    started = time.monotonic()

    def work() -> None:
        decoder, file = Decoder(timeout_s=MOST_S, log_fd=silent), Path(folder) / f"{threading.get_ident()}.g722"
        try:
            while True:
                with taking:
                    taken = next(source, None)
                if taken is None:
                    return
                number, name, data, part = taken
                if number // len(seeds) % 2:  # libsndfile reads a file by its descriptor, and bytes through callbacks
                    file = file.with_suffix(".g722" if name == "g722" else ".bin")
                    file.write_bytes(data)
                    result = _read(decoder, str(file), part, "")
                else:
                    result = _read(decoder, data, part, ".g722" if name == "g722" else "")
                if number < len(seeds) and result[0] is not None:
                    result[-1].append(f"the file itself is not decoded: {result[0]}")
                with noting:
                    _add(outcomes[name], *result, f"{seed}/{number}")
                    if keep is not None and result[-1]:
                        (keep / f"{seed}-{number}-{name.replace(' ', '-')}").write_bytes(data)
                if number % 1000 == 999:
                    findings = sum(len(outcome.findings) for outcome in outcomes.values())
                    say(f"{number + 1} inputs, {findings} findings, {time.monotonic() - started:.0f} s")
        finally:
            decoder.close()

    silent = os.open(os.devnull, os.O_WRONLY)  # what libraries print
    try:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_workers) as pool:
            for future in [pool.submit(work) for _ in range(num_workers)]:
                future.result()
    finally:
        os.close(silent)
    return outcomes


def _read(
    decoder: Decoder, data: str | bytes, part: dict, suffix: str
) -> tuple[str | None, float, int, float, list[str]]:
    """(error kind, seconds it took, bytes it took at most, seconds of sound, findings)."""
    decoder.start()
    before = _memory(decoder, reset=True)
    error, findings, num_samples = None, [], 0
    started = time.monotonic()
    try:
        for request in (
            HeaderRequest(data, Clip(f"x{suffix}")),
            DecodeRequest(data, Clip(f"x{suffix}", **part), RATE, min_samples=160),
        ):
            if isinstance(request, HeaderRequest):
                try:
                    decoder.read_header(request)
                except RowError as e:
                    findings += _blame(e)
                continue
            for block in decoder.stream(request):
                num_samples += len(block)
                if not np.isfinite(block).all():
                    findings.append("samples that are not finite")
                if num_samples > MOST_AUDIO_S * RATE:
                    findings.append(f"more than {MOST_AUDIO_S:g} s of sound")
                    break
    except RowError as e:
        error = e.kind
        findings += _blame(e)
    took_s = time.monotonic() - started
    used = max(0, _memory(decoder) - before) if decoder._process is not None else 0
    if took_s > MOST_S:
        findings.append(f"{took_s:.1f} s")
    if used > MOST_BYTES:
        findings.append(f"{used >> 20} MiB")
    return error, took_s, used, num_samples / RATE, findings


def _blame(error: RowError) -> list[str]:
    """An exception that nobody foresaw is told by its name; crashes and hangs by their kind."""
    if error.kind in ("decode_crash", "decode_timeout"):
        return [str(error)]
    words = error.message.split(": ")
    unforeseen = len(words) > 1 and words[1].endswith(("Error", "Exception"))
    return [str(error)] if unforeseen else []


def _memory(decoder: Decoder, reset: bool = False) -> int:
    """The most bytes that the child has held since the last reset; with `reset`, those it holds now."""
    pid = decoder._process.pid
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/{pid}/status tells no VmHWM")


def _add(
    outcome: Outcome, error: str | None, took_s: float, used: int, audio_s: float, findings: list[str], where: str
) -> None:
    outcome.inputs += 1
    outcome.decoded += error is None
    outcome.errors.update([error] if error else [])
    outcome.slowest_s = max(outcome.slowest_s, took_s)
    outcome.most_bytes = max(outcome.most_bytes, used)
    outcome.longest_s = max(outcome.longest_s, audio_s)
    outcome.findings += [f"{where}: {finding}" for finding in findings]


def table(outcomes: dict[str, Outcome]) -> list[str]:
    """Markdown, a line for each seed and one for all."""
    lines = [
        "| file | inputs | decoded | failed rows | slowest, s | most memory, MiB | findings |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in [*outcomes.items(), ("all", _sum(outcomes))]:
        failed = one.inputs - one.decoded
        lines.append(
            f"| {name} | {one.inputs:,} | {one.decoded:,} | {failed:,} | {one.slowest_s:.2f} | "
            f"{one.most_bytes / 2**20:.0f} "
            f"| {len(one.findings)} |"
        )
    errors = ", ".join(f"{kind} {count:,}" for kind, count in _sum(outcomes).errors.most_common())
    return [*lines, "", f"Failed rows by kind: {errors}."]


def _sum(outcomes: dict[str, Outcome]) -> Outcome:
    total = Outcome()
    for one in outcomes.values():
        total.inputs += one.inputs
        total.decoded += one.decoded
        total.errors.update(one.errors)
        total.slowest_s = max(total.slowest_s, one.slowest_s)
        total.most_bytes = max(total.most_bytes, one.most_bytes)
        total.findings += one.findings
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for inputs that are findings")
    parser.add_argument("--speech", type=Path, required=True, help="a recording to make the files from, 16 kHz, mono")
    asked = parser.parse_args()
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
    samples, rate = sf.read(asked.capabilities, dtype="float32", frames=int(1.5 * RATE))
    if rate != RATE or samples.ndim != 1:
        parser.error(f"--speech {asked.capabilities}: {rate} Hz, {samples.ndim} dimensions; must be 16 kHz, mono")
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(samples, Path(folder))
    if missing := left_out(seeds):
        _say(f"{len(missing)} kinds cannot be written here and are left out: {', '.join(missing)}")
    outcomes = fuzz(seeds, asked.count, asked.seed, num_workers=asked.workers, keep=asked.keep, say=_say)
    print("\n".join(table(outcomes)))
    findings = [f"{name} {finding}" for name, outcome in outcomes.items() for finding in outcome.findings]
    for finding in findings:
        _say(finding)
    return 1 if findings else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
