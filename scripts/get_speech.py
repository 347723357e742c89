#!/usr/bin/env python3
"""Print the path of a manifest of real recorded speech with transcripts, fetching and unpacking it once.

    python scripts/get_speech.py [--cache DIR] demo|prompts-LANG|prompts-LANG-g722      LANG: en, es, fr, it, ru

The path (alone on stdout) is a JSONL file; each row has `id`, `audio_filepath` (absolute), `duration` (measured, s),
`text` and `lang`. It lies with its audio under `capabilities/` in DIR, else in the cache folder of get_model.py.
Progress goes to stderr. The order of the rows is always the same.

Sources: Debian packages, through `apt-get download` and `dpkg -x`, which need no root once package lists are there:
- pocketsphinx-testdata: 5 LibriVox utterances, 16 kHz (BSD-2-Clause)
- asterisk-core-sounds-LANG with -wav (8 kHz) or -g722 (16 kHz): telephone prompts by one voice (CC-BY-SA-3.0)
`demo` is the 5 and 7 English prompts; where Debian's packages cannot be had, it is the 3 English clips of the PyPI
package pytest-audioeval 0.1.3 (MIT) instead. Debian's versions move on, so what is checked is what is in the packages.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import soundfile
from get_model import GetModelError, Wheel, cache_folder, check_sha256, download, made_whole

LAYOUT = "v1"  # part of the cache path: raise it when the files written here change
SETS = ["demo", *(f"prompts-{lang}{codec}" for lang in ("en", "es", "fr", "it", "ru") for codec in ("", "-g722"))]
# 3 s to 73 s: the last one is longer than Whisper's 30 s.
DEMO_PROMPTS = ("tt-weasels", "conf-onlyone", "queue-youarenext", "demo-thanks", "tt-allbusy", "demo-moreinfo",
                "demo-instruct")  # fmt: skip
CLIPS = Wheel("pytest-audioeval", "0.1.3", "8b97369347232d43180dd9860189c547ccc8dedb42b7c21d511ddc5a05ef7ecc",
              "pytest_audioeval/samples/audio/en")  # fmt: skip

Recording = tuple[str, Path, str, str]  # id, audio file, transcript, language


class GetSpeechError(Exception):
    """A problem the user can act on; its text is one line."""


def say(message: str) -> None:
    print(f"get_speech: {message}", file=sys.stderr, flush=True)


# --- fetching -------------------------------------------------------------------------------------------------------


def unpack_debian(packages: list[str], folder: Path) -> Path:
    """Download `packages` and unpack them together; returns the folder that stands for `/`.

    Raises:
        GetSpeechError: no apt-get or dpkg here, or a package cannot be fetched.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise GetSpeechError(f"{', '.join(packages)}: these are Debian packages, and apt-get or dpkg is not here")
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    # Without the option apt as root complains that its own user may not write into our folder.
    fetch = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages)
    say(f"fetching the Debian packages {', '.join(packages)}")
    result = run(*fetch)
    if result.returncode != 0 and os.geteuid() == 0:
        say("the package lists are missing or old: running apt-get update")
        run("apt-get", "-qq", "update")
        result = run(*fetch)
    if result.returncode != 0:
        why = (result.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("E: ")
        raise GetSpeechError(f"apt-get download failed ({why}); if package lists are missing: sudo apt-get update")
    root = folder / "root"
    for package in sorted(folder.glob("*.deb")):
        if (result := run("dpkg", "-x", str(package), str(root))).returncode != 0:
            raise GetSpeechError(f"dpkg cannot unpack {package.name}: {result.stderr.strip()}")
    return root


def need(path: Path, root: Path) -> Path:
    """`path`, or an error that says what the packages unpacked in `root` no longer hold."""
    if not path.exists():
        raise GetSpeechError(f"the fetched packages do not hold {path.relative_to(root)}")
    return path


# --- transcripts ----------------------------------------------------------------------------------------------------


def librivox(root: Path) -> list[Recording]:
    """pocketsphinx's 5 utterances. Its transcripts are lines like `<s> he was not … </s> (utterance-id)`."""
    folder = root / "usr/share/pocketsphinx/test/data/librivox"
    recordings = []
    for line in need(folder / "transcription", root).read_text(encoding="utf-8").splitlines():
        text, id = re.fullmatch(r"<s> (.*) </s> \((\S+)\)", line.strip()).groups()
        recordings.append((id, need(folder / f"{id}.wav", root), text, "en"))
    return sorted(recordings)


def prompts(root: Path, lang: str, extension: str) -> list[Recording]:
    """Asterisk's prompts in one language, by key. Its transcripts are lines `key: text`.

    Left out: sounds that are not speech (their text starts with a bracket: `[ascending tones]`) and texts without a
    recording. A closing note to the reader (`dash [-]`) is cut off. Of a key given twice the first text counts.
    """
    path = need(root / f"usr/share/doc/asterisk-core-sounds-{lang}/core-sounds-{lang}.txt.gz", root)
    voices = sorted((root / "usr/share/asterisk/sounds").glob(f"{lang}_*"))
    if not voices:
        raise GetSpeechError(f"the fetched packages do not hold usr/share/asterisk/sounds/{lang}_*")
    texts = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines():
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";") and text.strip() and text.strip()[0] not in "[(<":
            texts.setdefault(key, " ".join(re.sub(r"[\[(][^\])]*[\])]\s*$", "", text).split()))
    files = {key: voices[0] / f"{key}.{extension}" for key in sorted(texts)}
    silent = [key for key, file in files.items() if not file.is_file()]
    if len(silent) == len(files):
        raise GetSpeechError(f"the fetched packages do not hold any .{extension} file in {voices[0].name}")
    if silent:
        say(f"no recording for {', '.join(silent)}: left out")
    return [(key, file, texts[key], lang) for key, file in files.items() if key not in silent]


def clips(folder: Path) -> list[Recording]:
    """The English clips of the PyPI package: NAME.wav and NAME.txt."""
    target = folder / "clips"
    target.mkdir()
    path = download(CLIPS, target)
    check_sha256(CLIPS, path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(target)
    files = sorted((target / CLIPS.folder).glob("*.wav"))
    return [(file.stem, file, file.with_suffix(".txt").read_text(encoding="utf-8").strip(), "en") for file in files]


def collect(name: str, scratch: Path) -> list[Recording]:
    """The recordings of the set `name` in manifest order, fetched into `scratch`."""
    if name == "demo":
        packages = ["pocketsphinx-testdata", "asterisk-core-sounds-en", "asterisk-core-sounds-en-wav"]
        try:
            root = unpack_debian(packages, scratch)
        except GetSpeechError as e:
            say(f"{e}; taking {CLIPS.requirement} from PyPI instead")
            return clips(scratch)
        english = {recording[0]: recording for recording in prompts(root, "en", "wav")}
        if lost := set(DEMO_PROMPTS) - set(english):
            raise GetSpeechError(f"the fetched packages do not hold the prompts {', '.join(sorted(lost))}")
        return librivox(root) + [english[key] for key in DEMO_PROMPTS]
    _, lang, *codec = name.split("-")
    extension = codec[0] if codec else "wav"
    texts = f"asterisk-core-sounds-{lang}"
    return prompts(unpack_debian([texts, f"{texts}-{extension}"], scratch), lang, extension)


# --- the cache ------------------------------------------------------------------------------------------------------


def duration_s(path: Path) -> float:
    """Length in seconds, to the millisecond. G.722 has no header: 64 kbit/s, a byte for 2 samples at 16 kHz."""
    if path.suffix == ".g722":
        return round(path.stat().st_size * 2 / 16000, 3)
    info = soundfile.info(str(path))
    return round(info.frames / info.samplerate, 3)


def write_set(recordings: Iterable[Recording], made: Path, final: Path) -> None:
    """Move the audio to `made`/audio and write `made`/manifest.jsonl as it will read when `made` is named `final`."""
    rows = []
    for id, source, text, lang in recordings:
        name = Path("audio", id + source.suffix)
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        row = {"id": id, "audio_filepath": str(final / name), "duration": duration_s(source), "text": text}
        source.rename(made / name)
        rows.append(json.dumps(row | {"lang": lang}, ensure_ascii=False) + "\n")
    (made / "manifest.jsonl").write_text("".join(rows), encoding="utf-8")


def is_whole(manifest: Path) -> bool:
    """Whether the manifest and every file that it names are there."""
    if not manifest.is_file():
        return False
    lines = manifest.read_text(encoding="utf-8").splitlines()
    return all(Path(json.loads(line)["audio_filepath"]).is_file() for line in lines)


def speech_manifest(name: str, cache: Path) -> Path:
    """The manifest of the set `name` (one of SETS), made first if `cache` has none.

    Raises:
        GetSpeechError, GetModelError: something cannot be fetched, or is not what it was.
    """
    folder = cache / "speech" / LAYOUT / name
    manifest = folder / "manifest.jsonl"
    made_whole(
        folder, lambda: is_whole(manifest), lambda made, scratch: write_set(collect(name, scratch), made, folder)
    )
    return manifest


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the path of a manifest of real speech, fetched on first use.")
    parser.add_argument("set", metavar="SET", choices=SETS, help=", ".join(SETS))
    parser.add_argument("--cache", metavar="DIR", type=Path, help="instead of the cache folder of get_model.py")
    arguments = parser.parse_args()
    try:
        print(speech_manifest(arguments.set, (arguments.cache or cache_folder()).absolute()))
    except (GetSpeechError, GetModelError, OSError, soundfile.LibsndfileError) as e:
        say(f"error: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
