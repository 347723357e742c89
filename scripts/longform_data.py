#!/usr/bin/env python3
"""Print the path of a manifest of long recordings made of real utterances, whose boundaries and transcripts are known.

    python scripts/longform_data.py librivox|prompts|adverse|single|hour|prompts-fr

The path (alone on stdout) is a JSONL file of one row: `id`, `audio_filepath` (absolute), `duration` (s), `text`, `lang`
and `utterances`, a list of `{start, end, text}` in seconds from the recording's start. It lies with its audio (FLAC, 16
kHz, mono, 16 bits) under `longform/` in the cache folder of get_model.py and is made on first use; every machine makes
the same.

- librivox: get_speech.py's 5 LibriVox utterances, six times in another order
- prompts, prompts-fr: the telephone prompts of three words or more, one after another; between them 0.3 to 1.5 s of
  nothing
- adverse: the English ones in scenes. Each begins with 3 to 60 s without speech: digital silence, white noise, pink
  noise or music; noise goes on under the scene's utterances, music does not. An utterance has `background` as well
- single: the longest prompt, alone: 73 s of one voice without a cut
- hour: the English prompts, as often as fills an hour, with 0.3 to 3 s of nothing between them

Left out are prompts that spell or count (letters, digits, the phonetic alphabet: where neighbouring numbers are joined
into one differs from text to text, which is no error of hearing) and those longer than Whisper's 30 s (they cannot be
heard one by one). The speech comes from get_speech.py; the music is Debian's asterisk-moh-opsound-wav (CC-BY-SA-3.0),
telephone music on hold."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from get_model import GetModelError, cache_folder, made_whole
from get_speech import GetSpeechError, is_whole, need, speech_manifest, unpack_debian

from asrbatch.audio.clip import Clip
from asrbatch.audio.load import stream_audio

LAYOUT = "v1"  # part of the cache path: raise it when what is made here changes
SAMPLE_RATE = 16_000  # Hz, of every Whisper
MUSIC = "asterisk-moh-opsound-wav"
WINDOW_S = 30.0  # what Whisper hears at once
HOUR_S = 3600.0
ADVERSE_S = 1200.0  # the scenes of `adverse` go on until so much is full
SCENE_SPEECH_S = 30.0
LIBRIVOX_TIMES = 6
MIN_WORDS = 3
SPELLED = ("digits/", "letters/", "phonetic/")
# What a scene of `adverse` begins with, and how many dB its speech is louder (by mean power).
BACKGROUNDS = (
    *(("silence", 0),) * 2,
    *(("white", db) for db in (10, 20, 30)),
    *(("pink", db) for db in (10, 20, 30)),
    *(("music", db) for db in (0, 10, 20)),
)


@dataclass(frozen=True)
class Speech:
    """A piece of speech: `samples` is 1-D float32 at 16 kHz."""

    text: str
    samples: np.ndarray


@dataclass
class Tape:
    """A recording as it grows: pieces of audio, and which of them is whose."""

    pieces: list[np.ndarray] = field(default_factory=list)
    utterances: list[dict] = field(default_factory=list)
    num_samples: int = 0

    def add(self, samples: np.ndarray) -> None:
        self.pieces.append(samples.astype(np.float32))
        self.num_samples += len(samples)

    def log(self, utterance: Speech, over: np.ndarray | None = None, **more: str) -> None:
        """Adds an utterance, mixed with the audio `over` (as long, or None)."""
        start = self.num_samples
        self.add(utterance.samples if over is None else utterance.samples + over)
        times = {"start": start / SAMPLE_RATE, "end": self.num_samples / SAMPLE_RATE}
        self.utterances.append(times | {"text": utterance.text} | more)

    @property
    def seconds(self) -> float:
        return self.num_samples / SAMPLE_RATE


# --- recordings -----------------------------------------------------------------------------------------------------


def in_a_row(utterances: Sequence[Speech], random: np.random.Generator, gaps_s: tuple[float, float]) -> Tape:
    """All utterances in a random order, with silences of so many seconds (shortest, longest) around
    and between them.
    """
    tape = Tape()
    for i in random.permutation(len(utterances)):
        tape.add(silence(random.uniform(*gaps_s)))
        tape.log(utterances[i])
    tape.add(silence(random.uniform(*gaps_s)))
    return tape


def repeated(
    utterances: Sequence[Speech], random: np.random.Generator, gaps_s: tuple[float, float], until_s: float
) -> Tape:
    """Rounds of the utterances, each in another order, until the next one would not end by `until_s`."""
    tape = Tape()
    while True:
        for i in random.permutation(len(utterances)):
            gap = silence(random.uniform(*gaps_s))
            if tape.num_samples + len(gap) + len(utterances[i].samples) > until_s * SAMPLE_RATE:
                return tape
            tape.add(gap)
            tape.log(utterances[i])


def scenes(utterances: Sequence[Speech], random: np.random.Generator, music: Sequence[np.ndarray]) -> Tape:
    """`adverse`: every kind of background once before any comes again."""
    tape = Tape()
    order = iter(random.permutation(len(utterances)))
    while tape.seconds < ADVERSE_S:
        for i in random.permutation(len(BACKGROUNDS)):
            said = group(utterances, order)
            if not said:
                return tape
            play_scene(tape, said, random, *BACKGROUNDS[i], music)
    return tape


def group(utterances: Sequence[Speech], order: Iterator[int]) -> list[Speech]:
    """The next utterances, until they are `SCENE_SPEECH_S` long."""
    said: list[Speech] = []
    for i in order:
        said.append(utterances[i])
        if sum(len(u.samples) for u in said) >= SCENE_SPEECH_S * SAMPLE_RATE:
            break
    return said


def play_scene(
    tape: Tape, said: list[Speech], random: np.random.Generator, kind: str, db: int, music: Sequence[np.ndarray]
) -> None:
    gaps = [round(random.uniform(0.3, 1.5) * SAMPLE_RATE) for _ in said]
    lead = round(float(np.exp(random.uniform(np.log(3), np.log(60)))) * SAMPLE_RATE)
    total = lead + sum(gaps) + sum(len(u.samples) for u in said)
    level = rms(np.concatenate([u.samples for u in said])) * 10 ** (-db / 20)
    if kind == "music":
        sound = np.zeros(total, np.float32)
        sound[:lead] = excerpt(music[random.integers(len(music))], lead, random)
        sound[:lead] *= level / max(rms(sound[:lead]), 1e-9)
    elif kind == "silence":
        sound = np.zeros(total, np.float32)
    else:
        sound = noise(kind, total, random) * level
    label = kind if kind == "silence" else f"{kind} {db} dB"
    tape.add(sound[:lead])
    at = lead
    for utterance, gap in zip(said, gaps, strict=True):
        tape.log(utterance, sound[at : at + len(utterance.samples)], background=label)
        at += len(utterance.samples)
        tape.add(sound[at : at + gap])
        at += gap


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def noise(kind: str, num_samples: int, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise of mean power 1: `white`, or `pink` (power falls as 1/f, from 20 Hz on)."""
    white = random.standard_normal(num_samples)
    if kind == "pink":
        spectrum = np.fft.rfft(white)
        frequencies = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
        white = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 20.0)), num_samples)
    return (white / rms(white)).astype(np.float32)


def excerpt(piece: np.ndarray, num_samples: int, random: np.random.Generator) -> np.ndarray:
    """A random part of a piece of music, `num_samples` long; the piece is longer."""
    start = int(random.integers(len(piece) - num_samples))
    return piece[start : start + num_samples]


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


# --- sets -----------------------------------------------------------------------------------------------------------


def speech(name: str, keep: Callable[[dict], bool]) -> list[Speech]:
    """The recordings of one of get_speech.py's sets whose rows `keep` accepts, in its order."""
    lines = speech_manifest(name, cache_folder()).read_text(encoding="utf-8").splitlines()
    return [Speech(row["text"], read_samples(row["audio_filepath"])) for row in map(json.loads, lines) if keep(row)]


def is_sentence(row: dict) -> bool:
    return not row["id"].startswith(SPELLED) and len(row["text"].split()) >= MIN_WORDS and row["duration"] <= WINDOW_S


def read_music(folder: Path) -> list[np.ndarray]:
    root = unpack_debian([MUSIC], folder)
    files = sorted(need(root / "usr/share/asterisk/moh", root).glob("*.wav"))
    return [read_samples(str(file)) for file in files]


def read_samples(path: str) -> np.ndarray:
    """1-D float32, mono, 16 kHz."""
    with closing(stream_audio(path, Clip(path), SAMPLE_RATE)) as stream:
        return np.concatenate(list(stream))


def librivox(random: np.random.Generator, _scratch: Path) -> Tape:
    utterances = speech("demo", lambda row: "austen" in row["id"])
    tape = Tape()
    for _ in range(LIBRIVOX_TIMES):
        for i in random.permutation(len(utterances)):
            tape.add(silence(random.uniform(0.3, 1.0)))
            tape.log(utterances[i])
    return tape


def single(_random: np.random.Generator, _scratch: Path) -> Tape:
    tape = Tape()
    tape.log(speech("demo", lambda row: row["id"] == "demo-instruct")[0])
    return tape


SETS: dict[str, tuple[str, Callable[[np.random.Generator, Path], Tape]]] = {  # language, recording
    "librivox": ("en", librivox),
    "prompts": ("en", lambda random, _: in_a_row(speech("prompts-en", is_sentence), random, (0.3, 1.5))),
    "adverse": ("en", lambda random, scratch: scenes(speech("prompts-en", is_sentence), random, read_music(scratch))),
    "single": ("en", single),
    "hour": ("en", lambda random, _: repeated(speech("prompts-en", is_sentence), random, (0.3, 3.0), HOUR_S)),
    "prompts-fr": ("fr", lambda random, _: in_a_row(speech("prompts-fr", is_sentence), random, (0.3, 1.5))),
}


def write(name: str, made: Path, final: Path, scratch: Path) -> None:
    """Write `made`/manifest.jsonl and its audio, as it will read when `made` is named `final`."""
    lang, record = SETS[name]
    tape = record(np.random.default_rng(list(name.encode())), scratch)
    samples = np.concatenate(tape.pieces)
    soundfile.write(made / f"{name}.flac", np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    row = {
        "id": name,
        "audio_filepath": str(final / f"{name}.flac"),
        "duration": tape.seconds,
        "text": " ".join(u["text"] for u in tape.utterances),
        "lang": lang,
        "utterances": tape.utterances,
    }
    (made / "manifest.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")


def longform_manifest(name: str) -> Path:
    """The manifest of the set `name` (a key of SETS), made first if the cache has none.

    Raises:
        GetSpeechError, GetModelError: something cannot be fetched, or is not what it was.
    """
    folder = cache_folder() / "longform" / LAYOUT / name
    manifest = folder / "manifest.jsonl"
    made_whole(folder, lambda: is_whole(manifest), lambda made, scratch: write(name, made, folder, scratch))
    return manifest


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the path of a manifest of a long recording, made on first use.")
    parser.add_argument("set", metavar="SET", choices=SETS, help=", ".join(SETS))
    try:
        print(longform_manifest(parser.parse_args().set))
    except (GetSpeechError, GetModelError, OSError, soundfile.LibsndfileError) as e:
        print(f"longform_data: error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
