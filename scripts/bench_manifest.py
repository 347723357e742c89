"""How long a large manifest takes until its first row is handed to the engine, and how much memory it needs before
that.

    python scripts/bench_manifest.py --rows 1000000 --formats jsonl,csv,parquet,kaldi,webdataset

The rows are made up but for their audio, which is one real sentence. Each run is a process of its own that starts a
real engine on tiny.en, and stops when the engine has been given the first window. Prints a Markdown table: seconds of
the wall, the MiB of the process before the engine is asked for, and `CPU s`, what it computed until then, which a busy
machine changes less."""

import argparse
import io
import json
import platform
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TEXT = "he was " * 9


def make_jsonl(folder: Path, num_rows: int, audio: Path) -> Path:
    path = folder / "m.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for index in range(num_rows):
            row = {
                "audio_filepath": str(audio),
                "id": f"utterance-{index:08}",
                "duration": 2.5,
                "lang": "en",
                "text": TEXT,
            }
            file.write(json.dumps(row) + "\n")
    return path


def make_csv(folder: Path, num_rows: int, audio: Path) -> Path:
    path = folder / "m.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("audio_filepath,id,duration,lang,text\n")
        for index in range(num_rows):
            file.write(f"{audio},utterance-{index:08},2.5,en,{TEXT}\n")
    return path


def make_parquet(folder: Path, num_rows: int, audio: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, data = folder / "m.parquet", audio.read_bytes()[:2000]  # the audio of rows but the first is never read
    with pq.ParquetWriter(path, _schema(pa), compression="zstd") as writer:
        for start in range(0, num_rows, 10000):
            count = min(10000, num_rows - start)
            cells = [{"bytes": data if start + n else audio.read_bytes(), "path": None} for n in range(count)]
            ids = [f"utterance-{start + n:08}" for n in range(count)]
            columns = {
                "audio": cells,
                "id": ids,
                "duration": [2.5] * count,
                "lang": ["en"] * count,
                "text": [TEXT] * count,
            }
            writer.write_table(pa.table(columns, schema=_schema(pa)), row_group_size=1000)
    return path


def _schema(pa):
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [("audio", cell), ("id", pa.string()), ("duration", pa.float64()), ("lang", pa.string()), ("text", pa.string())]
    )


def make_kaldi(folder: Path, num_rows: int, audio: Path) -> Path:
    with (
        open(folder / "wav.scp", "w") as wavs,
        open(folder / "segments", "w") as segments,
        open(folder / "text", "w") as texts,
    ):
        wavs.write(f"recording {audio}\n")
        for index in range(num_rows):
            segments.write(f"utterance-{index:08} recording 0.0 2.5\n")
            texts.write(f"utterance-{index:08} {TEXT}\n")
    return folder


def make_webdataset(folder: Path, num_rows: int, audio: Path) -> Path:
    """The first row's audio is whole; that of the others is never read."""
    for first in range(0, num_rows, 100_000):
        with tarfile.open(folder / f"shard-{first // 100_000:03}.tar", "w") as tar:
            for index in range(first, min(first + 100_000, num_rows)):
                data = audio.read_bytes() if index == 0 else b"x" * 100
                for ending, content in (("wav", data), ("txt", TEXT.encode())):
                    info = tarfile.TarInfo(f"utterance-{index:08}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


MAKERS = {
    "jsonl": make_jsonl,
    "csv": make_csv,
    "parquet": make_parquet,
    "kaldi": make_kaldi,
    "webdataset": make_webdataset,
}


def measure(source: str, model: str, output: str) -> dict:
    """One run until the first window, in this process."""
    started = time.monotonic()
    from asrbatch.config import EngineConfig, RunConfig
    from asrbatch.engine.engine import start_engine
    from asrbatch.runs.progress import Stop
    from asrbatch.runs.runner import run

    stop, seen = Stop(), {}

    def start(spec, deliver, on_step):
        seen["before_s"] = time.monotonic() - started
        seen["cpu_s"] = time.process_time()
        seen["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        engine = start_engine(spec, deliver, on_step)
        seen["engine_s"] = time.monotonic() - started - seen["before_s"]
        submit = engine.submit

        def first(*arguments, **named):
            seen.setdefault("first_s", time.monotonic() - started)
            stop.request()
            return submit(*arguments, **named)

        engine.submit = first
        return engine

    config = RunConfig(
        manifest=source, engine=EngineConfig(model=model), output=output, language="en", max_windows=4, workers=1
    )
    seen["rows"] = run(config, stop=stop, start=start).progress.total_rows
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--formats", default=",".join(MAKERS))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    model = _output_of(REPO / "scripts/get_model.py", "tiny.en")
    speech = Path(_output_of(REPO / "scripts/get_speech.py", "demo"))
    row = next(row for row in map(json.loads, speech.open()) if "0880" in row["audio_filepath"])
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {options.rows:,} rows\n")
    print("| format | size MB | until the engine's start s | CPU s | MiB | engine's start s | first window after s |")
    print("|---|---|---|---|---|---|---|")
    for name in options.formats.split(","):
        folder = Path(tempfile.mkdtemp(prefix="asrbatch-bench-"))
        try:
            (folder / "m").mkdir()
            source = MAKERS[name](folder / "m", options.rows, Path(row["audio_filepath"]))
            size = sum(file.stat().st_size for file in (folder / "m").iterdir()) / 1e6
            seen = json.loads(
                _output_of(Path(__file__), "--measure", str(source), model, str(folder / "out.jsonl")).splitlines()[-1]
            )
            assert seen["rows"] == options.rows
            figures = [round(seen[each], 1) for each in ("before_s", "cpu_s", "mib", "engine_s", "first_s")]
            print(f"| {name} | {size:.0f} | {' | '.join(map(str, figures))} |", flush=True)
        finally:
            shutil.rmtree(folder)


def _output_of(script: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=REPO, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
