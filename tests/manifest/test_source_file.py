"""Source files, and the Open ASR Leaderboard's sets as such: read by the real clients from a hub of our own with their
layout.
"""

import json

import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPO, write_jsonl

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError, UsageError
from asrbatch.manifest.manifest import open_manifest

SETS = sorted((REPO / "manifests" / "open-asr").glob("*.toml"))
# Configuration and split of each, as the leaderboard's run_whisper.sh has them.
LEADERBOARD = {
    ("voxpopuli", "test"), ("ami", "test"), ("earnings22", "test"), ("gigaspeech", "test"), ("librispeech",
    "test.clean"),
    ("librispeech", "test.other"), ("spgispeech", "test"), ("tedlium", "test"),
}  # fmt: skip


def test_the_sets_of_the_leaderboard_are_read_from_a_hub_with_their_layout(cli, speech_wav, tmp_path):
    repo = tmp_path / "hub" / "hf-audio" / "esb-datasets-test-only-sorted"
    splits: dict[str, list[str]] = {}
    for config, split in sorted(LEADERBOARD):
        splits.setdefault(config, []).append(split)
        (repo / config).mkdir(parents=True, exist_ok=True)
        row = {"dataset": config, "text": "the reference", "id": f"{config}-{split}-1", "audio_length_s": 5.0}
        cell = {"bytes": speech_wav.read_bytes(), "path": "1.wav"}
        pq.write_table(
            pa.Table.from_pylist([{"audio": cell, **row}]), repo / config / f"{split}-00000-of-00001.parquet"
        )
    card = ["---", "configs:"]
    for config, names in splits.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split in names:
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (repo / "README.md").write_text("\n".join([*card, "---", ""]))
    with hub_server.serving(tmp_path / "hub") as (url, _):
        done = cli(
            "validate",
            *SETS,
            "--json",
            env={"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
        )
        assert done.returncode == 0, done.stderr
        # The rows without their audio: nothing is fetched, pieces are read.
        hub = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "other"), "HF_HUB_OFFLINE": "0"}
        planned = cli("plan", SETS[0], "--json", env=hub)
        assert planned.returncode == 0 and json.loads(planned.stdout)["manifest"]["rows"] == 1, planned.stderr
        assert not list((tmp_path / "other").rglob("*.parquet"))
    told = json.loads(done.stdout)
    assert (told["rows_passing"], told["audio"]["files"], told["problems"]) == (8, 8, [])
    assert {json.dumps(pair) for pair in LEADERBOARD} == {json.dumps(_said(file)) for file in SETS}


def _said(file) -> tuple[str, str]:
    import tomllib

    said = tomllib.loads(file.read_text(encoding="utf-8"))
    return said["config"], said["split"]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_source_file_says_what_to_read_and_how(tmp_path):
    rows = [{"wav": "a.wav", "utt": "x"}]
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "m.txt", rows)
    said = 'source = "data/m.txt"\nformat = "jsonl"\naudio_column = "wav"\nid_column = "utt"\n'
    manifest = open_manifest(write(tmp_path / "s.toml", said), options=SourceOptions(audio_column="wav"))
    assert manifest.read(0).id == "x" and manifest.read(0).audio.path == str(tmp_path / "data" / "a.wav")
    with pytest.raises(UsageError, match=r'--audio-column path: .*s\.toml says audio_column = "wav"; leave it out'):
        open_manifest(tmp_path / "s.toml", options=SourceOptions(audio_column="path"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source = 7", 'source = 7: must name what to read'),
        ("split = 'test'", "source = null: must name what to read"),
        ("source = '-'", "must name what to read"),
        ("source = 'x.toml'", "must name what to read"),
        ("source = 'x.jsonl'\nallow_pipes = true", "allow_pipes: is none of source, format, config, split"),
        ("source = 'x.jsonl'\nstreaming = 'yes'", 'streaming = "yes": must be true or false'),
        ("source = 'x.jsonl'\nsplit = 3", "split = 3: must be a string"),
        ("source = ", "cannot be read as TOML"),
        ("source = 'x.jsonl'", "x.jsonl: does not exist"),
    ],
)  # fmt: skip
def test_a_source_file_that_says_what_it_cannot_say(tmp_path, text, message):
    with pytest.raises(ManifestError) as caught:
        open_manifest(write(tmp_path / "s.toml", text))
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)
