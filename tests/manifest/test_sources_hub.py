"""Data sets of the Hugging Face hub, copies of them, and Arrow files: which rows they are, and what is refused."""

import json
import os
import shutil
import subprocess
import sys

import hub_server
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError, UsageError
from asrbatch.manifest.manifest import open_manifest

CARD = """---
configs:
- config_name: clean
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
- config_name: other
  data_files:
  - split: test
    path: data/test-*
dataset_info:
- config_name: clean
  splits:
  - name: train
    num_bytes: 1000
    num_examples: {num_rows}
---
# A card
"""


def table(name: str, num_rows: int) -> pa.Table:
    cells = [{"bytes": f"{name} audio {n}".encode() * 300, "path": f"{n}.wav"} for n in range(num_rows)]
    return pa.table({"audio": cells, "text": [f"{name} text {n}" for n in range(num_rows)]})


@pytest.fixture
def copy(tmp_path):
    """A folder with a card: `clean` has train in two shards and test, `other` has test."""
    folder = tmp_path / "me" / "speech"
    (folder / "data").mkdir(parents=True)
    for name, num_rows in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000-of-00001", 1)):
        pq.write_table(table(name, num_rows), folder / "data" / f"{name}.parquet", row_group_size=1)
    (folder / "README.md").write_text(CARD.format(num_rows=5))
    return folder


def opened(source, **options):
    return open_manifest(source, options=SourceOptions(**options))


def test_a_copy_of_a_data_set_is_read_as_its_card_says(copy):
    manifest = opened(copy, dataset_config="clean", split="train")
    assert [manifest.read(n).id for n in range(len(manifest))] == [f"train/{n}" for n in range(5)]
    assert manifest.read(4).fields["text"] == "train-00001-of-00002 text 1"
    assert manifest.read(4).audio.resolve() == b"train-00001-of-00002 audio 1" * 300
    assert manifest.where(4) == f"{copy}/data/train-00001-of-00002.parquet:train/4"
    assert len(opened(copy, dataset_config="other")) == 1  # one split
    assert len(opened(copy, format="hub", dataset_config="other", split="test")) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, r"speech: has several configurations \(clean, other\); choose one with --config"),
        ({"dataset_config": "noisy"}, r'speech: has no configuration "noisy"; there is clean, other'),
        ({"dataset_config": "clean"}, r"speech: holds several splits \(train, test\); choose one with --split"),
        ({"dataset_config": "clean", "split": "dev"}, r'speech: has no split "dev"; there is train, test'),
        (
            {"dataset_config": "other", "streaming": True},
            "--streaming is for data sets on the hub; this one is here already",
        ),
    ],
)
def test_what_a_card_does_not_have_is_named(copy, options, problem):
    with pytest.raises(ManifestError, match=problem):
        opened(copy, **options)


def test_missing_rows_of_a_copy_are_an_error(copy):
    (copy / "data/train-00000-of-00002.parquet").rename(copy / "kept")
    with pytest.raises(ManifestError, match=r"speech: train: 1 of 2 shards are missing \(00000\); fetch them, or"):
        opened(copy, dataset_config="clean", split="train")
    (copy / "kept").rename(copy / "data/train-00000-of-00002.parquet")
    (copy / "README.md").write_text(CARD.format(num_rows=7))
    with pytest.raises(
        ManifestError, match="speech: its card says that train has 7 rows, its files hold 5; fetch it again"
    ):
        opened(copy, dataset_config="clean", split="train")


def test_a_part_that_the_hub_converted_is_refused(copy):
    (copy / "data").rename(copy / "partial-train")
    (copy / "README.md").write_text(CARD.format(num_rows=5).replace("data/", "partial-train/"))
    with pytest.raises(
        ManifestError, match=r"is only a part of the data set \(.*partial-train/train-00000.*\): the hub"
    ):
        opened(copy, dataset_config="clean", split="train")


def test_options_that_a_source_does_not_take_are_refused(copy, tmp_path):
    lines = tmp_path / "m.jsonl"
    lines.write_text('{"audio_filepath": "a.wav"}\n')
    for options, problem in (
        (
            {"dataset_config": "x"},
            f"--config: means nothing for {lines}, which is read as --format jsonl; leave it out; it is for",
        ),
        ({"streaming": True}, "--streaming: means nothing for .*; it is for --format hub"),
        ({"allow_pipes": True}, "--allow-pipes: means nothing for .*; it is for --format kaldi and --format lhotse"),
    ):
        with pytest.raises(UsageError, match=problem):
            opened(lines, **options)
    with pytest.raises(
        UsageError, match=r"--tars: means nothing for .*test-00000-of-00001\.parquet, which is read as --format par"
    ):
        opened(copy / "data/test-00000-of-00001.parquet", tars="x.tar")


# --- the hub itself
# -------------------------------------------------------------------------------------------------------

ASK = """
import json, sys
from asrbatch.errors import ManifestError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.config import SourceOptions
for source, options in json.loads(sys.argv[1]):
    try:
        m = open_manifest(source, options=SourceOptions(**options))
        rows = [m.read(n) for n in range(len(m))]
        print(json.dumps([m.source, m.scan.digest, [r.id for r in rows], rows[-1].audio.resolve().decode()]))
    except ManifestError as e:
        print(json.dumps(str(e)))
"""


def ask(questions, **environment):
    """In a process of its own: where the hub is, and whether there is one, is settled when its library is imported."""
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN")
    env = {**{k: v for k, v in os.environ.items() if k not in unset}, **environment}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)], capture_output=True, text=True, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def cannot_be_reached(name: str, why: str) -> str:
    return (
        f"hf://{name}: the Hugging Face hub cannot be reached ({why}), and its cache here lacks the data set; fetch "
        f"it where "
        f"there is a network (hf download --repo-type dataset {name} --local-dir DIR) and give DIR"
    )


def test_data_sets_on_the_hub_streamed_fetched_and_from_the_cache(copy, tmp_path):
    train = {"dataset_config": "clean", "split": "train"}
    name, at = "hf://me/speech", f"hf://me/speech@{hub_server.COMMIT}"
    local = opened(copy, **train)
    ids, last = [f"train/{n}" for n in range(5)], "train-00001-of-00002 audio 1" * 300
    with hub_server.serving(tmp_path) as (url, requests):
        there = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
        streamed, missing = ask([[name, {**train, "streaming": True}], ["hf://me/nothing", {}]], **there)
        assert streamed == [at, local.scan.digest, ids, last]
        fix = "correct the name (owner/name), or log in with `hf auth login`"
        assert missing == f"hf://me/nothing: the hub has no such data set, or it is private; {fix}"
        command = [sys.executable, "-m", "asrbatch", "plan", name, "--config", "clean", "--split", "train", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **there}, cwd=tmp_path)
        assert json.loads(done.stdout)["manifest"] == {"source": at, "rows": 5, "digest": local.scan.digest}, (
            done.stderr
        )
        got = [line for line in requests() if line.startswith("GET /datasets/") and ".parquet" in line]
        assert got and all(" bytes=" in line for line in got)  # pieces
        rest = [name, {"dataset_config": "other"}]  # the test split, which the first does not need
        fetched, again, revision, other = ask([[name, train], [at, train], [f"{name}@v9", train], rest], **there)
        assert fetched == again == streamed
        assert revision == 'hf://me/speech: has no revision "v9"; correct it, or leave it out'
        whole = [line for line in requests() if line.startswith("GET /datasets/") and line.endswith(".parquet ")]
        assert ["/train-0" in line for line in whole] == [True, True, False]  # each once, and not before it is wanted
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": there["HF_HOME"]}
    by_name, by_commit, again, empty = ask([[name, train], [at, train], rest, ["hf://me/other", {}]], **offline)
    assert by_name == by_commit == streamed and again == other
    assert empty == cannot_be_reached("me/other", "HF_HUB_OFFLINE is set")


@pytest.mark.parametrize(("config", "split", "kept"), [("clean", "train", "train-"), ("other", "test", "test-")])
def test_a_cache_with_one_split_of_several_is_enough_for_that_one(copy, tmp_path, monkeypatch, config, split, kept):
    import huggingface_hub

    repo = tmp_path / "hub" / "datasets--me--speech"
    there = repo / "snapshots" / hub_server.COMMIT
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(hub_server.COMMIT)
    wanted, local = {"dataset_config": config, "split": split}, opened(copy, dataset_config=config, split=split)
    shutil.copytree(
        copy, there, ignore=lambda _, names: [n for n in names if n.endswith(".parquet") and not n.startswith(kept)]
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cached = opened("hf://me/speech", **wanted)
    assert cached.scan.digest == local.scan.digest and len(cached) == len(local)
    with pytest.raises(ManifestError, match="its files cannot be found") as caught:
        opened("hf://me/speech", dataset_config="clean", split={"train": "test", "test": "train"}[split])
    assert "its cache was looked at; else fetch it where there is a network" in caught.value.__notes__[0]


def test_validate_reads_a_manifest_and_audio_on_the_hub(tmp_path):
    repo = tmp_path / "me" / "speech"
    repo.mkdir(parents=True)
    sf.write(repo / "a.wav", np.full(16000, 0.1), 16000)
    for name, path in ((repo / "m.jsonl", "a.wav"), (tmp_path / "here.jsonl", "hf://datasets/me/speech/a.wav")):
        name.write_text(json.dumps({"audio_filepath": path}) + "\n")
    with hub_server.serving(tmp_path) as (url, _):
        env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
        env.pop("HF_HUB_OFFLINE", None)
        sources = ["hf://datasets/me/speech/m.jsonl", str(tmp_path / "here.jsonl")]
        command = [sys.executable, "-m", "asrbatch", "validate", *sources, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
        (told,) = ask([["hf://me/speech/m.jsonl", {}]], HF_ENDPOINT=url, HF_HOME=env["HF_HOME"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_passing"] == 2
    fix = "a data set is hf://OWNER/NAME, and a file of one hf://datasets/OWNER/NAME/FILE"
    assert told == f"hf://me/speech/m.jsonl: no such file; {fix}"


def test_a_hub_that_does_not_answer_is_one_line(tmp_path, tiny_en):
    command = [sys.executable, "-m", "asrbatch", "transcribe", "--dataset", "me/speech", "--model", tiny_en]
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == f"asrbatch: {cannot_be_reached('me/speech', 'no answer from the network')}\n"


# --- Arrow
# ----------------------------------------------------------------------------------------------------------------


def write_arrow(path, rows: pa.Table, new=pa.ipc.new_stream):
    with pa.OSFile(str(path), "wb") as sink, new(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)
    return path


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_files_are_the_same_rows_as_parquet(tmp_path, new):
    for folder in ("p", "a"):
        (tmp_path / folder).mkdir()
    for n, num_rows in enumerate((5, 2)):
        rows, name = table(f"part {n}", num_rows), f"train-{n:05}-of-00002"
        pq.write_table(rows, tmp_path / "p" / f"{name}.parquet")
        write_arrow(tmp_path / "a" / f"{name}.arrow", rows, new)
    one, two = opened(tmp_path / "p"), opened(tmp_path / "a")
    assert two.scan.digest == one.scan.digest and len(two) == 7
    for n in (6, 0, 3):
        ours, theirs = two.read(n), one.read(n)
        assert (ours.id, ours.fields, ours.audio.resolve()) == (theirs.id, theirs.fields, theirs.audio.resolve())
    assert opened(tmp_path / "a" / "*.arrow", format="arrow", split="train").scan.digest == one.scan.digest
    (tmp_path / "a" / "train-00000-of-00002.arrow").unlink()
    with pytest.raises(ManifestError, match=r"a: train: 1 of 2 shards are missing \(00000\)"):
        opened(tmp_path / "a")


def test_columns_of_tables_under_other_names(tmp_path):
    columns = {"wav": [{"bytes": b"sound", "path": None}] * 2, "said": ["a", "b"], "key": [7, 8], "text": ["raw", None]}
    path = write_arrow(tmp_path / "m.arrow", pa.table({**columns, "audio": ["not this", "nor this"]}))
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    options = {"audio_column": "wav", "text_column": "said", "id_column": "key"}
    for source in (path, tmp_path / "m.parquet"):
        manifest = opened(source, **options)
        assert [manifest.read(n).id for n in range(2)] == ["7", "8"]
        assert manifest.read(1).audio.resolve() == b"sound"
        fields = manifest.read(0).fields
        assert (fields["text"], fields["id"], fields["original_text"]) == ("a", 7, "raw")
        with pytest.raises(ManifestError, match=r"--id-column nope: no such column; there are wav, said, key, text"):
            opened(source, **{**options, "id_column": "nope"})


def test_arrow_that_is_cut_off_is_refused(tmp_path):
    path = write_arrow(tmp_path / "m.arrow", table("x", 6))
    whole = path.read_bytes()
    assert len(opened(path)) == 6
    for end in (-8, -1000, 100):  # before the end mark, inside a batch, inside the schema
        path.write_bytes(whole[:end])
        with pytest.raises(ManifestError, match=r"m\.arrow: cannot be read as Arrow: .*; is it complete\?"):
            opened(path)
    shutil.copy(write_arrow(tmp_path / "n.arrow", table("x", 2).drop_columns("text")), tmp_path / "m2.arrow")
    path.write_bytes(whole)
    with pytest.raises(
        ManifestError, match=r"m2\.arrow: other columns, or types, than .*m\.arrow; give files of one data set"
    ):
        opened(tmp_path / "m*.arrow")
