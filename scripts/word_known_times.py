#!/usr/bin/env python3
"""How far are times of words from where the words are? asrbatch beside faster-whisper and openai-whisper.

    python scripts/word_known_times.py [--model tiny.en,base] [--only TEXT] [--list 5]

Recordings whose words' places are known, all made by this script or longform_data.py:

- flite, short; flite, 10 minutes: prompts read by three of flite's voices, each a recording; or put together with 0.3
  to 1.5 s between them. flite says where each phoneme ends, and so where each word as it is written begins and ends
- prompts; prompts-fr: real recordings, English and French, put together in the same way: three times 10 minutes, and
  once. Known are the first word's start and the last one's end of each: where a recording is first and last louder
  than 35 dB below its loudest 10 ms
- hour: the same of an hour of English prompts; for a clock that drifts, its first and last five minutes, and prompts
  that come twice

All systems have the same weights in float32 and decode greedily, without previous text. Words that all of them wrote
as the text has them, alike but for case and punctuation, are compared. The error is that of a start or an end, in ms:
the median of its size with a 95 % interval (bootstrap by word), the 90th percentile of its size, and its median with
its sign. A second table has by how much ours are above the best of the others, over the same words. `--list` names the
words with the largest errors. What systems answered is kept in the cache and used again.

Not measured: whisperX, whose alignment models are on no package index; overlapping speakers; noise.
"""

import argparse
import ctypes
import hashlib
import json
import statistics
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import longform
import numpy as np
import soundfile
from get_model import cache_folder, made_whole, model_folder
from get_speech import is_whole, need, unpack_debian
from longform_data import HOUR_S, SAMPLE_RATE, Speech, Tape, in_a_row, is_sentence, longform_manifest, silence, speech
from speech_common import read_samples, say

import asrbatch
from asrbatch.evaluation.alignment import alignment

LAYOUT = "v2"  # part of the cache path: raise it when what is made here changes
TAPES = {"prompts-en": 3, "prompts-fr": 1}  # of ten minutes each
VOICES = ("slt", "rms", "awb")
LIBRARIES = ("libflite", "libflite_cmulex", "libflite_usenglish")
SHORT, TEN_MINUTES_S, FIVE_MINUTES_S = 90, 600, 300
GAPS_S = (0.3, 1.5)
QUIET_DB, FRAME = 35, 160  # below the loudest frame is no speech; samples
PEERS = ("faster-whisper", "openai-whisper")
OURS = {"asrbatch energy": "energy", "asrbatch sequential": "sequential"}
SETS = {"tiny.en": ("flite, short", "flite, 10 minutes", "prompts", "hour"), "base": ("flite, short", "prompts-fr")}


class KnownWord(NamedTuple):
    """A word of a recording; a time that nobody knows is None."""

    text: str
    start_s: float | None
    end_s: float | None


# --- flite ----------------------------------------------------------------------------------------------------------


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p), ("sample_rate", ctypes.c_int), ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int), ("samples", ctypes.POINTER(ctypes.c_short)),
    ]  # fmt: skip


class Flite:
    """The library from an unpacked package, with its voices.

    Args:
        folder: of `libflite.so.1`.
    """

    def __init__(self, folder: Path):
        # One needs another's symbols, and the folder is none that the loader looks in.
        loaded = [ctypes.CDLL(str(folder / f"{name}.so.1"), mode=ctypes.RTLD_GLOBAL) for name in LIBRARIES]
        self._library = loaded[0]
        self._call("flite_init")
        self._voices = {}
        for name in VOICES:
            register = getattr(ctypes.CDLL(str(folder / f"libflite_cmu_us_{name}.so.1")), f"register_cmu_us_{name}")
            register.restype = ctypes.c_void_p
            self._voices[name] = ctypes.c_void_p(register(None))

    def say(self, text: str, voice: str) -> tuple[np.ndarray, list[KnownWord]]:
        """Float32 at 16 kHz, and the words as they are written, by white space."""
        utterance = self._call("flite_synth_text", ctypes.c_char_p(text.encode()), self._voices[voice])
        wave = ctypes.cast(self._call("utt_wave", utterance), ctypes.POINTER(_Wave)).contents
        if (wave.sample_rate, wave.num_channels) != (SAMPLE_RATE, 1):
            sys.exit(f"voice {voice} is not 16 kHz, mono")
        samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 32768
        words, token = [], self._call("relation_head", self._call("utt_relation", utterance, b"Token"))
        while token.value:
            begin = self._number(token, "daughter1.R:SylStructure.daughter1.daughter1.R:Segment.p.end")
            end = self._number(token, "daughtern.R:SylStructure.daughtern.daughtern.R:Segment.end")
            words.append(KnownWord(self._call("ffeature_string", token, b"name", kind=ctypes.c_char_p), begin, end))
            token = self._call("item_next", token)
        self._call("delete_utterance", utterance)
        return samples, [word._replace(text=word.text.decode()) for word in words]

    def _call(self, name: str, *arguments: Any, kind: Any = ctypes.c_void_p) -> Any:
        function = getattr(self._library, name)
        function.restype = kind
        found = function(*arguments)
        return ctypes.c_void_p(found) if kind is ctypes.c_void_p else found

    def _number(self, item: ctypes.c_void_p, feature: str) -> float:
        return float(self._call("ffeature_float", item, feature.encode(), kind=ctypes.c_float))


# --- recordings -----------------------------------------------------------------------------------------------------


def sentences(name: str) -> list[Speech]:
    return speech(name, is_sentence)


def read_by_flite(scratch: Path) -> Iterator[tuple[np.ndarray, list[KnownWord]]]:
    """Prompts without digits, which flite reads as other words than they are written."""
    root = unpack_debian(["libflite1"], scratch)
    flite = Flite(next(need(root / "usr/lib", root).glob("*/libflite.so.1")).parent)
    texts = [each.text for each in sentences("prompts-en") if not any(map(str.isdigit, each.text))]
    for number in np.random.default_rng(0).permutation(len(texts)):
        yield flite.say(texts[number], VOICES[number % len(VOICES)])


def moved(words: Sequence[KnownWord], by_s: float) -> list[KnownWord]:
    return [KnownWord(word.text, word.start_s + by_s, word.end_s + by_s) for word in words]


def write_flite(made: Path, final: Path, scratch: Path) -> None:
    random, tape, rows, known = np.random.default_rng(1), Tape(), [], []
    for number, (samples, words) in enumerate(read_by_flite(scratch)):
        if number < SHORT:
            rows.append(_written(f"short-{number:03d}", samples, words, made, final))
        if tape.seconds < TEN_MINUTES_S:
            tape.add(silence(random.uniform(*GAPS_S)))
            known += moved(words, tape.seconds)
            tape.add(samples)
    rows.append(_written("long", np.concatenate(tape.pieces), known, made, final))
    longform.write_rows(made / "manifest.jsonl", rows)


def _written(
    id: str, samples: np.ndarray, words: Sequence[KnownWord], made: Path, final: Path, lang: str = "en"
) -> dict[str, Any]:
    soundfile.write(made / f"{id}.flac", np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    path, duration = str(final / f"{id}.flac"), len(samples) / SAMPLE_RATE
    return {"id": id, "audio_filepath": path, "duration": duration, "lang": lang, "words": words}


def write_prompts(name: str, made: Path, final: Path, _scratch: Path) -> None:
    lang, rows = name.removeprefix("prompts-"), []
    for number in range(TAPES[name]):
        tape = in_a_row(sentences(name), np.random.default_rng(2 + number), GAPS_S)
        samples = np.concatenate(tape.pieces)[: TEN_MINUTES_S * SAMPLE_RATE]
        said = [each for each in tape.utterances if each["end"] < TEN_MINUTES_S]
        rows.append(_written(f"{name}-{number}", samples, edge_words(samples, said), made, final, lang))
    longform.write_rows(made / "manifest.jsonl", rows)


def edge_words(samples: np.ndarray, utterances: Sequence[dict[str, Any]]) -> list[KnownWord]:
    """All words; of the first and last of each utterance one time is known."""
    known = []
    for said in utterances:
        words, first = said["text"].split(), round(said["start"] * SAMPLE_RATE)
        frames = samples[first : round(said["end"] * SAMPLE_RATE)]
        levels = np.square(frames[: len(frames) // FRAME * FRAME].reshape(-1, FRAME)).mean(1)
        loud = np.flatnonzero(levels > levels.max() * 10 ** (-QUIET_DB / 10))
        start, end = ((first + at * FRAME) / SAMPLE_RATE for at in (loud[0], loud[-1] + 1))
        known += [
            KnownWord(word, start if at == 0 else None, end if at == len(words) - 1 else None)
            for at, word in enumerate(words)
        ]
    return known


def recordings(name: str) -> list[dict[str, Any]]:
    """Manifest rows of a set, each with its `words`."""
    if name == "hour":
        [row] = longform.read_rows(longform_manifest("hour"))
        samples = read_samples(row["audio_filepath"])
        kept = {key: row[key] for key in ("id", "audio_filepath", "duration", "lang")}
        return [{**kept, "words": edge_words(samples, row["utterances"]), "utterances": row["utterances"]}]
    kind = "flite" if name.startswith("flite") else {"prompts": "prompts-en"}.get(name, name)
    folder = cache_folder() / "words" / LAYOUT / kind
    manifest = folder / "manifest.jsonl"
    write = write_flite if kind == "flite" else partial(write_prompts, kind)
    made_whole(folder, lambda: is_whole(manifest), lambda made, scratch: write(made, folder, scratch))
    rows = [{**row, "words": [KnownWord(*word) for word in row["words"]]} for row in longform.read_rows(manifest)]
    return [row for row in rows if kind != "flite" or (row["id"] == "long") == (name != "flite, short")]


# --- systems and errors ---------------------------------------------------------------------------------------------


def said_by(system: str, model: str, rows: list[dict[str, Any]]) -> list[list[KnownWord]]:
    """The words of each recording, as a system heard them."""
    say(f"{model}: {system}: {rows[0]['id']} and {len(rows) - 1} more")
    manifest = [{key: row[key] for key in ("id", "audio_filepath", "duration", "lang")} for row in rows]
    answers = kept_answers(system, model, manifest)
    by_id = {row["id"]: row for row in answers}
    return [
        [KnownWord(w["word"], w["start"], w["end"]) for s in by_id[row["id"]]["segments"] for w in s["words"]]
        for row in rows
    ]


def kept_answers(system: str, model: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From the cache while recordings, settings and our source are the same."""
    is_ours = system in OURS
    asked = [longform.source_digest(), rows] if is_ours else [longform.SYSTEMS[system][1], rows, longform.OPENAI]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    kept = cache_folder() / "words" / "results" / LAYOUT / f"{model}-{system}-{key}.json"
    if not kept.is_file():
        answers = (
            run_asrbatch(system, model, rows) if is_ours else longform.run_peer(system, model, rows, "--words")["rows"]
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.with_suffix(".partial").write_text(json.dumps(answers), encoding="utf-8")
        kept.with_suffix(".partial").replace(kept)
    return json.loads(kept.read_text(encoding="utf-8"))


def run_asrbatch(system: str, model: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="asrbatch-words-") as scratch:
        summary = asrbatch.transcribe(
            longform.write_rows(Path(scratch, "m.jsonl"), rows),
            model=model_folder(model),
            dtype="float32",
            word_timestamps=True,
            windows=OURS[system],
            output=Path(scratch, "out.jsonl"),
        )
        return list(summary.rows())


def heard(known: Sequence[KnownWord], said: Sequence[KnownWord]) -> dict[int, int]:
    """Which word of what is said is the same as which that is known, by their places."""
    places, texts = [], []
    for words in (known, said):
        # What is written as two words, or as a mark alone, is compared with nothing.
        kept = [(n, plain(word.text)) for n, word in enumerate(words) if plain(word.text)]
        places.append([n for n, _ in kept])
        texts.append(" ".join(text for _, text in kept))
    found, at, at_said = {}, 0, 0
    for kind, number, number_said in alignment(*texts, in_words=True, with_compounds=False):
        if kind == "equal":
            found |= {places[0][at + n]: places[1][at_said + n] for n in range(number)}
        at, at_said = at + number, at_said + number_said
    return found


def plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


Errors = list[tuple[int, str, str, float, float]]  # recording, "start" or "end", word, second, error in seconds


def errors_of(rows: Sequence[dict[str, Any]], said: dict[str, list[list[KnownWord]]]) -> dict[str, Errors]:
    """For each system its errors at the times that are known of words that all systems heard."""
    found: dict[str, Errors] = {system: [] for system in said}
    for number, row in enumerate(rows):
        pairs = {system: heard(row["words"], words[number]) for system, words in said.items()}
        common = set.intersection(*(set(each) for each in pairs.values()))
        for system, words in said.items():
            for at in sorted(common):
                known, word = row["words"][at], words[number][pairs[system][at]]
                for which in ("start", "end"):
                    second, told = getattr(known, f"{which}_s"), getattr(word, f"{which}_s")
                    if second is not None:
                        found[system].append((number, which, known.text, second, told - second))
    return found


def off_by(errors: Errors, which: str) -> np.ndarray:
    return 1000 * np.array([error for _, kind, *_, error in errors if kind == which])


def beside_table(model: str, name: str, found: dict[str, Errors]) -> list[str]:
    """By how much our errors are above those of the best of the others, drawn together, in ms with a 95 % interval."""
    lines = []
    for which in ("start", "end"):
        sizes = {system: abs(off_by(errors, which)) for system, errors in found.items()}
        drawn = np.random.default_rng(0).integers(len(sizes[PEERS[0]]), size=(2000, len(sizes[PEERS[0]])))
        for system in OURS:
            cells = [model, name, system, which]
            for percent in (50, 90):
                best = min(PEERS, key=lambda peer: np.percentile(sizes[peer], percent))
                above = [
                    np.percentile(sizes[system][draw], percent) - np.percentile(sizes[best][draw], percent)
                    for draw in (np.arange(len(sizes[best])), *drawn)
                ]
                low, high = np.percentile(above[1:], (2.5, 97.5))
                cells.append(f"{above[0]:+.0f} ({low:+.0f} to {high:+.0f})")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def figures(errors: Errors, which: str) -> list[str]:
    """Median of the sizes with its interval, 90th percentile of the sizes, median with its sign; ms."""
    off = off_by(errors, which)
    drawn = np.random.default_rng(0).integers(len(off), size=(2000, len(off)))
    low, high = np.percentile(np.median(abs(off)[drawn], axis=1), (2.5, 97.5))
    middle = f"{np.median(abs(off)):.0f} ({low:.0f} to {high:.0f})"
    return [middle, f"{np.percentile(abs(off), 90):.0f}", f"{np.median(off):+.0f}"]


def table(model: str, name: str, found: dict[str, Errors]) -> None:
    one = next(iter(found.values()))
    counts = [sum(kind == which for _, kind, *_ in one) for which in ("start", "end")]
    for system, errors in found.items():
        cells = [model, name, system, *map(str, counts), *figures(errors, "start"), *figures(errors, "end")]
        print(f"| {' | '.join(cells)} |", flush=True)


def drift_table(model: str, found: dict[str, Errors], utterances: Sequence[dict[str, Any]]) -> None:
    heads = "first five minutes | last five minutes | said again later | 95 % interval | pairs | minutes apart"
    print(f"\n| model | system | signed error of | {heads} |\n|---|---|---|{'---:|' * 6}")
    for system, errors in found.items():
        for which in ("start", "end"):
            of_kind = [error for error in errors if error[1] == which]
            first, last = ([e for e in of_kind if s <= e[3] < s + FIVE_MINUTES_S] for s in (0, HOUR_S - FIVE_MINUTES_S))
            signed = [figures(part, which)[2] for part in (first, last)]
            cells = [model, system, which, *signed, *later(of_kind, utterances)]
            print(f"| {' | '.join(cells)} |", flush=True)


def later(errors: Errors, utterances: Sequence[dict[str, Any]]) -> list[str]:
    """By how much the error of a prompt's last appearance is above that of its first, at least ten minutes before."""
    starts, by_text = [said["start"] for said in utterances], {}
    for *_, second, error in errors:
        text = utterances[bisect_right(starts, second) - 1]["text"]
        by_text.setdefault(text, []).append((second, 1000 * error))
    pairs = [(min(each), max(each)) for each in by_text.values()]
    pairs = [(first, last) for first, last in pairs if last[0] - first[0] > 600]
    above = np.array([last[1] - first[1] for first, last in pairs])
    drawn = np.random.default_rng(0).integers(len(above), size=(2000, len(above)))
    low, high = np.percentile(np.median(above[drawn], axis=1), (2.5, 97.5))
    apart = statistics.median((last[0] - first[0]) / 60 for first, last in pairs)
    return [f"{np.median(above):+.0f}", f"{low:+.0f} to {high:+.0f}", str(len(pairs)), f"{apart:.0f}"]


def list_worst(found: dict[str, Errors], number: int) -> None:
    for system, errors in found.items():
        for recording, which, word, second, error in sorted(errors, key=lambda each: -abs(each[-1]))[:number]:
            say(f"{system}: {which} of {word!r}, recording {recording}, {second:.2f} s: {1000 * error:+.0f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare times of words with known ones.")
    parser.add_argument("--model", default="tiny.en,base", help=f"of {','.join(SETS)}; with commas")
    parser.add_argument("--only", default="", metavar="TEXT", help="of the sets those whose names contain this")
    parser.add_argument("--list", type=int, default=0, metavar="N", help="name so many words with the largest errors")
    options = parser.parse_args()
    head = "model | recordings | system | starts | ends | start: median | 90 % | signed | end: median | 90 % | signed"
    print(f"| {head} |\n|---|---|---{'|---:' * 8}|")
    drifts, beside = {}, []
    for model in options.model.split(","):
        for name in filter(lambda each: options.only in each, SETS[model]):
            rows = recordings(name)
            found = errors_of(rows, {system: said_by(system, model, rows) for system in (*OURS, *PEERS)})
            list_worst(found, options.list)
            table(model, name, found)
            beside += beside_table(model, name, found)
            if name == "hour":
                drifts[model] = found, rows[0]["utterances"]
    heads = "above the best of the others: median | 90 %"
    print(f"\n| model | recordings | system | of | {heads} |\n|---|---|---|---{'|---:' * 2}|", *beside, sep="\n")
    for model, (found, utterances) in drifts.items():
        drift_table(model, found, utterances)
    return 0


if __name__ == "__main__":
    sys.exit(main())
