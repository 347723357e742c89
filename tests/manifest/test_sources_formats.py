"""Every format against every other: the same rows, ids, digest and audio; and what each of them refuses."""

import gzip
import io
import json
import os
import random
import re
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
from source_makers import MAKERS, make_kaldi, make_nemo_tar, make_webdataset

from asrbatch.config import EngineConfig, RunConfig, SourceOptions
from asrbatch.errors import ManifestError, RowError, UsageError
from asrbatch.languages import find
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.readers import csv

pytest_plugins = "command_line"

TEXTS = ["hello", "a, b", "größe", "one\u2028two", "x" * 300, "tail"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    made = []
    for number, text in enumerate(TEXTS):
        file = folder / f"tone{number}.{'flac' if number % 2 else 'wav'}"
        sf.write(file, 0.1 * np.sin(np.arange(1600 * (number + 1)) * 0.1 * (number + 1)), 16000)
        made.append({"id": f"utt{number}", "text": text, "duration": 0.1 * (number + 1), "lang": "en", "file": file})
    return [{**row, "duration": round(row["duration"], 3)} for row in made]


def opened(kind, folder, rows):
    folder.mkdir(exist_ok=True)
    return open_manifest(MAKERS[kind](folder, rows))


def read_all(manifest):
    return [manifest.read(index) for index in range(len(manifest))]


def data_of(utterance) -> bytes:
    source = utterance.audio.resolve()
    return source if isinstance(source, bytes) else open(source, "rb").read()


@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_data_set_is_the_same_in_every_format(tmp_path, rows, kind):
    plain = opened("jsonl", tmp_path / "plain", rows)
    manifest = opened(kind, tmp_path / "other", rows)
    assert manifest.scan.digest == plain.scan.digest
    order = list(range(len(rows))) * 2
    random.Random(1).shuffle(order)
    for index in order:
        ours, theirs = manifest.read(index), plain.read(index)
        assert (ours.index, ours.id, ours.duration_s, ours.lang) == (index, theirs.id, theirs.duration_s, theirs.lang)
        assert ours.fields["text"] == theirs.fields["text"]
        assert (ours.offset_s or 0.0) == 0.0 and ours.channel is None
        assert data_of(ours) == rows[index]["file"].read_bytes()


@pytest.mark.parametrize("kind", MAKERS)
def test_another_time_is_no_other_content(tmp_path, rows, kind):
    """A file that was touched, or copied back as it was; before, the run stopped in every format but hub and folder."""
    manifest = opened(kind, tmp_path / "d", rows)
    before = [data_of(utterance) for utterance in read_all(manifest)]
    for path in (tmp_path / "d").rglob("*"):
        os.utime(path, ns=(1, 1))
    assert [data_of(utterance) for utterance in read_all(manifest)] == before


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("data-uri", "several")])
def test_every_format_can_be_forced(tmp_path, rows, kind):
    (tmp_path / "d").mkdir()
    names = {"jsonl.gz": "jsonl", "jsonl.zst": "jsonl", "json-array": "jsonl", "folder-csv": "folder"}
    name = names.get(kind, "lhotse" if kind.startswith("lhotse") else kind)
    assert len(open_manifest(MAKERS[kind](tmp_path / "d", rows), options=SourceOptions(format=name))) == len(rows)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_audio_is_its_files_in_order_of_names_with_texts_beside(tmp_path, rows):
    (tmp_path / "b").mkdir()
    for name, row in zip(("b/2.wav", "a.flac", "b/1.flac"), rows, strict=False):
        (tmp_path / name).write_bytes(row["file"].read_bytes())
    (tmp_path / "b" / "2.txt").write_text("\ufeff the text \n", encoding="utf-8")
    (tmp_path / "._a.wav").write_bytes(b"junk of a Mac")
    (tmp_path / "b" / "up").symlink_to(tmp_path)  # a loop
    manifest = open_manifest(tmp_path)
    fields = [utterance.fields for utterance in read_all(manifest)]
    assert fields == [
        {"audio_filepath": "a.flac"},
        {"audio_filepath": "b/1.flac"},
        {"audio_filepath": "b/2.wav", "text": "the text"},
    ]
    assert data_of(manifest.read(2)) == rows[0]["file"].read_bytes()
    lines = "".join(json.dumps({"audio_filepath": f["audio_filepath"]}) + "\n" for f in fields)
    (tmp_path / "m.list").write_text(lines)
    assert open_manifest(tmp_path / "m.list").scan.digest == manifest.scan.digest  # made ids too
    assert [u.fields["audio_filepath"] for u in read_all(open_manifest(tmp_path / "b" / "*.*a*"))] == [
        "1.flac",
        "2.wav",
    ]
    assert len(open_manifest(tmp_path / "a.flac")) == 1
    (tmp_path / "b" / "2.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ManifestError, match=r"b/2\.wav: b/2\.txt: not UTF-8; save it as UTF-8"):
        open_manifest(tmp_path)


@pytest.mark.parametrize("name", ["loop", "b/loop", "loop.wav", "b/loop.txt", "metadata.xml"])
def test_a_link_to_itself_in_a_folder_is_named(tmp_path, rows, name):
    """Before: "give permission", for the folder, which was no fix."""
    (tmp_path / "b").mkdir()
    shutil.copy(rows[0]["file"], tmp_path / "a.wav")
    other = tmp_path / "b" / "other"
    for target in (tmp_path / name, other):  # to itself, and by way of another
        (tmp_path / name).symlink_to(target)
        if target == other:
            other.symlink_to(tmp_path / name)
        with pytest.raises(ManifestError) as error:
            open_manifest(tmp_path)
        assert re.match(rf"{tmp_path}/({name}|b/other): cannot be read: Too many levels", str(error.value))
        assert "; remove the link, which leads to itself, or give a glob that leaves it out" in str(error.value)
        (tmp_path / name).unlink()


def test_metadata_must_name_every_audio_file(tmp_path, rows):
    folder = tmp_path / "f"
    folder.mkdir()
    source = MAKERS["folder"](folder, rows)
    (folder / "extra.wav").write_bytes(b"x")
    with pytest.raises(
        ManifestError, match=r"does not name 1 audio files beside it \(extra\.wav\); add them, move them away, or"
    ):
        open_manifest(source)
    assert len(open_manifest(folder / "metadata.jsonl", options=SourceOptions(audio_column="file_name"))) == len(rows)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_tables_as_spreadsheets_write_them(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(
        b"\xef\xbb\xbffile;id;duration;offset;channel;note\r\n\r\n"
        b'a.wav;1;"2.5";;;"two\nlines; and ""quotes"""\r\nb.wav;2;;1;0;\r\n'
    )
    manifest = open_manifest(path)
    first, second = read_all(manifest)
    assert first.fields["note"] == 'two\nlines; and "quotes"' and first.duration_s == 2.5 and first.offset_s is None
    assert (second.offset_s, second.channel, second.fields["note"], second.id) == (1.0, 0, "", "2")
    assert (manifest.where(0), manifest.where(1)) == (f"{path}:3", f"{path}:5")
    assert second.audio.path == str(tmp_path / "b.wav")


CSV_PROBLEMS = [
    ("a.wav,x", "2: has 2 fields: the header has 4; quote fields that hold the delimiter, or add the missing ones"),
    ("a.wav,x,1s,", '2: duration = "1s": must be a number of seconds; write it like 12.5, or leave it empty'),
    ("a.wav,x,nan,", "2: duration = NaN: must be a number of seconds from 0"),
    ("a.wav,x,-1,", "2: duration = -1.0: must be a number of seconds from 0"),
    (",x,1,", "2: audio_filepath = null: is empty"),
    ("a.wav,x,1,0.5", '2: temperature = "0.5": is set for the whole run'),
    ('a.wav,"x,1,', "2: this line: not CSV: unexpected end of data; a quote is not closed"),
    ("caf\udce9.wav,x,1,", r'2: audio_filepath = "caf\\\\xe9.wav": not UTF-8; write the whole file in UTF-8'),
]


@pytest.mark.parametrize(("line", "problem"), CSV_PROBLEMS)
def test_bad_rows_of_a_table(tmp_path, line, problem):
    path = tmp_path / "m.csv"
    path.write_bytes(f"path,id,duration,temperature\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError) as caught:
        open_manifest(path)
    assert f"{path}:{problem}".replace("\\\\\\\\", "\\\\") in str(caught.value)


def test_a_bad_row_keeps_the_id_that_its_reader_gives_it(tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("a.wav", b"RIFF"), ("b.wav", b"RIFF"), ("b.json", b'{"offset": -1}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    manifest = open_manifest(path, options=SourceOptions(on_bad_row="fail"))
    assert [manifest.read(index).id for index in (0, 1)] == ["a", "b"] and "offset = -1" in manifest.read(1).problem


@pytest.mark.parametrize(("name", "most_bytes"), [("m.csv", 1 << 20), ("m.csv.gz", 20)])
def test_a_quote_that_is_not_closed_takes_no_other_row_with_it(tmp_path, monkeypatch, name, most_bytes):
    monkeypatch.setattr(csv, "_MOST_RECORD_BYTES", most_bytes)
    lines = [
        "path,id,note",
        'a.wav,1,"a',
        'b.wav,2,"two',
        'lines"',
        "c.wav,3,",
        'd.wav,4,"b',
        "",
        "e.wav,5,x",
        "f.wav,6,",
    ]
    data = "\ufeff".encode() + "\r\n".join(lines).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    manifest = open_manifest(path, options=SourceOptions(on_bad_row="fail"))
    bad = [manifest.is_bad(index) for index in range(len(manifest))]
    assert bad == [True, False, False, True, False, False]
    rows = [manifest.read(index) for index in range(len(manifest)) if not bad[index]]
    assert [row.id for row in rows] == ["2", "3", "5", "6"] and rows[0].fields["note"] == "two\r\nlines"
    assert [manifest.where(index).rpartition(":")[2] for index in range(6)] == ["2", "3", "5", "6", "8", "9"]
    for index in (0, 3):
        assert ": this line: not CSV: unexpected end of data; a quote is not closed" in manifest.read(index).problem


def test_headers_that_do_not_say_what_is_what(tmp_path):
    for text, options, problem in (
        ("a,b\n1,2\n", {}, r"no audio column; the first line must be a header \(a, b\); name it with --audio-column"),
        ("path,file\n1,2\n", {}, r"several columns may hold the audio \(path, file\); name it"),
        ("path,path\n1,2\n", {}, 'two columns are named "path"; rename one'),
        ("path,b\n1,2\n", {"text_column": "c"}, "--text-column c: no such column; there are path, b"),
        ("path,b\n", {}, "holds no rows"),
    ):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(ManifestError, match=problem):
            open_manifest(tmp_path / "m.csv", options=SourceOptions(**options))


# --- Kaldi ------------------------------------------------------------------------------------------------------------


def test_kaldi_without_segments_and_with_pipes(tmp_path, rows):
    file = rows[0]["file"]
    (tmp_path / "wav.scp").write_text(f"u1 {file}\nu2 cat {file} |\nu3 echo no >&2; exit 3 |\n")
    (tmp_path / "text").write_text("u1 one\nu2\n")
    with pytest.raises(ManifestError, match=r"wav\.scp:2: wav\.scp = cat .* \|: is a command; give --al"):
        open_manifest(tmp_path)
    manifest = open_manifest(tmp_path, options=SourceOptions(allow_pipes=True))
    assert [u.id for u in read_all(manifest)] == ["u1", "u2", "u3"]
    assert [u.fields.get("text") for u in read_all(manifest)] == ["one", "", None]
    assert data_of(manifest.read(1)) == data_of(manifest.read(0)) == file.read_bytes()
    with pytest.raises(RowError, match="unreadable: pipe:echo no .*: ended with exit status 3: no"):
        data_of(manifest.read(2))


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("segments", "utt9 nowhere 0 1", r"segments:7: recording nowhere: wav\.scp lacks it"),
        ("segments", "utt9 rec0 2 1", "segments:7: segments = rec0 2 1: must end after it starts"),
        ("segments", "utt9 rec0 1", "not `recording start end`"),
        ("text", "utt9 more", r"text: has 1 keys that segments lacks \(utt9\); run Kaldi's utils/fix_data_dir.sh"),
        ("wav.scp", "rec9 x.wav", r"wav\.scp: has 1 keys that no segment uses \(rec9\)"),
        (
            "utt2dur",
            "utt1 long",
            "segments:2: utt2dur = long: must be a number of seconds; correct the line, or drop it",
        ),
        ("utt2dur", "utt1 nan", "segments:2: utt2dur = nan: segments says another duration: 0.2; make utt2dur again"),
        ("utt2dur", "utt1 9.5", "segments:2: utt2dur = 9.5: segments says another duration: 0.2; make utt2dur again"),
    ],
)
def test_kaldi_folders_that_contradict_themselves(tmp_path, rows, name, line, problem):
    make_kaldi(tmp_path, rows)
    with open(tmp_path / name, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ManifestError, match=problem):
        open_manifest(tmp_path)


def test_keys_that_kaldi_has_twice_are_bad_rows_that_name_both_lines(tmp_path, rows):
    """Whatever order a hash has: all of them, at their rows, and the others run where bad rows may fail."""
    make_kaldi(tmp_path, rows)
    (tmp_path / "utt2dur").write_text("".join(f"{row['id']} {row['duration']}\n" for row in rows))
    doubled = {
        "segments": "utt5 rec0 0 0.6",
        "wav.scp": "rec1 y.wav",
        "text": "utt2 more",
        "utt2lang": "utt3 de",
        "utt2dur": "utt4 1",
    }
    for name, line in doubled.items():
        with open(tmp_path / name, "a") as file:
            file.write(line + "\n")
    there = f"{tmp_path}/segments:"
    both = {name: f"{tmp_path}/{name}:{{}} and {tmp_path}/{name}:7; keep one of the lines" for name in doubled}
    expected = [
        f"{there}2: rec1: key given twice in wav.scp: {both['wav.scp'].format(2)}",
        f"{there}3: utt2: key given twice in text: {both['text'].format(3)}",
        f"{there}4: utt3: key given twice in utt2lang: {both['utt2lang'].format(4)}",
        f"{there}5: utt4: key given twice in utt2dur: {both['utt2dur'].format(5)}",
        f'{there}7: id = "utt5": {there}6 has it already; ids must be unique (a row without one gets one made)',
    ]
    with pytest.raises(ManifestError) as caught:
        open_manifest(tmp_path)
    assert str(caught.value).splitlines()[1:] == expected
    manifest = open_manifest(tmp_path, options=SourceOptions(on_bad_row="fail"))
    assert [u.problem for u in read_all(manifest)] == [None, *expected[:4], None, expected[4]]
    assert [u.id for u in read_all(manifest)] == [*(f"utt{n}" for n in range(6)), "utt5~row-6"]
    assert manifest.scan.problems["key given twice in text"] == manifest.scan.problems["id: given twice"] == 1


def test_utt2dur_is_the_duration_where_no_segment_has_one(tmp_path, rows):
    (tmp_path / "wav.scp").write_text("".join(f"u{n} {rows[n]['file']}\n" for n in range(3)))
    (tmp_path / "utt2dur").write_text("u2 0.15\nu0 0.25\nother 9\n")
    assert [u.duration_s for u in read_all(open_manifest(tmp_path))] == [0.25, None, 0.15]
    (tmp_path / "utt2dur").write_text("u0 0\nu1 -1\nu2 nan\n")
    with pytest.raises(ManifestError, match=r"(?s):1: duration = 0: .*:2: duration = -1.0: .*:3: duration = NaN: "):
        open_manifest(tmp_path)
    (tmp_path / "segments").write_text("a u0 0.05 0.25\nb u1 0.05 -1\nc u2 0 0.2\n")
    (tmp_path / "utt2dur").write_text("a 0.21\nb 0.1\n")
    assert [u.duration_s for u in read_all(open_manifest(tmp_path))] == [0.2, 0.1, 0.2]


def test_kaldi_segments_cut_recordings(tmp_path, rows):
    (tmp_path / "wav.scp").write_text(f"rec {rows[5]['file']}\n")
    (tmp_path / "segments").write_text("a rec 0.1 0.3\nb rec 0.25 -1 0\n")
    first, second = read_all(open_manifest(tmp_path))
    assert (first.offset_s, first.duration_s, first.channel) == (0.1, 0.2, None)
    assert (second.offset_s, second.duration_s, second.channel) == (0.25, None, 0)


@pytest.mark.parametrize("kind", ["kaldi", "lhotse"])
def test_a_folder_found_by_where_the_command_runs_is_told(tmp_path, monkeypatch, rows, kind):
    """Both write paths relative to the folder where their recipe ran."""
    data = tmp_path / "data"
    data.mkdir()
    source = MAKERS[kind](data, rows)
    assert open_manifest(source).audio_folder is None  # absolute paths
    if kind == "kaldi":
        text = (data / "wav.scp").read_text()
    else:
        text = gzip.decompress(source.read_bytes()).decode()
        source = data / "cuts.jsonl"
    (data / "wav.scp" if kind == "kaldi" else source).write_text(text.replace(f"{rows[0]['file'].parent}/", ""))
    monkeypatch.chdir(rows[0]["file"].parent)
    manifest = open_manifest(source)
    assert manifest.audio_folder == os.getcwd() and data_of(manifest.read(1)) == rows[1]["file"].read_bytes()
    others = MAKERS["csv"](tmp_path, [{**row, "id": f"other{row['id']}"} for row in rows])
    assert open_manifest([str(others), str(source)]).audio_folder == os.getcwd()
    monkeypatch.chdir(tmp_path)
    assert open_manifest(source).audio_folder is None


# --- tars -------------------------------------------------------------------------------------------------------------


def add(tar, name, data=b"x"):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_nemo_tars_by_pattern_and_repeated_files(tmp_path, rows):
    make_nemo_tar(tmp_path, rows)
    lines = [json.loads(line) for line in (tmp_path / "tarred_audio_manifest.json").open()]
    lines.append({"audio_filepath": "clip0-sub1.wav", "offset": 0.02, "duration": 0.05, "shard_id": 0})
    (tmp_path / "m.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tars = str(tmp_path / "audio__OP_0..1_CL_.tar")
    manifest = open_manifest(tmp_path / "m.json", options=SourceOptions(tars=tars))
    assert (
        data_of(manifest.read(len(rows))) == rows[0]["file"].read_bytes() and manifest.read(len(rows)).offset_s == 0.02
    )
    lines += [
        {"audio_filepath": "clip1.flac", "shard_id": 0},
        {"audio_filepath": "none.wav"},
        {"audio_filepath": "a", "shard_id": 2},
    ]
    (tmp_path / "m.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ManifestError) as caught:
        open_manifest(tmp_path / "m.json", options=SourceOptions(tars=tars))
    _, first, second, third = str(caught.value).splitlines()
    assert 'm.json:8: audio_filepath = "clip1.flac": audio_0.tar does not hold it; give the tars this manifest' in first
    assert "m.json:9: " in second and "no tar holds it" in second
    assert "m.json:10: shard_id = 2: there are 2 tars; give the tars of all shards, in order" in third


@pytest.mark.parametrize("tars", ["same_*.tar", "same_1*.tar,same_[02-9].tar", "same__OP_0..11_CL_.tar"])
def test_shard_id_is_the_number_in_a_tars_name(tmp_path, tars):
    """Twelve shards with the same member names: as text, same_10.tar stands before same_2.tar."""
    for shard in range(12):
        with tarfile.open(tmp_path / f"same_{shard}.tar", "w") as tar:
            add(tar, "clip.wav", b"%d" % shard)
    lines = [
        json.dumps({"audio_filepath": "clip.wav", "shard_id": shard, "id": f"r{shard}"}) + "\n" for shard in range(12)
    ]
    (tmp_path / "m.json").write_text("".join(lines))
    given = ",".join(str(tmp_path / part) for part in tars.split(","))
    manifest = open_manifest(tmp_path / "m.json", options=SourceOptions(tars=given))
    assert [data_of(row) for row in read_all(manifest)] == [b"%d" % shard for shard in range(12)]
    (tmp_path / "m.json").write_text(lines[10])  # a manifest of one shard, with its own tar or with that of another
    for name, data in (("same_10.tar", b"10"), ("same_1[01].tar", b"10")):
        options = SourceOptions(tars=str(tmp_path / name))
        assert data_of(open_manifest(tmp_path / "m.json", options=options).read(0)) == data
    with pytest.raises(
        ManifestError, match=r"m\.json:1: shard_id = 10: none of the 1 tars has that number in its name"
    ):
        open_manifest(tmp_path / "m.json", options=SourceOptions(tars=str(tmp_path / "same_2.tar")))


def test_tars_without_numbers_are_counted(tmp_path):
    for name in ("b", "a"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            add(tar, "clip.wav", name.encode())
    (tmp_path / "m.json").write_text('{"audio_filepath": "clip.wav", "shard_id": 0}\n')
    for tars, data in ((f"{tmp_path}/b.tar,{tmp_path}/a.tar", b"b"), (f"{tmp_path}/*.tar", b"a")):
        assert data_of(open_manifest(tmp_path / "m.json", options=SourceOptions(tars=tars)).read(0)) == data


def test_nemo_tars_with_other_column_names(tmp_path, rows):
    make_nemo_tar(tmp_path, rows)
    lines = [json.loads(line) for line in (tmp_path / "tarred_audio_manifest.json").open()]
    renamed = [{"wav": line.pop("audio_filepath"), **line} for line in lines]
    options = SourceOptions(tars=str(tmp_path / "*.tar"), audio_column="wav")
    (tmp_path / "m.json").write_text("".join(json.dumps(line) + "\n" for line in renamed))
    manifest = open_manifest(tmp_path / "m.json", options=options)
    assert [data_of(row) for row in read_all(manifest)] == [row["file"].read_bytes() for row in rows]
    (tmp_path / "m.json").write_text("".join(json.dumps(line) + "\n" for line in [*renamed, {"wav": "none.wav"}]))
    with pytest.raises(ManifestError, match=r'm\.json:7: audio_filepath = "none\.wav": no tar holds it'):
        open_manifest(tmp_path / "m.json", options=options)
    failing = open_manifest(tmp_path / "m.json", options=replace(options, on_bad_row="fail"))
    assert "no tar holds it" in failing.read(6).problem and failing.read(6).fields["audio_filepath"] == "none.wav"


def test_fields_of_a_webdataset_may_have_other_names(tmp_path, rows):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(2):
            add(tar, f"k{number}.wav", rows[number]["file"].read_bytes())
            add(tar, f"k{number}.json", json.dumps({"key": number, "sentence": f"s{number}", "text": "raw"}).encode())
        add(tar, "k2.wav", rows[2]["file"].read_bytes())
        add(tar, "k2.txt", b"beside")
        add(tar, "k3.wav", rows[2]["file"].read_bytes())
        add(tar, "k3.json", b"{broken")
    named = SourceOptions(text_column="sentence", id_column="key", on_bad_row="fail")
    *good, bad, broken = read_all(open_manifest(tmp_path / "a.tar", options=named))
    assert "a.tar:k3: {broken: not JSON: " in broken.problem and broken.problem.endswith(
        "; write its .json member as one object"
    )
    assert [(u.id, u.fields["text"], u.fields["original_text"]) for u in good] == [
        ("0", "s0", "raw"),
        ("1", "s1", "raw"),
    ]
    assert [data_of(u) for u in good] == [rows[n]["file"].read_bytes() for n in (0, 1)]
    assert bad.problem.endswith(
        "a.tar:k2: has no fields: no sentence, which --text-column names; correct the name, or the row"
    )
    with pytest.raises(
        UsageError, match=r"--audio-column wav: the audio of .*a\.tar is a member of its tars, .*leave it out"
    ):
        open_manifest(tmp_path / "a.tar", options=SourceOptions(audio_column="wav"))


def test_webdataset_keys_that_repeat_between_tars_get_the_tars_name(tmp_path, rows):
    for name, chosen in (("s0", rows[:2]), ("s1", rows[1:3])):
        make_webdataset(tmp_path, chosen).rename(tmp_path / f"{name}.tar")
    for source in (tmp_path, tmp_path / "s*.tar", f"{tmp_path}/s0.tar,{tmp_path}/s1.tar", tmp_path / "s{0..1}.tar"):
        manifest = open_manifest(source)
        assert [u.id for u in read_all(manifest)] == ["s0/utt0", "s0/utt1", "s1/utt1", "s1/utt2"]
    assert manifest.where(2) == f"{tmp_path}/s1.tar:utt1" and manifest.read(2).audio.name == "s1.tar/utt1.flac"


def test_tars_that_cannot_be_read_whole_are_refused(tmp_path, rows):
    path = make_webdataset(tmp_path, rows)
    whole = path.read_bytes()
    for data, problem in (
        (whole[:5000], "cannot be read as a tar: .*; give complete tars"),
        (whole + whole, "it goes on after its end; were tars joined with cat"),
        (b"junk" * 500, "cannot be read as a tar"),
    ):
        path.write_bytes(data)
        with pytest.raises(ManifestError, match=problem):
            open_manifest(path)
    for names, problem in (
        (["a.wav", "b.wav", "a.txt"], 'the key "a" comes twice; members of one key must stand side by side'),
        (
            ["a.wav", "a.flac"],
            "a with wav, flac: several clips in one row are not supported; write one audio file for each key",
        ),
        (["a.txt"], "a with txt: no audio member"),
        (["plain"], '"plain" has no ending to tell what it is'),
    ):
        with tarfile.open(path, "w") as tar:
            for name in names:
                add(tar, name)
        with pytest.raises(ManifestError, match=problem):
            open_manifest(path)


def test_nothing_is_unpacked_and_other_rows_are_not_read(tmp_path, rows, monkeypatch):
    path = make_webdataset(tmp_path, rows)
    manifest = open_manifest(path)
    read = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, start: read.append(count) or real(fd, count, start))
    utterance = manifest.read(3)
    assert sum(read) < 2000  # JSON and text
    read.clear()
    assert data_of(utterance) == rows[3]["file"].read_bytes() and sum(read) == rows[3]["file"].stat().st_size
    assert os.listdir(tmp_path) == ["shard.tar"]


# --- folders of more than one kind ------------------------------------------------------------------------------------


def test_a_folder_that_holds_two_kinds_of_rows_is_refused(tmp_path, rows):
    for kind in ("parquet", "arrow", "webdataset"):
        folder = tmp_path / kind
        folder.mkdir()
        MAKERS[kind](folder, rows)
        assert len(open_manifest(folder)) == len(rows)
        (folder / "below").mkdir()
        for place in (folder / "0.wav", folder / "below" / "1.mp2"):
            place.write_bytes(rows[0]["file"].read_bytes())
        problem = rf"would be read as {kind}, and also holds audio \(2: 0\.wav, below/1\.mp2\); give a glob"
        with pytest.raises(ManifestError, match=problem):
            open_manifest(folder)
        assert len(open_manifest(folder, options=SourceOptions(format=kind))) == len(rows)
        assert len(open_manifest(folder / "**" / "*.*[v2]")) == 2


def test_files_in_folders_below_are_not_left_out(tmp_path, rows):
    path = make_webdataset(tmp_path, rows)
    (tmp_path / "more").mkdir()
    path.with_name("more").joinpath("shard.tar").write_bytes(path.read_bytes())
    with pytest.raises(ManifestError, match=r"also holds \.tar, in folders below \(1: more/shard\.tar\)"):
        open_manifest(tmp_path)
    with pytest.raises(ManifestError, match=r"read as folder, and also holds \.tar \(1: below/shard\.tar\)"):
        (tmp_path / "audio" / "below").mkdir(parents=True)
        (tmp_path / "audio" / "a.wav").write_bytes(rows[0]["file"].read_bytes())
        path.rename(tmp_path / "audio" / "below" / "shard.tar")
        open_manifest(tmp_path / "audio")


def test_tars_with_a_list_of_their_members_are_no_webdataset(tmp_path, rows):
    (make_nemo_tar(tmp_path, rows) / "tarred_audio_manifest.json").rename(tmp_path / "m.jsonl")
    with pytest.raises(ManifestError, match=r"also holds a list of audio \(m\.jsonl\); give that with --tars"):
        open_manifest(tmp_path)
    tars = str(tmp_path / "audio_*.tar")
    assert open_manifest(tmp_path / "m.jsonl", options=SourceOptions(tars=tars)).read(1).id == rows[1]["id"]
    (tmp_path / "m.run.json").write_text("{}")  # then it is what a run wrote
    assert len(open_manifest(tmp_path)) == len(rows)


def test_a_gap_in_the_numbers_of_tars_is_told(tmp_path, rows):
    for number in (8, 9, 11, 12):
        make_webdataset(tmp_path, rows[:1]).rename(tmp_path / f"a-{number:03}.tar")
    with pytest.raises(ManifestError, match=r"1 of 5 numbered files are missing \(a-010\); fetch them, or give a glob"):
        open_manifest(tmp_path)
    assert len(open_manifest(tmp_path / "*.tar")) == 4
    for name in ("a-009.tar", "a-011.tar"):
        (tmp_path / name).unlink()
    assert len(open_manifest(tmp_path)) == 2  # as likely dates as numbers
    for name, shard in (("a-008.tar", "t-00000-of-00003.tar"), ("a-012.tar", "t-00002-of-00003.tar")):
        (tmp_path / name).rename(tmp_path / shard)
    with pytest.raises(ManifestError, match=r"t: 1 of 3 shards are missing \(00001\)"):
        open_manifest(tmp_path)


def test_metadata_that_would_not_be_read_is_refused(tmp_path, rows):
    for split in ("train", "test"):
        (tmp_path / "f" / split).mkdir(parents=True)
        MAKERS["folder-csv"](tmp_path / "f" / split, rows)
    with pytest.raises(
        ManifestError, match=r"stands in folders below it \(test/metadata\.csv, train/metadata\.csv\); give one"
    ):
        open_manifest(tmp_path / "f")
    assert open_manifest(tmp_path / "f" / "test").read(0).fields["text"] == rows[0]["text"]
    MAKERS["folder"](tmp_path / "f" / "test", rows)
    with pytest.raises(ManifestError, match=r"holds metadata\.jsonl and metadata\.csv; keep one of them"):
        open_manifest(tmp_path / "f" / "test")


def test_every_ending_of_audio_and_every_name_of_a_folder_counts(tmp_path, rows):
    (tmp_path / "a").mkdir()
    names = ["1.mp2", "2.mpga", "3.wv", "4.spx", "5.WAV"]
    for name in names:
        (tmp_path / "a" / name).write_bytes(rows[0]["file"].read_bytes())
    (tmp_path / "b").symlink_to(tmp_path / "a")
    paths = [utterance.fields["audio_filepath"] for utterance in read_all(open_manifest(tmp_path))]
    assert paths == [f"{folder}/{name}" for folder in "ab" for name in names]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_record_says_where_relative_paths_lie_or_that_audio_is_inside(tmp_path, rows, kind):
    (tmp_path / "d").mkdir()
    manifest = open_manifest(MAKERS[kind](tmp_path / "d", rows))
    record = manifest.record()
    if record["holds_audio"]:
        assert all(utterance.audio.path is None for utterance in read_all(manifest))
    elif kind != "data-uri":
        for utterance in read_all(manifest):
            assert os.path.samefile(
                os.path.join(record["audio_folder"], utterance.fields["audio_filepath"]), utterance.audio.path
            )
    assert record["source"] == manifest.source and record["rows"] == len(rows)


def test_a_glob_of_files_that_share_a_deeper_folder_says_which(tmp_path, rows):
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "deep" / "a.wav").write_bytes(rows[0]["file"].read_bytes())
    manifest = open_manifest(tmp_path / "d" / "**" / "*.wav")
    assert (
        manifest.record()["audio_folder"] == str(tmp_path / "d" / "deep")
        and manifest.read(0).fields["audio_filepath"] == "a.wav"
    )


# --- options ----------------------------------------------------------------------------------------------------------

# What each source takes; every other option is an error.
TAKES = {
    "csv": {"audio_column", "text_column", "id_column"}, "tsv": {"audio_column", "text_column", "id_column"},
    "jsonl": {"audio_column", "text_column", "id_column"}, "parquet": {"audio_column", "text_column", "id_column"},
    "kaldi": {"allow_pipes"}, "webdataset": {"text_column", "id_column"},
    "nemo-tar": {"tars", "audio_column", "text_column", "id_column"},
}  # fmt: skip
VALUES = {
    "audio_column": "x", "text_column": "x", "id_column": "x", "tars": "*.tar", "allow_pipes": True,
    "dataset_config": "x",
    "streaming": True, "split": "x",
}  # fmt: skip


@pytest.mark.parametrize("kind", TAKES)
def test_an_option_that_a_source_does_not_take_is_an_error(tmp_path, rows, kind):
    (tmp_path / "d").mkdir()
    source = MAKERS[kind](tmp_path / "d", rows)
    for option, value in VALUES.items():
        if option in TAKES[kind] or (kind == "jsonl" and option == "tars"):  # which makes it the list of tars
            continue
        value = str(source) if option == "tars" else value
        with pytest.raises(
            (UsageError, ManifestError), match=r"means nothing for|leave it out; --|so --split x means nothing"
        ):
            open_manifest(source, options=SourceOptions(**{option: value}))


def test_audio_in_another_folder_than_its_list(cli_here, tmp_path, rows):
    """As Common Voice lays it out."""
    (tmp_path / "cv" / "clips").mkdir(parents=True)
    (tmp_path / "cv" / "clips" / "a.wav").write_bytes(rows[0]["file"].read_bytes())
    table = tmp_path / "cv" / "validated.tsv"
    table.write_text('client_id\tpath\tsentence\nx\ta.wav\tHe said "no\n')
    assert cli_here("validate", table, "--audio", "header").returncode == 3  # missing
    done = cli_here(
        "validate", table, "--audio", "header", "--audio-folder", tmp_path / "cv" / "clips", "--text-column", "sentence"
    )
    assert done.returncode == 0, done.stderr
    config = RunConfig(
        str(table), EngineConfig("x"), output="o.jsonl", audio_folder=os.path.relpath(tmp_path / "cv" / "clips")
    )
    assert data_of(open_manifest(table, options=config.reading).read(0)) == rows[0]["file"].read_bytes()
    with pytest.raises(
        UsageError, match="--audio-folder: means nothing for .*; it is for --format lhotse, --format jsonl"
    ):
        open_manifest(MAKERS["parquet"](tmp_path, rows), options=SourceOptions(audio_folder="/x"))
    with pytest.raises(UsageError, match="--audio-folder: paths on standard input are relative to the current folder"):
        _ = RunConfig("-", EngineConfig("x"), output="o.jsonl", audio_folder="clips").reading


def test_a_language_is_the_same_however_a_source_writes_it(tmp_path, rows):
    """Also of cuts, of which a tag or a name once passed for no language."""
    for kind in ("lhotse", "kaldi", "csv", "jsonl"):
        for number, lang in enumerate(("fr", "fr-FR", "fra", "French")):
            (tmp_path / f"{kind}{number}").mkdir()
            source = MAKERS[kind](tmp_path / f"{kind}{number}", [{**rows[0], "lang": lang}])
            read = open_manifest(source).read(0)
            assert read.lang == lang and find(read.lang, {"de", "fr"}) == "fr"
    (tmp_path / "other").mkdir()
    other = open_manifest(MAKERS["lhotse"](tmp_path / "other", [{**rows[0], "lang": "Klingonese"}])).read(0)
    assert other.lang is None and other.fields["language_name"] == "Klingonese"
