"""A small part of scripts/fuzz_audio.py, always the same: damaged files of every container in the real decoder
processes.
"""

import importlib
import sys

import pytest
import soundfile as sf
from conftest import REPO

COUNT = 400


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(REPO / "scripts"))
    try:
        return importlib.import_module("fuzz_audio"), importlib.import_module("fuzz_seeds")
    finally:
        sys.path.remove(str(REPO / "scripts"))


def test_no_damaged_file_crashes_hangs_or_swells_a_decoder(scripts, speech_wav, tmp_path):
    fuzz_audio, fuzz_seeds = scripts
    seeds = fuzz_seeds.make_seeds(sf.read(speech_wav, dtype="float32", frames=8000)[0], tmp_path)
    # PyAV's FFmpeg cannot write these; all others must be there, or they would go untried without a word.
    assert fuzz_seeds.left_out(seeds) == ["webm vorbis", "ogg speex", "caf aac"]
    outcomes = fuzz_audio.fuzz(seeds, COUNT, seed=1)
    assert [finding for outcome in outcomes.values() for finding in outcome.findings] == []
    total = fuzz_audio._sum(outcomes)
    assert total.inputs == COUNT and total.decoded >= len(seeds) and sum(total.errors.values()) == COUNT - total.decoded
    assert fuzz_audio.table(outcomes)[-3].startswith("| all | 400 |")


def test_the_same_seed_makes_the_same_inputs_and_findings_are_told(scripts, tmp_path):
    fuzz_audio, _ = scripts
    seeds = {"a": bytes(range(256)) * 4, "b": b"RIFF" * 300}
    assert (
        list(fuzz_audio.inputs(seeds, 50, 3))
        == list(fuzz_audio.inputs(seeds, 50, 3))
        != list(fuzz_audio.inputs(seeds, 50, 4))
    )
    outcomes = fuzz_audio.fuzz(
        seeds, 2, 3, num_workers=1, keep=tmp_path
    )  # what is no audio is not decoded, which is a finding
    assert [len(outcome.findings) for outcome in outcomes.values()] == [1, 1]
    assert outcomes["a"].findings[0] == "3/0: the file itself is not decoded: unreadable"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3-0-a", "3-1-b"]
