"""Checkpoints read from their files: synthetic folders, a Hugging Face cache laid out by hand, one real model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asrbatch.errors import UsageError
from asrbatch.models.checkpoint import open_checkpoint

MULTILINGUAL = {
    "<|endoftext|>": 50257,
    "<|startoftranscript|>": 50258,
    "<|en|>": 50259,
    "<|zh|>": 50260,
    "<|haw|>": 50352,
    "<|translate|>": 50358,
    "<|transcribe|>": 50359,
    "<|startofprev|>": 50361,
    "<|nocaptions|>": 50362,
    "<|notimestamps|>": 50363,
    "<|0.00|>": 50364,
}
ENGLISH = {token: number - 1 for token, number in MULTILINGUAL.items()}


def make(folder: Path, *, tokens=MULTILINGUAL, vocab_size=51865, weights=b"weights", **files) -> Path:
    """A checkpoint's files; `files` maps a name with `__` for the dot to its JSON, None leaves one out."""
    folder.mkdir(parents=True)
    added = [{"id": number, "content": token, "special": True} for token, number in tokens.items()]
    contents = {
        "config__json": {"architectures": ["WhisperForConditionalGeneration"], "vocab_size": vocab_size},
        "generation_config__json": {"is_multilingual": tokens is MULTILINGUAL},
        "preprocessor_config__json": {"chunk_length": 30, "sampling_rate": 16000, "hop_length": 160},
        "tokenizer__json": {"added_tokens": added},
        **files,
    }
    for name, content in contents.items():
        if content is not None:
            (folder / name.replace("__", ".")).write_text(json.dumps(content))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def refusal(name, revision=None) -> str:
    with pytest.raises(UsageError) as error:
        open_checkpoint(str(name), revision)
    assert "\n" not in str(error.value)
    return str(error.value)


# Folders that cannot be used


def test_no_such_folder(tmp_path):
    absent = tmp_path / "absent"
    assert refusal(absent) == f"--model {absent}: no such folder; give a folder, or a name on the Hugging Face hub"
    assert "no such folder" in refusal("./absent")
    assert "no such folder" in refusal("~/no/such/model")
    assert "no such folder" in refusal("runs/whisper/final")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.bin").touch()
    assert "no such folder" in refusal(tmp_path / "model.bin")


def test_folder_without_config(tmp_path):
    assert f"{tmp_path} holds no config.json, so it is not a Hugging Face checkpoint" in refusal(tmp_path)


def test_folder_without_weights(tmp_path):
    folder = make(tmp_path / "m", weights=None)
    assert f"{folder} holds no weights (*.safetensors, *.bin, *.pt); fetch or copy it again" in refusal(folder)


def test_revision_of_a_folder(tmp_path):
    folder = make(tmp_path / "m")
    assert (
        refusal(folder, "main") == f"--revision main: {folder} is a local folder, which has no revisions; leave it out"
    )


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_damaged_json(tmp_path, name):
    folder = make(tmp_path / "m")
    (folder / name).write_text('{"vocab_size": ')
    assert refusal(folder).startswith(f"{folder / name}: not valid JSON (")
    (folder / name).unlink()
    (folder / name).mkdir()
    assert refusal(folder) == (
        f"{folder / name}: Is a directory; the checkpoint's files must be readable; give permission, or another --model"
    )


# What a checkpoint says


def test_multilingual(tmp_path):
    checkpoint = open_checkpoint(str(make(tmp_path / "m")))
    assert checkpoint.is_whisper({})
    assert checkpoint.is_multilingual
    assert checkpoint.languages == {"en": 50259, "zh": 50260, "haw": 50352}
    assert checkpoint.added_tokens == MULTILINGUAL
    assert (checkpoint.window_s, checkpoint.sample_rate, checkpoint.hop_length) == (30.0, 16000, 160)
    assert (checkpoint.name, checkpoint.folder) == (str(tmp_path / "m"), str(tmp_path / "m"))


def test_english_only(tmp_path):
    checkpoint = open_checkpoint(str(make(tmp_path / "m", tokens=ENGLISH, vocab_size=51864)))
    assert not checkpoint.is_multilingual
    assert checkpoint.languages == {"en": 50258}


@pytest.mark.parametrize("vocab_size, multilingual", [(51864, False), (51865, True), (51866, True)])
def test_without_generation_config_the_vocabulary_tells(tmp_path, vocab_size, multilingual):
    tokens = MULTILINGUAL if multilingual else ENGLISH
    folder = make(tmp_path / "m", tokens=tokens, vocab_size=vocab_size, generation_config__json=None)
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.is_multilingual is multilingual
    assert checkpoint.languages == ({"en": 50259, "zh": 50260, "haw": 50352} if multilingual else {"en": 50258})
    assert checkpoint.generation_config == {}


def test_generation_config_tells_before_the_vocabulary(tmp_path):
    folder = make(tmp_path / "m", vocab_size=51865, generation_config__json={"is_multilingual": False})
    assert not open_checkpoint(str(folder)).is_multilingual


def test_older_and_newer_files(tmp_path):
    older = make(tmp_path / "older", tokenizer__json=None, added_tokens__json=MULTILINGUAL)
    assert open_checkpoint(str(older)).added_tokens == MULTILINGUAL
    processor = {"feature_extractor": {"chunk_length": 20, "sampling_rate": 8000, "hop_length": 80}}
    newer = open_checkpoint(
        str(make(tmp_path / "newer", preprocessor_config__json=None, processor_config__json=processor))
    )
    assert (newer.window_s, newer.sample_rate, newer.hop_length) == (20.0, 8000, 80)
    for processor in ({}, {"feature_extractor": None}):
        folder = make(tmp_path / str(processor), preprocessor_config__json=None, processor_config__json=processor)
        bare = open_checkpoint(str(folder))
        assert (bare.window_s, bare.sample_rate, bare.hop_length) == (30.0, 16000, 160)


def test_real_checkpoint(tiny_en):
    checkpoint = open_checkpoint(tiny_en)
    assert (checkpoint.is_multilingual, checkpoint.languages) == (False, {"en": 50258})
    assert len(checkpoint.digest) == 64


# Its digest


def digest(folder: Path) -> str:
    return open_checkpoint(str(folder)).digest


@pytest.fixture
def folder(tmp_path) -> Path:
    return make(tmp_path / "m", weights=bytes(range(256)) * 400)


def test_the_same_content_elsewhere_is_the_same_model(tmp_path, folder):
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(folder, copy)
    for path in copy.iterdir():
        os.utime(path, (0, 0))
    assert digest(copy) == digest(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert digest(link) == digest(folder)


@pytest.mark.parametrize("position", [0, 51_111, 102_399])
def test_one_byte_of_the_weights(folder, position):
    before = digest(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[position] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert digest(folder) != before


def test_one_byte_of_large_weights(folder):
    """A fine-tune may move one layer of 3 GB; the file is sparse, so that the disk does not notice."""
    digests = set()
    for position in (None, 123_456_789, 270_000_000):
        with open(folder / "model.safetensors", "wb") as file:
            file.truncate(270_000_001)
            if position:
                file.seek(position)
                file.write(b"\1")
        digests.add(digest(folder))
    assert len(digests) == 3


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"]
)
def test_each_json_file_counts(folder, name):
    before = digest(folder)
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**value, "suppress_tokens": [1]}))
    changed = digest(folder)
    assert changed != before
    if name != "config.json":
        (folder / name).unlink()
        assert digest(folder) not in (before, changed)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json", "chat_template.jinja", "tokenizer.model", "modeling.py"])
def test_files_that_may_decide_an_answer_count(folder, name):
    before = digest(folder)
    (folder / name).write_text("x")
    assert digest(folder) != before


def test_a_renamed_file_counts(folder):
    before = digest(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert digest(folder) != before


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        ".gitattributes",
        "flax_model.msgpack",
        "tf_model.h5",
        "pytorch_model.bin",
        "model.fp32-1.safetensors",
    ],
)
def test_files_that_decide_nothing_do_not_count(folder, name):
    before = digest(folder)
    (folder / name).write_text("x")
    assert digest(folder) == before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "whisper-fp32.safetensors"])
def test_other_weights_count_where_they_are_all_there_is(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    before = digest(folder)
    (folder / name).write_bytes(b"others")
    assert digest(folder) != before


def test_missing_weights(folder):
    """A link into a cache that was cleaned."""
    (folder / "model-2.safetensors").symlink_to(folder / "blobs" / "gone")
    with pytest.raises(
        UsageError, match=r"model-2\.safetensors: No such file or directory; the checkpoint's files must"
    ):
        digest(folder)


# Names on the hub


def in_new_process(code: str, **environment) -> subprocess.CompletedProcess:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


OPEN = """
import sys
from asrbatch.models.checkpoint import open_checkpoint
from asrbatch.errors import UsageError
for revision in {revisions!r}:
    try:
        checkpoint = open_checkpoint("acme/whisper-test", revision)
    except UsageError as e:
        print("refused:", e)
    else:
        print(checkpoint.folder, checkpoint.revision, checkpoint.commit, checkpoint.digest)
"""


@pytest.fixture
def hub(tmp_path, folder):
    """A cache as `huggingface_hub` lays it out: contents in blobs, names in snapshots, branches in refs."""
    repository = tmp_path / "home" / "hub" / "models--acme--whisper-test"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    for part in (snapshot, repository / "refs", repository / "blobs"):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return tmp_path / "home", snapshot


def test_hub_name_from_the_cache(hub, folder):
    home, snapshot = hub
    done = in_new_process(
        OPEN.format(revisions=[None, "main", snapshot.name, "v9"]), HF_HOME=str(home), HF_HUB_OFFLINE="1"
    )
    assert done.returncode == 0, done.stderr
    same = digest(folder)  # a copy on this node is the same model
    *found, refused = done.stdout.splitlines()
    assert found == [f"{snapshot} {revision} {snapshot.name} {same}" for revision in (None, "main", snapshot.name)]
    assert refused.startswith(
        "refused: --model acme/whisper-test: not a folder here, and the Hugging Face hub did not give it"
    )
    assert " at revision v9; check the name and the network, or give a folder (" in refused


def test_hub_name_that_the_cache_lacks(tmp_path):
    done = in_new_process(OPEN.format(revisions=[None]), HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(
        "refused: --model acme/whisper-test: not a folder here, and the Hugging Face hub did not give it; check the "
        "name "
        "and the network, or give a folder (LocalEntryNotFoundError: "
    )


def test_name_that_no_hub_could_have(tmp_path):
    message = refusal("not a model!")
    assert message.startswith("--model not a model!: not a folder here, and the Hugging Face hub did not give it;")


def test_cache_with_configuration_but_no_weights(hub):
    home, snapshot = hub
    (snapshot / "model.safetensors").unlink()
    done = in_new_process(OPEN.format(revisions=[None]), HF_HOME=str(home), HF_HUB_OFFLINE="1")
    assert f"{snapshot} holds no weights" in done.stdout
    judged = OPEN.format(revisions=[None]).replace("revision)", "revision, weights=False)")
    said = in_new_process(judged, HF_HOME=str(home), HF_HUB_OFFLINE="1").stdout
    assert said.startswith(str(snapshot)), "whoever only asks about it needs none"


def test_import_is_light(tmp_path):
    folder = make(tmp_path / "m")
    code = f"""
import sys
import asrbatch.models.checkpoint, asrbatch.models.whisper, asrbatch.runs.fingerprint
import asrbatch.storage.journal, asrbatch.storage.lease
asrbatch.models.checkpoint.open_checkpoint({str(folder)!r}).digest
print(sorted({{"torch", "vllm", "huggingface_hub", "transformers", "datasets"}} & set(sys.modules)))
"""
    done = in_new_process(code)
    assert done.stdout == "[]\n", done.stderr
