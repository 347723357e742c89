"""`asrbatch export`: files as parsers that others wrote read them, what they are called, and what
is never overwritten.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import av
import pandas
import pysubs2
import pytest
import webvtt
from conftest import REPO, read_jsonl, write_jsonl
from export_rows import failed_row, files, ok_row, write_rows
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_ROWS_FAILED, EXIT_USAGE, OutputError, UsageError
from asrbatch.export import exporter
from asrbatch.export.exporter import completeness_notes, export, parse_formats
from asrbatch.export.formats import FORMATS, column
from asrbatch.export.options import CueLimits
from asrbatch.export.transcript import transcript_of
from asrbatch.storage.paths import chunk_path

pytest_plugins = "command_line"

HOSTILE = (
    "Tom & Jerry <i>say</i> \t --> 5 --- ---> \n\n7\n\n00:00:01,000 --> 00:00:02,000 {x} &lt; \x00\u2028 “end” \ud800."
)
PER_RUN = [name for name, form in FORMATS.items() if form.per_run]


def subtitles_by_ffmpeg(path: Path) -> list[tuple[int, int, str]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.size]
        return [
            (round(p.pts * p.time_base * 1000), round(p.duration * p.time_base * 1000), bytes(p).decode())
            for p in packets
        ]


# Real speech


@pytest.fixture(scope="module")
def real_rows(transcribe, tiny_en, demo_rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    manifest = write_jsonl(folder / "m.jsonl", [*demo_rows[:6], {"id": "lost", "audio_filepath": "lost.wav"}])
    return transcribe(manifest, tiny_en, folder / "out.jsonl").paths.rows


def test_a_real_run_in_every_format(real_rows, cli_here, tmp_path):
    done = cli_here("export", real_rows, "--format", ",".join(FORMATS), "--to", tmp_path / "to")
    rows = read_jsonl(real_rows)
    ok = {row["id"]: row for row in rows if row["status"] == "ok"}
    assert done.returncode == EXIT_ROWS_FAILED, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "to" / f"out.{name}.index.jsonl") for name in FORMATS]
    assert f"left out: {len(rows) - len(ok)} failed rows ({len(rows) - len(ok)} missing)" in done.stderr
    assert "not complete" not in done.stderr and "run record" not in done.stderr
    assert len(ok) == 6
    for name, form in FORMATS.items():
        index = read_jsonl(tmp_path / f"to/out.{name}.index.jsonl")
        assert {line["id"]: line["index"] for line in index} == {i: row["index"] for i, row in ok.items()}
        assert [line["id"] for line in index] == [row["id"] for row in rows if row["id"] in ok]
        for line in index:
            check_file(tmp_path / "to" / line["file"], name, ok[line["id"]])
        assert len(list((tmp_path / "to").glob(f"*.{form.extension}"))) == len(ok)


def check_file(path: Path, name: str, row: dict) -> None:
    text, audio_ms = row["pred_text"], row["audio_s"] * 1000
    if name in ("srt", "vtt"):
        ours = pysubs2.load(str(path))
        assert " ".join(event.plaintext.replace("\n", " ") for event in ours) == text
        assert [(e.start, e.end - e.start) for e in ours] == [packet[:2] for packet in subtitles_by_ffmpeg(path)]
        assert all(a.end <= b.start for a, b in pairwise(ours))
        assert ours[0].start >= 0 and ours[-1].end <= audio_ms
    if name == "vtt":
        assert " ".join(caption.text.replace("\n", " ") for caption in webvtt.read(path)) == text
    if name == "txt":
        assert path.read_text() == text + "\n"
    if name == "tsv":
        table = pandas.read_csv(path, sep="\t", quoting=3)
        assert list(table.columns) == ["start", "end", "text"] and " ".join(table.text) == text
        assert table.start.dtype == table.end.dtype == "int64" and table.end.max() <= math.ceil(audio_ms)
    if name == "json":
        result = json.loads(path.read_text())
        assert (
            list(result) == ["text", "segments", "language"] and result["text"] == text and result["language"] == "en"
        )
        ours = [{k: s[k] for k in ("start", "end", "text")} for s in row["segments"]]
        assert [{k: s[k] for k in ("start", "end", "text")} for s in result["segments"]] == ours
        assert [s["avg_logprob"] for s in result["segments"]] == [s["avg_logprob"] for s in row["segments"]]
    if name == "ctm":
        lines = [line.split() for line in path.read_text().splitlines() if not line.startswith(";;")]
        assert [line[4] for line in lines] == text.split() and {line[0] for line in lines} == {row["id"]}


@pytest.mark.parametrize("name", PER_RUN)
def test_a_real_run_in_one_file(real_rows, name, tmp_path):
    exported = export(real_rows, [name], folder=tmp_path, per_run=True)
    ok = [row for row in read_jsonl(real_rows) if row["status"] == "ok"]
    path = exported.outputs[name].path
    assert (
        exported.exit_code == EXIT_ROWS_FAILED
        and exported.num_rows == len(ok)
        and completeness_notes(real_rows, exported) == []
    )
    assert [line["file"] for line in read_jsonl(tmp_path / f"out.{name}.index.jsonl")] == [path.name] * len(ok)
    if name == "txt":
        assert path.read_text().splitlines() == [row["pred_text"] for row in ok]
    elif name == "tsv":
        table = pandas.read_csv(path, sep="\t", quoting=3)
        texts = table.groupby("id").text.apply(" ".join).to_dict()
        assert texts == {row["id"]: row["pred_text"] for row in ok}
    elif name == "json":
        assert {line["id"]: line["text"] for line in read_jsonl(path)} == {row["id"]: row["pred_text"] for row in ok}
    else:
        lines = [line.split() for line in path.read_text().splitlines() if not line.startswith(";;")]
        assert lines == sorted(lines, key=lambda line: (line[0], line[1], float(line[2])))
        assert sum(len(row["pred_text"].split()) for row in ok) == len(lines)


@pytest.fixture(scope="session")
def sclite(tmp_path_factory) -> str:
    """NIST's scoring program, from its Debian package."""
    folder = tmp_path_factory.mktemp("sctk")
    code = "import sys; from get_speech import *; from pathlib import Path; unpack_debian(['sctk'], Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, env={**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    )
    return str(next(folder.glob("root/usr/lib/**/sclite")))


def test_sclite_reads_a_ctm_and_finds_every_word_in_its_time(real_rows, sclite, tmp_path):
    ctm = export(real_rows, ["ctm"], folder=tmp_path, per_run=True).outputs["ctm"].path
    ok = sorted((row for row in read_jsonl(real_rows) if row["status"] == "ok"), key=lambda row: row["id"].encode())
    reference = tmp_path / "reference.stm"
    reference.write_text("".join(f"{r['id']} 1 speaker 0 {r['audio_s']} {r['pred_text']}\n" for r in ok))
    command = [sclite, "-r", reference.name, "stm", "-h", ctm.name, "ctm", "-o", "sum", "stdout"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    # How wide the table is depends on the name of the file.
    total = re.search(r"Sum/Avg *\| +(\d+) +(\d+) *\| *100.0 +0.0 +0.0 +0.0 +0.0", done.stdout)
    assert done.returncode == 0 and total, done.stdout + done.stderr
    assert int(total[2]) == sum(len(row["pred_text"].split()) for row in ok)


# Formats


def written(name: str, row: dict, **options) -> str:
    form = FORMATS[name]
    return form.head + form.write(transcript_of(row, **options), CueLimits())


def test_what_each_format_looks_like():
    row = ok_row("a", "One two, three.", audio_s=3.0, channel=1)
    assert written("srt", row) == "1\n00:00:00,000 --> 00:00:03,000\nOne two, three.\n\n"
    assert written("vtt", row) == "WEBVTT\n\n00:00:00.000 --> 00:00:03.000\nOne two, three.\n"
    assert written("txt", row) == "One two, three.\n"
    assert written("tsv", row) == "start\tend\ttext\n0\t3000\tOne two, three.\n"
    assert written("ctm", row).splitlines()[-3:] == [
        "a 2 0.000 0.692 One 0.779",
        "a 2 0.692 0.923 two, 0.779",
        "a 2 1.615 1.385 three. 0.779",
    ]
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 3.0,
        "text": "One two, three.",
        "tokens": None,
        "temperature": None,
    }
    segment |= {"avg_logprob": -0.25, "compression_ratio": None, "no_speech_prob": None}
    assert json.loads(written("json", row)) == {"text": "One two, three.", "segments": [segment], "language": "en"}


def test_word_times_in_a_ctm_say_that_they_are_estimates():
    assert FORMATS["ctm"].head == FORMATS["ctm"].per_run.head and FORMATS["ctm"].note == FORMATS["ctm"].per_run.note
    assert FORMATS["ctm"].note.startswith(";; start, duration: estimates.")
    assert all(line.startswith(";;") for line in (FORMATS["ctm"].head + FORMATS["ctm"].note).splitlines())


def test_times_count_from_the_file_when_asked(tmp_path):
    row = ok_row("cut", "One two.", audio_s=2.0, offset=3600.5, audio_filepath="two talks/a.wav")
    row["windows"][0] |= {"start": 0.5}
    row["segments"][0] |= {"start": 0.5}
    assert "01:00:01,000 --> 01:00:02,500" in written("srt", row, from_file_start=True)
    assert "00:00:00,500 --> 00:00:02,000" in written("srt", row)
    assert "3601000\t3602500\tOne two." in written("tsv", row, from_file_start=True)
    assert written("ctm", row, from_file_start=True).splitlines()[-2] == "two%20talks/a.wav 1 3601.000 0.642 One 0.779"
    assert written("ctm", row).splitlines()[-2] == "cut 1 0.500 0.642 One 0.779"
    segment = json.loads(written("json", row, from_file_start=True))["segments"][0]
    assert (segment["seek"], segment["start"], segment["end"]) == (360_100, 3601.0, 3602.5)


def test_rows_cut_from_one_recording_are_one_file_of_a_ctm(tmp_path):
    places = [("c", 20.0, 0), ("a", 10.0, 0), ("d", 0.0, 1), ("b", 0, None)]
    rows = [ok_row(i, f"{i} {i}", audio_filepath="talk.wav", offset=at, channel=channel) for i, at, channel in places]
    write_rows(tmp_path / "out.jsonl", rows)
    path = export(tmp_path / "out.jsonl", ["ctm"], per_run=True, from_file_start=True).outputs["ctm"].path
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith(";;")]
    assert [line[4] for line in lines] == ["b", "b", "a", "a", "c", "c", "d", "d"]
    assert {line[0] for line in lines} == {"talk.wav"} and [line[1] for line in lines] == ["1"] * 6 + ["2"] * 2
    assert [float(line[2]) for line in lines] == [0, 2.5, 10, 12.5, 20, 22.5, 0, 2.5]


def test_what_guards_say_of_segments_is_in_the_json_and_windows_stand_in_for_them():
    row = ok_row("a", "One two", audio_s=40.0)
    row["windows"] = [
        {"start": 0.0, "avg_logprob": -0.1, "temperature": 0.2},
        {"start": 20.0, "avg_logprob": -0.4, "no_speech_prob": 0.5},
    ]
    times = [(0.0, 5.0), (19.9, 20.0), (20.0, 30.0), (31.0, 39.0)]
    row["segments"] = [{"start": s, "end": e, "text": "One"} for s, e in times]
    row["segments"][3] |= {"avg_logprob": -0.9, "compression_ratio": 1.5, "tokens": [1, 2]}
    segments = json.loads(written("json", row))["segments"]
    assert [(s["id"], s["seek"], s["avg_logprob"], s["temperature"], s["no_speech_prob"]) for s in segments] == [
        (0, 0, -0.1, 0.2, None),
        (1, 0, -0.1, 0.2, None),
        (2, 2000, -0.4, None, 0.5),
        (3, 2000, -0.9, None, 0.5),
    ]
    assert segments[3]["compression_ratio"] == 1.5 and segments[3]["tokens"] == [1, 2] and segments[0]["tokens"] is None


def test_text_without_segments_is_one_segment_and_no_text_none():
    row = {**ok_row("a", "Some text.", audio_s=4.0), "segments": []}
    assert written("tsv", row) == "start\tend\ttext\n0\t4000\tSome text.\n"
    del row["segments"], row["windows"]
    assert json.loads(written("json", row))["segments"][0] | {"text": "Some text.", "seek": None} == {
        **dict.fromkeys(("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob", "seek")),
        **{"id": 0, "start": 0.0, "end": 4.0, "text": "Some text."},
    }
    assert written("ctm", row).splitlines()[-1].endswith("text. NA")
    silent = ok_row("b", "")
    assert {name: written(name, silent) for name in ("srt", "vtt", "txt", "tsv")} == {
        "srt": "",
        "vtt": "WEBVTT\n",
        "txt": "\n",
        "tsv": "start\tend\ttext\n",
    }
    assert json.loads(written("json", silent))["segments"] == []


def test_times_in_a_text_are_no_cue_of_their_own(tmp_path):
    text = "00:00:01,000 --> 00:00:02,000 now, or at 1:00:03.5"
    write_rows(tmp_path / "out.jsonl", [ok_row("a", text, audio_s=20.0)])
    export(tmp_path / "out.jsonl", ["srt"])
    path = tmp_path / "out.export/a.srt"
    read = pysubs2.load(str(path))
    assert len(read) == len(subtitles_by_ffmpeg(path)) == path.read_text().count("-->")
    assert " ".join(event.plaintext for event in read).split() == text.replace("-->", "->").split()


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_text_breaks_no_parser(name, tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row("a", HOSTILE, audio_s=20.0), ok_row("b", "\ud83d -->\n\n", audio_s=2.0)])
    export(tmp_path / "out.jsonl", [name])
    path = tmp_path / f"out.export/a.{FORMATS[name].extension}"
    content = path.read_text(encoding="utf-8")
    words = "".join(HOSTILE.replace("\x00", "").replace("\ud800", "\ufffd").split())
    if name == "vtt":
        assert "<" not in content and content.count("-->") == len(webvtt.read(path))
        read = "".join(caption.raw_text for caption in webvtt.read(path))
        read = read.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        assert "".join(read.split()) == words and len(subtitles_by_ffmpeg(path)) == len(webvtt.read(path))
    elif name == "srt":
        times = re.findall(r"^\d+\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}$", content, flags=re.M)
        assert len(times) == content.count("-->") == len(subtitles_by_ffmpeg(path)) == len(pysubs2.load(str(path)))
        read = "".join(text for _, _, text in subtitles_by_ffmpeg(path))
        assert "".join(read.split()) == "".join(
            re.sub("-{2,}>", "->", HOSTILE).replace("\x00", "").replace("\ud800", "\ufffd").split()
        )
    elif name == "json":
        assert json.loads(content)["text"] == HOSTILE
    else:
        assert not set(content) & {"\x00", "\u2028", "\r"}
        num_lines = {"txt": 1, "tsv": 2, "ctm": 3 + len(HOSTILE.replace("\x00", "").split())}[name]
        assert len(content.splitlines()) == num_lines


@pytest.mark.parametrize("name", ["srt", "vtt"])
@pytest.mark.parametrize(
    "text", ["كان يا ما كان في قديم الزمان، ملك عظيم.", "吾輩は猫である。名前はまだ無い。", "สวัสดีครับวันนี้อากาศดีมาก"]
)
def test_other_scripts_come_back_from_a_parser(name, text, tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row("a", text, audio_s=6.0)])
    export(tmp_path / "out.jsonl", [name])
    read = pysubs2.load(str(tmp_path / f"out.export/a.{name}"))
    assert "".join(event.plaintext for event in read).replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_days_of_audio_have_hours_of_more_digits():
    assert "101:00:00,000 --> 101:00:05,000" in written("srt", ok_row("a", offset=363_600), from_file_start=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("rttm", "--format rttm: it says who speaks when, and asrbatch does not tell speakers apart"),
        ("srt,doc", "--format doc: unknown; known: srt, vtt, txt, tsv, ctm, json"),
        ("", "--format : unknown"),
    ],
)
def test_formats_that_rows_have_nothing_for_are_refused(given, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_formats(given)
    assert parse_formats(" SRT,vtt,srt") == ["srt", "vtt"]


# Rows


def test_rows_written_meanwhile_are_left_for_the_next_export(tmp_path, monkeypatch):
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("a"), ok_row("b")])
    size = rows.stat().st_size
    with open(rows, "a") as file:
        file.write(json.dumps(ok_row("A")) + "\n")
    monkeypatch.setattr(exporter, "_size", lambda path: size)
    exported = export(rows, ["txt"])
    assert exported.num_rows == 2 and not exported.torn
    monkeypatch.setattr(exporter, "_size", lambda path: size + 1)
    exported = export(rows, ["txt"])
    assert exported.num_rows == 2 and exported.torn


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
def test_a_column_holds_any_text_and_gives_it_back(text):
    assert len(column(text).split()) == 1 and not column(text).startswith(";;")
    assert unquote(column(text)) == text


def test_two_rows_with_one_id_are_refused(tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row("a", index=0), ok_row("b", index=1), ok_row("a", "other", index=2)])
    for per_run in (False, True):
        with pytest.raises(OutputError, match=r"out.jsonl:3: id a is that of .*out.jsonl:1 as well; rows of one run"):
            export(tmp_path / "out.jsonl", ["txt"], per_run=per_run)
    assert not list(tmp_path.glob("out.export/*.index.jsonl"))


# What is there already


def test_a_second_export_writes_only_what_is_new(tmp_path):
    rows = [ok_row(f"r{n}", f"text {n}") for n in range(4)]
    write_rows(tmp_path / "out.jsonl", rows[:2])
    export(tmp_path / "out.jsonl", ["srt"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out.export/*.srt")}
    write_rows(tmp_path / "out.jsonl", rows)
    exported = export(tmp_path / "out.jsonl", ["srt"])
    assert (exported.outputs["srt"].written, exported.outputs["srt"].unchanged) == (2, 2)
    assert len(read_jsonl(tmp_path / "out.export/out.srt.index.jsonl")) == 4
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_file_that_says_something_else_is_left_alone_until_asked(cli_here, tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row(f"r{n}", f"text {n}") for n in range(6)])
    (tmp_path / "to").mkdir()
    by_hand = [tmp_path / f"to/r{n}.txt" for n in (1, 2, 3, 4)]
    for path in by_hand:
        path.write_text("corrected by hand\n")
    command = ("export", "out.jsonl", "--format", "txt", "--to", "to")
    done = cli_here(*command)
    assert done.returncode == EXIT_ERROR and not done.stdout
    assert done.stderr.splitlines()[-1].startswith(
        f"asrbatch: {tmp_path}/to: 4 files are there already and say something else (r1.txt,"
    )
    assert all(path.read_text() == "corrected by hand\n" for path in by_hand)
    assert (tmp_path / "to/r5.txt").read_text() == "text 5\n"
    assert not list(tmp_path.glob("to/*.index.jsonl"))
    done = cli_here(*command, "--overwrite")
    assert done.returncode == EXIT_COMPLETE and "4 files written, 2 there already" in done.stderr
    assert by_hand[0].read_text() == "text 1\n"


@pytest.mark.parametrize("name", PER_RUN)
def test_a_file_for_all_is_replaced_only_when_asked(name, tmp_path):
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("a"), ok_row("b")])
    path = export(rows, [name], per_run=True).outputs[name].path
    content = path.read_bytes()
    assert export(rows, [name], per_run=True).outputs[name].unchanged == 1
    path.write_text("by hand")
    with pytest.raises(
        OutputError, match="is there already and says something else; it was left as it is: --overwrite replaces"
    ):
        export(rows, [name], per_run=True)
    assert path.read_text() == "by hand"
    export(rows, [name], per_run=True, overwrite=True)
    assert path.read_bytes() == content
    assert not list(path.parent.glob(".*"))


def test_no_file_of_a_run_is_ever_replaced(tmp_path):
    """Not even with --overwrite into the run's own folder, and with ids made for it."""
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("out"), ok_row("out.run"), ok_row("out.done"), ok_row("OUT.run")])
    (tmp_path / "out.run.json").write_text('{"fingerprint": {}, "sessions": []}')
    (tmp_path / "out.done.json").write_text('{"rows": 4, "statuses": {}, "sha256": ""}')
    before = files(tmp_path)
    for per_run in (False, True):
        export(rows, PER_RUN, folder=tmp_path, overwrite=True, per_run=per_run)
    assert before.items() < files(tmp_path).items()


def test_what_is_no_file_is_never_replaced_and_never_waited_for(tmp_path):
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("a", ""), ok_row("b")])
    (tmp_path / "out.export/a.srt").mkdir(parents=True)
    os.mkfifo(tmp_path / "out.export/b.srt")
    with pytest.raises(OutputError, match="2 files are there already"):
        export(rows, ["srt"], overwrite=True)


def test_an_index_of_somebody_else_is_left_alone(tmp_path):
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("a")])
    (tmp_path / "out.export").mkdir()
    theirs = write_jsonl(tmp_path / "out.export/out.srt.index.jsonl", [{"id": "a"}])
    with pytest.raises(OutputError, match="is no index of an export; move it away, or choose another --to"):
        export(rows, ["srt"], overwrite=True)
    assert read_jsonl(theirs) == [{"id": "a"}]


def test_files_are_whole_or_not_there_when_it_is_killed(start_cli, tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row(f"r{n}", "word " * 2000, audio_s=900.0) for n in range(3000)])
    process = start_cli("export", "out.jsonl", "--format", "json")
    folder = tmp_path / "out.export"
    while process.poll() is None and (not folder.exists() or len(os.listdir(folder)) < 40):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert 30 < len(found) < 3000
    assert all(json.loads(path.read_text())["language"] == "en" for path in found)


# Rows files


def test_one_file_for_all_subtitles_is_refused_unless_there_is_one_utterance(cli_here, tmp_path):
    write_rows(tmp_path / "one.jsonl", [failed_row("x"), ok_row("a")])
    done = cli_here("export", "one.jsonl", "--format", "srt,vtt", "--per-run")
    assert done.returncode == EXIT_ROWS_FAILED
    assert done.stdout.splitlines() == [f"{tmp_path}/one.export/one.srt", f"{tmp_path}/one.export/one.vtt"]
    write_rows(tmp_path / "two.jsonl", [ok_row("a"), ok_row("b")])
    done = cli_here("export", "two.jsonl", "--format", "txt,vtt", "--per-run")
    assert (
        done.returncode == EXIT_USAGE
        and "--per-run --format vtt: a file of that format holds one utterance" in done.stderr
    )
    assert list((tmp_path / "two.export").iterdir()) == []


def test_failed_rows_are_left_out_counted_and_told_by_the_exit_code(cli_here, tmp_path):
    write_rows(tmp_path / "out.jsonl", [failed_row("x"), ok_row("a"), failed_row("y", "unreadable"), failed_row("z")])
    done = cli_here("export", "out.jsonl", "--format", "txt")
    assert done.returncode == EXIT_ROWS_FAILED and done.stdout == f"{tmp_path}/out.export/out.txt.index.jsonl\n"
    assert "left out: 3 failed rows (2 missing, 1 unreadable)" in done.stderr
    assert "no run record beside it: whether these 4 rows are all of a run cannot be told" in done.stderr
    assert set(files(tmp_path / "out.export")) == {"a.txt"}


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("a"), ok_row("b")])
    rows.write_bytes(rows.read_bytes() + b'{"id": "c", "ind')
    (tmp_path / "out.run.json").write_text('{"fingerprint": {}, "sessions": [], "total_rows": 20, "num_chunks": null}')
    exported = export(rows, ["txt"])
    assert completeness_notes(rows, exported) == [
        "the last line is incomplete (the run is writing it, or was killed) and was left out",
        "not complete: 2 of 20 rows are there so far",
    ]
    assert exported.exit_code == EXIT_COMPLETE and len(files(exported.folder)) == 2
    (tmp_path / "out.run.json").write_text("{")
    assert "it is unknown whether" in completeness_notes(rows, exported)[1]


def test_one_chunk_alone_can_be_exported_and_is_named(cli_here, tmp_path):
    rows = write_rows(chunk_path(tmp_path / "out.jsonl", 3, 16), [ok_row("a")])
    record = {"fingerprint": {}, "sessions": [], "total_rows": 1, "num_chunks": 16, "chunk_id": 3}
    rows.with_name("out.chunk-00003-of-00016.run.json").write_text(json.dumps(record))
    rows.with_name("out.chunk-00003-of-00016.done.json").write_text('{"rows": 1, "statuses": {"ok": 1}, "sha256": ""}')
    done = cli_here("export", rows.name, "--format", "txt")
    assert done.returncode == EXIT_COMPLETE and "out.chunk-00003-of-00016.jsonl: chunk 3 of 16 alone" in done.stderr
    assert "not complete" not in done.stderr
    done = cli_here("export", "out.jsonl", "--format", "txt")
    assert done.returncode == EXIT_USAGE
    assert (
        "is not there, but chunks of it are; merge-shards joins them, or give one of them, such as out.chunk-00003-of"
        in done.stderr
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"audio_filepath": "a.wav"}',
            "out.jsonl:2: no output row (it has no id); give the rows file that transcribe",
        ),
        ("not json", "out.jsonl:2: no output row (Expecting value)"),
        (json.dumps({**ok_row("b"), "pred_text": None}), "out.jsonl:2: no output row (its pred_text is missing)"),
        (json.dumps({**ok_row("b"), "segments": [{"start": 0, "text": "x"}]}), "(its end is missing)"),
        (json.dumps({**ok_row("b"), "segments": {}}), "(its segments are no list of objects)"),
        (
            json.dumps({**ok_row("b"), "segments": [{"start": "0", "end": 1, "text": "x"}]}),
            "(its start is no number of seconds from 0)",
        ),
        (json.dumps({**ok_row("b"), "channel": "left"}), "(its channel is no int)"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(line, message, tmp_path):
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("a")])
    rows.write_text(rows.read_text() + line + "\n")
    with pytest.raises(OutputError, match=re.escape(message)):
        export(rows, ["txt"])
    assert not list(tmp_path.glob("out.export/*.index.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.jsonl", "--format", "srt"], EXIT_USAGE, "gone.jsonl: no such file; give the rows file that transcribe"),
        (["nowhere/out.jsonl", "--format", "srt"], EXIT_USAGE, "no such file"),
        ([".", "--format", "srt"], EXIT_USAGE, "is no file; give the rows file"),
        (["out.jsonl", "--format", "rttm"], EXIT_USAGE, "--format rttm: it says who speaks when"),
        (["out.jsonl", "--format", "srt", "--max-lines", "0"], EXIT_USAGE, "--max-lines 0: must be at least 1"),
        (
            ["out.jsonl", "--format", "srt", "--to", "out.jsonl/x"],
            EXIT_USAGE,
            "out.jsonl/x: Not a directory; run the same command",
        ),
        (["out.jsonl"], EXIT_USAGE, "--format"),
    ],
)
def test_errors_are_one_line_and_name_the_fix(arguments, code, message, cli_here, tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row("a")])
    done = cli_here("export", *arguments)
    assert done.returncode == code and message in done.stderr and not done.stdout and "Traceback" not in done.stderr


def test_rules_are_taken_from_the_command_line(cli, tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row("a", "one two three four five six seven eight nine ten", audio_s=20.0)])
    rules = (
        "--max-line-chars",
        12,
        "--max-lines",
        1,
        "--min-duration",
        2,
        "--max-duration",
        3,
        "--min-gap",
        0.5,
        "--max-chars-per-s",
        5,
    )
    assert cli("export", "out.jsonl", "--format", "srt", *rules).returncode == EXIT_COMPLETE
    events = pysubs2.load(str(tmp_path / "out.export/a.srt"))
    assert (
        all(len(event.text) <= 12 and 2000 <= event.end - event.start <= 3000 for event in events) and len(events) > 4
    )
    assert all(b.start - a.end >= 500 for a, b in pairwise(events))


def test_memory_grows_by_bytes_a_row(tmp_path):
    peaks = []
    for num_rows in (500, 2_500):
        with open(tmp_path / "out.jsonl", "w") as file:
            for n in range(num_rows):
                file.write(json.dumps(ok_row(f"utterance-{n}", "word " * 40, index=n)) + "\n")
        tracemalloc.start()
        export(tmp_path / "out.jsonl", ["txt", "tsv", "json"], per_run=True, folder=tmp_path / str(num_rows))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 2_000 < 40
