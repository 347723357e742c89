"""`asrbatch validate`: it finds what a run finds, and the rows it calls clean are a manifest without a fault."""

import gzip
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from conftest import read_jsonl, write_jsonl
from source_makers import MAKERS
from typer.testing import CliRunner

from asrbatch.cli.app import app
from asrbatch.config import SourceOptions
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, OutputError, UsageError
from asrbatch.manifest import scan
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.probe import ALWAYS, NEVER
from asrbatch.manifest.validate import Validation

RATE = 16000
FIELDS = {
    "manifest": {"source", "rows", "digest"},
    "rows_refused": None,
    "rows_failing": None,
    "rows_passing": None,
    "problems": None,
    "audio": {"decoded", "files", "measured_h", "rows_guessed", "rows_unknown", "containers", "sample_rates_hz"},
    "clean": {"path", "rows"},
    "report": {"path", "problems"},
    "exit_code": None,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the command may set it: not for the tests behind these


@pytest.fixture
def tone(tmp_path) -> Path:
    sf.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(RATE) * 0.1), RATE)
    return tmp_path / "a.wav"


def validated(*sources, decode=None, rules=None, strict=False, for_lines=False, **reading) -> Validation:
    options = SourceOptions(**reading)
    found = Validation([str(s) for s in sources], options, for_lines=for_lines, strict=strict)
    if decode is not None:
        found.judge_audio(decode=decode, num_workers=2, timeout_s=20.0, config=rules, observe=lambda *_: None)
    return found


# The list: a line, and the kind of problem it is.
BAD_LINES = [
    (b"nonsense", "not JSON"),
    (b"[1]", "not a JSON object"),
    (b'{"audio_filepath": 7}', "audio_filepath: must be a string"),
    (b'{"path": "a.wav"}', "no audio_filepath"),
    (b'{"audio_filepath": "a.wav", "offset": -1}', "offset: must be a number of seconds from 0 to 1e+09"),
    (b'{"audio_filepath": "a.wav", "duration": NaN}', "duration: must be a number of seconds from 0 to 1e+09"),
    (b'{"audio_filepath": "a.wav", "duration": "2"}', "duration: is a string"),
    (b'{"audio_filepath": "a.wav", "id": "good"}', "id: given twice"),
    (b'{"audio_filepath": "a.wav", "temperature": 0.2}', "temperature: is set for the whole run, not per row"),
    (
        b'{"audio_filepath": "a.wav", "system_prompt": "x"}',
        "system_prompt: is set for the whole run, not per row",
    ),
    (b'{"audio_filepath": ["a.wav", "b.wav"]}', "audio_filepath: several clips in one row are not supported"),
    (b'{"audio_filepath": "data:audio/wav;base64,"}', "audio_filepath: the data: URI holds no audio"),
    (b'{"audio_filepath": "a.wav", "text": "caf\xe9"}', "not UTF-8"),
    (b'\xef\xbb\xbf{"audio_filepath": "a.wav"}', "a byte-order mark inside the file"),
]
GOOD_LINES = [
    b'{"audio_filepath": "a.wav", "id": "good"}',
    b'  {"audio_filepath":"a.wav",  "duration":1.0, "note": "\xc3\xbc"}  ',
    b'{"audio_filepath": "a.wav", "id": "big", "text": "' + b"x" * 10_000_000 + b'"}',
]


def test_every_kind_of_bad_row_is_told_with_file_and_line_and_the_others_are_kept_byte_for_byte(tone, tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [GOOD_LINES[0], *(line for line, _ in BAD_LINES), b"", GOOD_LINES[1], b"   ", GOOD_LINES[2]]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    found = validated(path, decode=NEVER, for_lines=True)
    told = {problem["examples"][0]["where"]: problem["kind"] for problem in found.as_dict()["problems"]}
    by_line = {f"{path}:{number}": kind for number, (_, kind) in enumerate(BAD_LINES, 2)}
    kinds = {
        kind: where for where, kind in reversed(by_line.items())
    }  # of two rows of one kind the first is shown first
    assert told == {where: kind for kind, where in kinds.items()}
    assert sum(problem["rows"] for problem in found.as_dict()["problems"]) == len(BAD_LINES) == found.num_bad
    assert all(problem["examples"][0]["text"].count(";") for problem in found.as_dict()["problems"])  # the fix
    assert found.exit_code == EXIT_USAGE
    found.write_clean(tmp_path / "clean.jsonl")
    assert (tmp_path / "clean.jsonl").read_bytes() == b"".join(
        line + end for line, end in zip(GOOD_LINES, (b"\r\n", b"\r\n", b"\n"), strict=True)
    )
    clean = validated(tmp_path / "clean.jsonl", decode=ALWAYS)
    assert (len(clean), clean.exit_code) == (3, EXIT_COMPLETE)
    assert validated(path, on_bad_row="fail").exit_code == EXIT_ROWS_FAILED


def test_a_column_that_is_not_there_is_told(tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    (problem,) = validated(path, text_column="nope").as_dict()["problems"]
    assert problem["kind"] == "no nope, which --text-column names"


def test_audio_that_will_fail_is_left_out_and_what_is_only_flagged_is_not(tone, tmp_path):
    (tmp_path / "junk.wav").write_bytes(b"junk" * 100)
    sf.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    rows = [
        {"audio_filepath": "a.wav", "id": "ok"},
        {"audio_filepath": "gone.wav"},
        {"audio_filepath": "junk.wav"},
        {"audio_filepath": "a.wav", "offset": 5.0},
        {"audio_filepath": "a.wav", "channel": 3},
        {"audio_filepath": "a.wav", "duration": 9.0, "id": "long"},
        {"audio_filepath": "silent.wav", "id": "silent"},
    ]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    for decode in (NEVER, ALWAYS):
        found = validated(path, decode=decode)
        counts = {problem["kind"]: problem["rows"] for problem in found.as_dict()["problems"]}
        assert counts.pop("no_speech", 0) == (decode == ALWAYS)
        assert counts == {"missing": 1, "unreadable": 1, "empty_audio": 1, "bad_row": 1, "duration_mismatch": 1}
        assert [found.passes(index) for index in range(7)] == [True, False, False, False, False, True, True]
        assert (found.exit_code, found.num_failing) == (EXIT_ROWS_FAILED, 4)
    found.write_clean(tmp_path / "clean.jsonl")
    assert [row["id"] for row in read_jsonl(tmp_path / "clean.jsonl")] == ["ok", "long", "silent"]
    assert validated(tmp_path / "clean.jsonl", decode=ALWAYS).exit_code == EXIT_COMPLETE
    strict = validated(tmp_path / "clean.jsonl", decode=ALWAYS, strict=True)
    assert (strict.exit_code, strict.num_failing) == (EXIT_ROWS_FAILED, 2)
    assert [strict.passes(index) for index in range(3)] == [True, False, False]


def test_damage_behind_the_header_is_found_by_decoding_alone(speech_wav, tmp_path):
    samples, rate = sf.read(speech_wav, dtype="int16")
    sf.write(tmp_path / "a.flac", samples, rate)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    (tmp_path / "a.flac").write_bytes(data)
    path = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.flac"}, {"audio_filepath": str(speech_wav)}])
    assert validated(path, decode=NEVER).exit_code == EXIT_COMPLETE
    found = validated(path, decode=ALWAYS)
    assert [found.passes(index) for index in (0, 1)] == [False, True]
    assert found.as_dict()["problems"][0]["kind"] == "unreadable"


def test_lines_keep_their_meaning_in_another_folder(tone, tmp_path):
    rows = [
        {"audio_filepath": "a.wav", "text": "x"},
        {"audio_filepath": str(tone), "id": 5},
        {"audio_filepath": "./a.wav"},
    ]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    packed = tmp_path / "m.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    source = open_manifest(path)
    for given in (path, packed):
        found = validated(given)
        found.write_clean(tmp_path / "beside.jsonl")
        assert (tmp_path / "beside.jsonl").read_bytes() == path.read_bytes()
        found.write_clean(tmp_path / "other" / "clean.jsonl")
        clean = open_manifest(tmp_path / "other" / "clean.jsonl")
        assert clean.scan.digest == source.scan.digest
        assert [clean.read(i).audio.path for i in range(3)] == [str(tone)] * 3
        assert (tmp_path / "other" / "clean.jsonl").read_bytes().splitlines()[1] == path.read_bytes().splitlines()[1]


def test_lines_with_other_names_are_all_as_they_were_or_none(tone, tmp_path):
    rows = [{"wav": "a.wav", "utt": "1"}, {"wav": str(tone), "utt": "2"}]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    found = validated(path, audio_column="wav", id_column="utt")
    found.write_clean(tmp_path / "clean.jsonl")
    assert read_jsonl(tmp_path / "clean.jsonl") == rows
    found.write_clean(tmp_path / "other" / "clean.jsonl")
    assert open_manifest(tmp_path / "other" / "clean.jsonl").scan.digest == found.manifest.scan.digest


@pytest.mark.parametrize("kind", MAKERS)
def test_every_format_has_clean_rows_or_says_why_not(tone, tmp_path, kind):
    rows = [{"id": f"u{n}", "text": f"t{n}", "duration": 1.0, "lang": "en", "file": tone} for n in range(4)]
    (tmp_path / "d").mkdir()
    source = MAKERS[kind](tmp_path / "d", rows)
    if kind in ("webdataset", "parquet", "saved", "arrow", "hub"):
        with pytest.raises(
            UsageError, match=r"its audio is bytes inside the source, .*; give the source itself to transcribe"
        ):
            validated(source, for_lines=True)
    else:
        found = validated(source, decode=NEVER, for_lines=True)
        assert found.exit_code == EXIT_COMPLETE
        found.write_clean(tmp_path / "clean.jsonl")
        tars = str(tmp_path / "d" / "audio_{0..1}.tar") if kind == "nemo-tar" else None
        assert (
            open_manifest(tmp_path / "clean.jsonl", options=SourceOptions(tars=tars)).scan.digest
            == found.manifest.scan.digest
        )


def test_bad_rows_of_a_table_are_left_out_of_clean_lines(tone, tmp_path):
    rows = {"audio_filepath": [str(tone)] * 4, "id": list("abcd"), "offset": [0.0, -1.0, 9.0, 0.5]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    found = validated(tmp_path / "m.parquet", decode=NEVER, for_lines=True)
    found.write_clean(tmp_path / "clean.jsonl")
    assert [row["id"] for row in read_jsonl(tmp_path / "clean.jsonl")] == ["a", "d"]


def test_rows_that_have_a_line_beside_rows_that_have_none_are_not_written_without_their_audio(tone, tmp_path):
    sources = []
    for kind in ("nemo-tar", "csv"):
        (tmp_path / kind).mkdir()
        rows = [{"id": f"{kind}-{n}", "text": "t", "duration": 1.0, "lang": "en", "file": tone} for n in range(2)]
        sources.append(MAKERS[kind](tmp_path / kind, rows))
    with pytest.raises(UsageError, match="its audio is bytes inside the source"):
        validated(*sources, decode=NEVER, for_lines=True).write_clean(tmp_path / "clean.jsonl")
    assert not (tmp_path / "clean.jsonl").exists()


def test_several_manifests_are_one(tone, tmp_path):
    one, two = (write_jsonl(tmp_path / f"{n}.jsonl", [{"audio_filepath": "a.wav", "id": "same"}]) for n in "12")
    found = validated(one, two, decode=NEVER)
    (problem,) = found.as_dict()["problems"]
    assert problem["kind"] == "id: given twice" and problem["examples"][0]["where"] == f"{two}:1"
    assert [found.passes(index) for index in (0, 1)] == [True, False]


def test_bytes_of_two_sources_that_have_one_name_are_two_files(tone, tmp_path):
    sources = []
    for number, data in enumerate((tone.read_bytes(), b"junk" * 50)):
        (tmp_path / str(number)).mkdir()
        sources.append(tmp_path / str(number) / "test.parquet")
        pq.write_table(pa.table({"audio": [{"bytes": data, "path": "a.wav"}], "id": [f"u{number}"]}), sources[-1])
    found = validated(*sources, decode=NEVER)
    assert [found.passes(index) for index in (0, 1)] == [True, False] and found.probe.results.num_files == 2


def test_nothing_is_half_written(tone, tmp_path):
    path = write_jsonl(
        tmp_path / "m.jsonl", [{"audio_filepath": "a.wav", "text": "x" * 9000}, {"audio_filepath": "a.wav"}]
    )
    found = validated(path, decode=NEVER)
    (tmp_path / "clean.jsonl").write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # a disk that fills up
        with pytest.raises(OutputError, match=r"clean\.jsonl: File too large; nothing was written"):
            found.write_clean(tmp_path / "clean.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "clean.jsonl").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "clean.jsonl", "m.jsonl"]
    tone.unlink()
    with pytest.raises(UsageError, match="no row is OK"):
        validated(path, decode=NEVER).write_clean(tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()
    done = CliRunner().invoke(
        app, ["validate", str(path), "--workers", "1", "--write-clean", str(tmp_path / "x.jsonl")]
    )
    assert isinstance(done.exception, UsageError) and "no such file" in done.stdout  # the reasons all the same


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_the_same_as_json_and_writes_where_it_should(cli, tone, tmp_path):
    rows = [{"audio_filepath": "a.wav"}, {"audio_filepath": "gone.wav"}]
    write_jsonl(tmp_path / "m.jsonl", rows)
    done = cli("validate", "m.jsonl", "--json", "--write-clean", "clean.jsonl", "--report", "all.jsonl")
    assert (done.returncode, done.stderr) == (EXIT_ROWS_FAILED, "")
    told = json.loads(done.stdout)
    assert set(told) == set(FIELDS)
    for name, fields in FIELDS.items():
        assert fields is None or set(told[name]) == fields, name
    assert (told["rows_passing"], told["rows_failing"], told["clean"]["rows"]) == (1, 1, 1)
    assert read_jsonl(tmp_path / "clean.jsonl") == rows[:1]
    assert [(line["row"], line["kind"]) for line in read_jsonl(tmp_path / "all.jsonl")] == [(1, "missing")]
    shown = cli("validate", "clean.jsonl", "--audio", "decode")
    assert shown.returncode == EXIT_COMPLETE and "no problems" in shown.stdout and "1 OK" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["m.jsonl", "--write-clean", "m.jsonl", "--overwrite"],
            "--write-clean .*m.jsonl: is the input; give another name",
        ),
        (["m.jsonl", "--write-clean", "there.jsonl"], "there.jsonl: exists already; give another name, or --overwrite"),
        (["m.jsonl", "--write-clean", "x.jsonl.zst"], "is written as plain text; leave out .zst"),
        (["m.jsonl", "--overwrite"], "--overwrite: replaces the files of --write-clean and --report"),
        (
            ["m.jsonl", "--report", "there.jsonl"],
            "--report .*there.jsonl: exists already; give another name, or --overwrite",
        ),
        (
            ["m.jsonl", "--report", "x", "--write-clean", "x"],
            "--report .*x: is the file of --write-clean; give another name",
        ),
        (["m.jsonl", "--task", "translate"], "--task: needs a model; give --model as well"),
        (["m.jsonl", "--decode-timeout", "nan"], "--decode-timeout nan: must be at least 0.001"),
        (["-", "-"], "standard input can be read once"),
        ([], "MANIFEST is missing"),
    ],
)
def test_options_that_cannot_be_honoured(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    (tmp_path / "there.jsonl").touch()
    error = CliRunner().invoke(app, ["validate", *arguments]).exception
    assert isinstance(error, UsageError) and re.search(message, str(error)), error


def test_a_model_is_asked_about_languages_and_lengths(monkeypatch, tiny_en, base, tmp_path):
    sf.write(tmp_path / "a.wav", np.full(31 * RATE, 0.1), RATE, subtype="PCM_U8")
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav", "lang": "de"}])
    monkeypatch.chdir(tmp_path)
    for arguments, code, said in (
        ([], EXIT_COMPLETE, "languages and lengths were not checked; --model checks them"),
        (["--model", base], EXIT_COMPLETE, "no problems"),
        (["--model", tiny_en], EXIT_USAGE, "lang"),
        (["--model", base, "--windows", "none"], EXIT_ROWS_FAILED, "too_long"),
    ):
        done = CliRunner().invoke(app, ["validate", "m.jsonl", "--workers", "1", *arguments])
        assert done.exit_code == code and said in done.stdout, done.stdout


def test_neither_torch_nor_vllm_is_imported(tone, tiny_en, tmp_path):
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    arguments = ["asrbatch", "validate", str(tmp_path / "m.jsonl"), "--audio", "decode", "--model", tiny_en]
    code = (
        f"import sys; sys.argv = {arguments}\nfrom asrbatch.cli.app import app\n"
        "try: app()\nexcept SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'vllm', 'transformers', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "several", "csv", "folder", "kaldi", "webdataset", "parquet"])
def test_it_is_told_how_far_the_reading_is(tone, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(scan, "_OBSERVED_ROWS", 1)
    rows = [{"id": f"u{n}", "text": f"t{n}", "duration": 1.0, "lang": "en", "file": tone} for n in range(6)]
    (tmp_path / "d").mkdir()
    seen = []
    open_manifest(MAKERS[kind](tmp_path / "d", rows), observe=lambda *told: seen.append(told))
    assert [num_rows for num_rows, _, _ in seen] == [0, 1, 2, 3, 4, 5, 6] and seen[-1] == (6, 0, 1.0)
    shares = [share for *_, share in seen[:-1]]
    if kind == "jsonl.gz":  # nobody knows how long it is unpacked
        assert shares == [None] * 6
    else:
        assert shares == sorted(shares) and len(set(shares)) > 1
        assert shares[0] >= 0 and shares[-1] < 1


@pytest.mark.parametrize("audio", ["header", "decode"])
def test_the_track_of_rows_without_one(tone, tmp_path, audio):
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav", "track": 0}])
    arguments = ["validate", str(tmp_path / "m.jsonl"), "--audio", audio, "--json"]
    assert CliRunner().invoke(app, arguments).exit_code == EXIT_COMPLETE
    done = CliRunner().invoke(app, [*arguments, "--track", "1"])
    (problem,) = json.loads(done.output)["problems"]
    assert done.exit_code == EXIT_ROWS_FAILED and problem["rows"] == 1
    assert "track 1 does not exist" in problem["examples"][0]["text"]
    # A plan asks in the same way, with a model or without.
    probed = CliRunner().invoke(app, ["plan", str(tmp_path / "m.jsonl"), "--probe", "--track", "1", "--json"])
    assert json.loads(probed.output)["probe"]["counts"] == {"bad_row": 1}
