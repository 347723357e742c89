"""JSON Lines in gzip and zstandard, several files, standard input, other column names, and bad rows that fail."""

import ast
import gzip
import importlib.util
import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import REPO, read_jsonl, write_jsonl

from asrbatch.config import EngineConfig, RunConfig, SourceOptions
from asrbatch.errors import ManifestError, UsageError
from asrbatch.manifest.formats import options_for_kept
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.readers import text
from asrbatch.manifest.row import InvalidRow, parse_row
from asrbatch.manifest.stdin import keep_stdin, spool_stdin
from asrbatch.storage import files
from asrbatch.storage.paths import RunPaths, chunk_path

pytest_plugins = "command_line"

ROWS = [{"audio_filepath": f"a{n}.wav", "id": f"r{n}", "duration": 1.5 + n, "text": "é" * (n % 40)} for n in range(500)]


def lines_of(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def packed(data: bytes, kind: str) -> bytes:
    if kind == "plain":
        return data
    if kind == "gz":
        half = len(data) // 2  # two members, as cat a.gz b.gz makes them
        return gzip.compress(data[:half]) + gzip.compress(data[half:])
    zstandard = pytest.importorskip("zstandard")
    return zstandard.compress(data[: len(data) // 2]) + zstandard.compress(data[len(data) // 2 :])


def rows_of(manifest):
    return [manifest.read(index) for index in range(len(manifest))]


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_packed_lines_are_the_same_manifest_in_any_order_of_reading(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK_BYTES", 700)  # many blocks, marks and restarts
    monkeypatch.setattr(text, "_PIECE_BYTES", 50)
    plain, other = tmp_path / "m.jsonl", tmp_path / f"m.jsonl.{kind}"
    plain.write_bytes(lines_of(ROWS))
    other.write_bytes(packed(lines_of(ROWS), kind))
    one, two = open_manifest(plain), open_manifest(other)
    assert two.scan.digest == one.scan.digest
    indexes = list(range(len(ROWS))) * 2
    random.Random(3).shuffle(indexes)
    assert [two.read(i) for i in indexes] == [one.read(i) for i in indexes]
    assert two.where(7) == f"{other}:8"
    assert os.listdir(tmp_path) == ["m.jsonl", f"m.jsonl.{kind}"] or len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_packed_manifest_that_is_cut_off_is_refused(tmp_path, kind):
    path = tmp_path / f"m.jsonl.{kind}"
    path.write_bytes(packed(lines_of(ROWS), kind)[:-5])
    with pytest.raises(ManifestError, match=r"data is damaged or cut off \(.*\); copy the file again"):
        open_manifest(path)


def test_zstandard_that_is_not_installed_is_said(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl.zst"
    path.write_bytes(text.ZSTD + b"xxxx")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(
        ManifestError,
        match=r"zstandard is not installed: pip install '\.\[zstd\]' where asrbatch was cloned, or unpack it first",
    ):
        open_manifest(path)


def test_several_files_are_one_manifest(tmp_path):
    whole = write_jsonl(tmp_path / "whole.jsonl", ROWS)
    (tmp_path / "p").mkdir()
    for n, kind in enumerate(("plain", "gz", "plain")):
        rows = ROWS[[0, 100, 200][n] : [100, 200, 500][n]]
        (tmp_path / "p" / f"part_{n}.json").write_bytes(packed(lines_of(rows), kind))
    parts = [str(tmp_path / "p" / f"part_{n}.json") for n in range(3)]
    digest = open_manifest(whole).scan.digest
    nemo = tmp_path / "p/part__OP_0..2_CL_.json"
    for source in (",".join(parts), tmp_path / "p/*.json", nemo, tmp_path / "p/part_{0..2}.json"):
        manifest = open_manifest(source)
        assert manifest.scan.digest == digest
        assert manifest.where(150) == f"{parts[1]}:51"
        assert manifest.read(250).audio.path == str(tmp_path / "p" / "a250.wav")
    assert open_manifest(",".join(reversed(parts))).scan.digest != digest
    with pytest.raises(ManifestError, match=r"part_3\.json, which does not exist; correct the list"):
        open_manifest(tmp_path / "p/part_{0..3}.json")


def test_a_bad_row_of_several_files_is_named_by_its_own_file(tmp_path):
    write_jsonl(tmp_path / "1.jsonl", ROWS[:3])
    write_jsonl(tmp_path / "2.jsonl", [ROWS[3], {"audio_filepath": "x", "offset": -1}, ROWS[0]])
    with pytest.raises(ManifestError) as caught:
        open_manifest(tmp_path / "*.jsonl")
    _, first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/2.jsonl:2: offset = -1")
    assert second.startswith(f'{tmp_path}/2.jsonl:3: id = "r0": {tmp_path}/1.jsonl:1 has it already')


def test_a_format_can_be_forced_and_a_wrong_one_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "m.txt", ROWS)
    assert len(open_manifest(path, options=SourceOptions(format="jsonl"))) == 500
    with pytest.raises(ManifestError, match="that is not --format parquet"):
        open_manifest(path, options=SourceOptions(format="parquet"))
    with pytest.raises(UsageError, match="--format xml: must be one of jsonl, csv"):
        SourceOptions(format="xml")


def test_fields_under_other_names(tmp_path):
    rows = [
        {"wav": "a.wav", "sentence": "hello", "utt": 7, "text": "raw"},
        {"wav": "b.wav", "sentence": None, "utt": "x"},
    ]
    options = SourceOptions(audio_column="wav", text_column="sentence", id_column="utt")
    manifest = open_manifest(write_jsonl(tmp_path / "m.jsonl", rows), options=options)
    assert manifest.read(0).fields == {"audio_filepath": "a.wav", "text": "hello", "id": 7, "original_text": "raw"}
    assert manifest.read(0).id == "7" and manifest.read(1).audio.path == str(tmp_path / "b.wav")
    with pytest.raises(
        ManifestError, match=r"m\.jsonl:1: has wav, sentence, utt, text: no nope, which --text-column names"
    ):
        open_manifest(tmp_path / "m.jsonl", options=SourceOptions(audio_column="wav", text_column="nope"))


COMMON_VOICE = [
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment",
    'd25f|c1.wav|9a1|He said "no, and left.||2|0|twenties|male_masculine|||en|',
    'd25f|c2.wav|9a2|"Why?" she asked.||3|1|||||en|',
]


def test_the_line_for_common_voice_reads_its_references(cli_here, tmp_path):
    """As the documents have it: without the option for texts nothing of a release is a reference."""
    header, *rows = COMMON_VOICE
    lines = [header.replace(" ", "\t"), *(row.replace("|", "\t") for row in rows)]
    (tmp_path / "validated.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "clips").mkdir()
    for number in (1, 2):
        soundfile.write(tmp_path / f"clips/c{number}.wav", np.zeros(1600 * number), 16000)
    table = (REPO / "docs/manifests.md").read_text(encoding="utf-8")
    command = re.search(r"`asrbatch transcribe (validated.tsv .*?) …` .Common Voice", table)[1].split()
    done = cli_here("make-manifest", *command, "-o", "m.jsonl")
    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "m.jsonl")
    assert [(row["text"], row["duration"], row["locale"]) for row in rows] == [
        ('He said "no, and left.', 0.1, "en"),
        ('"Why?" she asked.', 0.2, "en"),
    ]


# --- bad rows that fail -----------------------------------------------------------------------------------------------

BAD_LINES = [
    b'{"audio_filepath": "good.wav", "id": "good"}',
    b"nonsense",
    b'{"audio_filepath": "a.wav", "offset": -1, "id": "negative"}',
    b'{"audio_filepath": "b.wav", "id": "good"}',
    b"",
    b'{"audio_filepath": "caf\xe9.wav"}',
    b"nonsense",
    b'{"audio_filepath": "data:audio/wav;base64,", "text": "t"}',
    b'{"audio_filepath": "c.wav", "id": "last", "lang": "xx"}',
]


def test_bad_rows_can_be_made_failed_rows(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\r\n".join(BAD_LINES) + b"\r\n")

    def check(utterance):
        return "lang = xx: unknown; use en" if utterance.lang == "xx" else None

    with pytest.raises(ManifestError, match="7 problems in 8 rows; nothing was run"):
        open_manifest(path, check=check)
    manifest = open_manifest(path, check=check, options=SourceOptions(on_bad_row="fail"))
    rows = rows_of(manifest)
    assert [row.problem is None for row in rows] == [True, *[False] * 7]
    assert len({row.id for row in rows}) == 8 and manifest.num_bad == 7
    assert [row.id for row in rows if row.id in ("good", "negative", "last")] == ["good", "negative", "last"]
    assert rows[2].problem.startswith(f"{path}:3: offset = -1: must be a number of seconds")
    assert rows[3].problem.startswith(f'{path}:4: id = "good": {path}:1 has it already')
    assert rows[7].problem == f"{path}:9: lang = xx: unknown; use en"
    assert rows[6].fields == {"audio_filepath": "data:audio/wav;base64,", "text": "t"}
    assert sum(manifest.scan.problems.values()) == 7 and manifest.scan.problems["not JSON"] == 2
    again = open_manifest(path, check=check, options=SourceOptions(on_bad_row="fail"))
    assert again.scan.digest == manifest.scan.digest and [row.id for row in rows_of(again)] == [row.id for row in rows]


# --- standard input ---------------------------------------------------------------------------------------------------


class Given(io.BytesIO):
    def isatty(self):
        return False


def test_standard_input_is_kept_beside_the_output_and_compared(tmp_path):
    path = tmp_path / "run" / "out.manifest.jsonl"
    with pytest.raises(
        UsageError, match=r"^-: nothing comes on standard input \(give the manifest\), and .* is not there"
    ):
        spool_stdin(path, stream=Given(b""))
    assert spool_stdin(path, stream=Given(lines_of(ROWS))) == path
    assert spool_stdin(path, stream=Given(b"")) == path and spool_stdin(path, stream=Given(lines_of(ROWS))) == path
    with pytest.raises(UsageError, match="standard input is not the manifest that this run began with"):
        spool_stdin(path, stream=Given(lines_of(ROWS[:3])))
    assert path.read_bytes() == lines_of(ROWS)
    spool_stdin(path, replace=True, stream=Given(lines_of(ROWS[:3])))
    assert path.read_bytes() == lines_of(ROWS[:3]) and os.listdir(path.parent) == [path.name]


TABLE = b"audio_filepath,id,duration\r\n" + b"".join(b"a%d.wav,r%d,%.1f\r\n" % (n, n, 1.5 + n) for n in range(500))
CUTS = b'{"id": "c", "start": 0, "duration": 1, "channel": 0, "supervisions": [], "type": "MonoCut"}\n'


@pytest.mark.parametrize(
    ("data", "rows", "says"),
    [
        (TABLE, 500, None),
        (TABLE.replace(b",", b"\t"), 500, None),
        (gzip.compress(TABLE), 500, None),
        (gzip.compress(lines_of(ROWS)), 500, None),
        (CUTS, 0, "a cut without a recording"),
        (b"junk\n" + lines_of(ROWS), 0, "1 problem in 501 rows"),
        (
            b"sound;id\na.wav;1\n",
            0,
            'standard input: starts with "sound;id"; say what it is with --format, one of lhotse, js',
        ),
        (b"PK\3\4" + bytes(99), 0, "standard input: is a zip archive, unpack it first"),
    ],
)
def test_standard_input_is_recognised_as_files_are(tmp_path, monkeypatch, data, rows, says):
    """By what it holds, at once and as a copy beside the output."""
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Given(data)}))
    files._unnamed_copy.cache_clear()
    kept = tmp_path / "out.manifest.jsonl"
    kept.write_bytes(data)

    def of_copy():
        return open_manifest(kept, options=options_for_kept(str(kept), SourceOptions()))

    for opened, name in ((lambda: open_manifest("-"), "standard input"), (of_copy, str(kept))):
        if says is None:
            manifest = opened()
            assert len(manifest) == rows and manifest.read(7).id == "r7" and manifest.read(7).duration_s == 8.5
        else:
            with pytest.raises(ManifestError, match=says.replace("standard input", name)):
                opened()
    files._unnamed_copy.cache_clear()


def test_standard_input_takes_texts_for_no_header_and_no_split(monkeypatch):
    line = b'{"audio_filepath": "a.wav", "text": "the path, file, and"}\n'
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Given(line)}))
    files._unnamed_copy.cache_clear()
    assert open_manifest("-").read(0).fields["text"] == "the path, file, and"
    with pytest.raises(UsageError, match="--split: means nothing for standard input, which is read as --format jsonl"):
        open_manifest("-", options=SourceOptions(split="x"))
    files._unnamed_copy.cache_clear()


def test_standard_input_with_columns_of_other_names(tmp_path):
    command = [sys.executable, "-m", "asrbatch", "plan", "-", "--json", "--audio-column", "sound"]
    done = subprocess.run(command, input=b"sound;id\na.wav;1\n", capture_output=True, cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["manifest"]["rows"] == 1, done.stderr


@pytest.mark.parametrize("chunk", [(), (4, 2)])
def test_standard_input_that_was_refused_does_not_bind(tmp_path, monkeypatch, chunk):
    """Only what a run has begun with, be it one of its chunks, has to be given again."""
    config = RunConfig(manifest="-", engine=EngineConfig(model="m"), output=str(tmp_path / "run" / "out.jsonl"))

    def keep(lines):
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Given(lines)}))
        return keep_stdin(config)

    keep(b"no row\n")
    kept = keep(lines_of(ROWS))
    assert kept.path.read_bytes() == lines_of(ROWS) and kept.folder == os.getcwd()
    rows = chunk_path(config.output_path, chunk[1], chunk[0]) if chunk else config.output_path
    rows.touch()
    RunPaths(rows).record.write_text("{}")
    with pytest.raises(UsageError, match="standard input is not the manifest that this run began with"):
        keep(lines_of(ROWS[:3]))


def test_plan_reads_standard_input(tmp_path):
    command = [sys.executable, "-m", "asrbatch", "plan", "-", "--json"]
    done = subprocess.run(command, input=lines_of(ROWS), capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["manifest"]["rows"] == 500
    (tmp_path / "m.jsonl").write_bytes(lines_of(ROWS))
    assert figures["manifest"]["digest"] == open_manifest(tmp_path / "m.jsonl").scan.digest
    assert os.listdir(tmp_path) == ["m.jsonl"]


# Names of SamplingParams that change no text (how answers are returned), or are as often data: a row may carry them.
CARRIED = {
    "n", "stop", "logprobs", "prompt_logprobs", "prompt_logprob_token_ids", "prompt_logprob_start", "logprob_token_ids",
    "flat_logprobs", "detokenize", "spaces_between_special_tokens", "output_kind", "stream_interval", "skip_clone",
    "output_text_buffer_length", "skip_reading_prefix_cache", "routed_experts_prompt_start", "trace_decode_token_ids",
}  # fmt: skip


def test_a_row_cannot_choose_how_it_is_sampled_or_asked():
    """By the names that the vLLM which is installed has, and those of others that people write."""
    source = Path(importlib.util.find_spec("vllm").submodule_search_locations[0], "sampling_params.py").read_text()
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    fields = {node.target.id for node in classes["SamplingParams"].body if isinstance(node, ast.AnnAssign)}
    ours = {"sampling_params", "num_beams", "do_sample", "best_of", "system", "messages", "initial_prompt"}
    refused = ours | {name for name in fields if name[0] != "_"} - CARRIED - {"NOTE"}
    assert {"temperature", "min_p", "repetition_penalty"} <= refused
    for name in refused:
        assert parse_row({"audio_filepath": "a.wav", name: None}, "a.wav").id
        with pytest.raises(InvalidRow, match=f"{name} = 1: is set for the whole run, not per row"):
            parse_row({"audio_filepath": "a.wav", name: 1}, "a.wav")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        (
            "m.csv",
            b"audio_filepath,text\ra.wav,x\r",
            "header cannot be read: .*; .*end lines with LF or CRLF, not with CR alone",
        ),
        ("m.csv", "audio_filepath,text\na.wav,x\n".encode("utf-16-le"), "its header is not UTF-8; save it as UTF-8"),
        (
            "m.jsonl",
            '{"audio_filepath": "a.wav"}\n'.encode("utf-16-le"),
            "looks like UTF-16 without a .*; save the file as UTF-8",
        ),
        (
            "m.jsonl",
            '{"audio_filepath": "a.wav"}\n'.encode("utf-16-be"),
            "looks like UTF-16 without a .*; save the file as UTF-8",
        ),
    ],
)
def test_text_that_was_saved_otherwise_says_how_to_save_it(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=says):
        open_manifest(tmp_path / name)
