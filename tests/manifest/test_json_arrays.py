"""JSON arrays as manifests, and lhotse's recordings with supervisions.

| given | before | after |
|---|---|---|
| `to_json(orient="records")` of pandas and of `datasets` | refused: "is one JSON array" | its rows |
| an array with indents, with a byte-order mark, packed, on standard input, as several files | refused | its rows |
| two arrays joined with `cat` | refused | the rows of both |
| lhotse's `cuts.json`, in one line or indented | refused | its cuts |
| NeMo's `tarred_audio_manifest.json` as an array | refused | its rows |
| an array that is cut off, or closed wrongly | refused | refused: byte and what is wrong |
| a bad element among good ones | refused | a bad row, by its place |
| a comma behind the last element, or two | "write one JSON object per line" | "remove the comma" |
| `to_json` of pandas by columns (its default), index, split, table | bad row, no hint | how to write it |
| supervisions, or recordings, with the other one beside it | bad rows | a row for each supervision |
| both: with a comma, as a glob, as two arguments, in a folder, as arrays | bad rows, or no manifest | the same |
| recordings alone | bad rows | a row for each recording |
"""

import codecs
import gzip
import io
import itertools
import json
import random
import shutil
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_makers import MAKERS

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.validate import Validation
from asrbatch.storage import files, jsonl

LHOTSE = Path(__file__).parent.parent / "data" / "lhotse"
ROWS = [
    {"audio_filepath": "a.wav", "text": 'he said "]}", then \\', "tags": [[], {"x": [1, {}]}]},
    {"audio_filepath": "ü.wav", "id": "two", "duration": 1.5},
    {"audio_filepath": "c.wav", "note": {}},
]


def rows_of(source, **options):
    manifest = open_manifest(source, options=SourceOptions(**options))
    return [manifest.read(index).fields for index in range(len(manifest))]


def elements(text, most_bytes=1 << 20):
    return jsonl.elements("m.json", text.pread, most_bytes)


class Text:
    """A file of text, in memory."""

    def __init__(self, data: bytes):
        self._data = data

    def pread(self, count: int, start: int) -> bytes:
        return self._data[start : start + count]


WRITTEN = {
    "in one line": json.dumps(ROWS),
    "one a line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "indented": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "with a byte-order mark": "\ufeff \r\n" + json.dumps(ROWS),
    "joined by cat": json.dumps(ROWS[:1]) + "\n" + json.dumps(ROWS[1:]) + "\n[]",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 18])
def test_an_array_has_the_rows_of_its_lines(tmp_path, monkeypatch, text, block_bytes):
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", block_bytes)
    lines, array = tmp_path / "m.jsonl", tmp_path / "m.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    array.write_text(text, encoding="utf-8")
    assert open_manifest(array).scan.digest == open_manifest(lines).scan.digest
    manifest = open_manifest(array)
    order = [2, 0, 1, 1, 0, 2]
    assert [manifest.read(index).fields for index in order] == [ROWS[index] for index in order]
    assert manifest.where(1) == f"{array}[1]"


def test_what_pandas_and_datasets_write(tmp_path):
    import datasets
    import pandas as pd

    columns = {"audio_filepath": ["a.wav", "b/ü.wav"], "text": ["x", None]}
    rows = [{"audio_filepath": "a.wav", "text": "x"}, {"audio_filepath": "b/ü.wav", "text": None}]
    pd.DataFrame(columns).to_json(tmp_path / "pandas.json", orient="records")
    datasets.Dataset.from_dict(columns).to_json(tmp_path / "datasets.json", lines=False, orient="records")
    for name in ("pandas.json", "datasets.json"):
        assert (tmp_path / name).read_bytes().startswith(b"[")
        assert rows_of(tmp_path / name) == rows


def test_packed_several_and_renamed_arrays(tmp_path):
    packed = tmp_path / "m.json.gz"
    packed.write_bytes(gzip.compress(WRITTEN["indented"].encode()))
    assert rows_of(packed) == ROWS and rows_of(packed, format="jsonl") == ROWS
    for number, row in enumerate(ROWS):
        (tmp_path / f"part_{number}.json").write_text(json.dumps([row]))
    assert rows_of(tmp_path / "part_*.json") == ROWS
    (tmp_path / "other.json").write_text(json.dumps([{"wav": "a.wav"}]))
    assert rows_of(tmp_path / "other.json", audio_column="wav") == [{"audio_filepath": "a.wav"}]


def test_an_array_on_standard_input(monkeypatch):
    files._unnamed_copy.cache_clear()
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(WRITTEN["indented"].encode())}))
    assert rows_of("-") == ROWS
    files._unnamed_copy.cache_clear()


def test_an_array_of_members_of_nemo_tars(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(b"audio")
    rows = [{"id": f"u{n}", "text": "t", "duration": 1.0, "lang": "en", "file": file} for n in range(4)]
    (tmp_path / "d").mkdir()
    manifest = MAKERS["nemo-tar"](tmp_path / "d", rows) / "tarred_audio_manifest.json"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    digest = open_manifest(tmp_path / "d").scan.digest
    manifest.write_text(json.dumps(lines, indent=1))
    assert open_manifest(tmp_path / "d").scan.digest == digest
    # Nor are the tars read without their list, where that is called otherwise.
    manifest.rename(tmp_path / "d" / "m.json")
    with pytest.raises(ManifestError, match="also holds a list of audio"):
        open_manifest(tmp_path / "d")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (WRITTEN["in one line"][:-1], "byte 158: the array that goes on here is not closed; is it cut off? copy it"),
        ('[{"audio_filepath": "a.wav"}, {"audio_filepath": "b', "byte 29: the array that goes on here is not closed"),
        ('[{"audio_filepath": "a.wav"},', "is not closed"),
        ('[{"audio_filepath": "a.wav"}] {"audio_filepath": "b.wav"}', "byte 29: something other than an array stands"),
        ('[{"audio_filepath": "a.wav"}] "', "something other than an array stands here; remove it"),
        ('[{"audio_filepath": "a.wav"}}', "byte 28: the array is closed by a }"),
        ("[]", "holds no rows"),
    ],
)
def test_what_is_no_whole_array_is_refused_with_its_place(tmp_path, text, problem):
    path = tmp_path / "m.json"
    path.write_text(text)
    # Also where bad rows may fail: how many there were, nobody knows.
    with pytest.raises(ManifestError) as caught:
        open_manifest(path, options=SourceOptions(on_bad_row="fail"))
    assert problem in str(caught.value) and str(path) in str(caught.value)


def test_a_bad_element_is_a_bad_row_by_its_place(tmp_path):
    good = b'{"audio_filepath": "a.wav"}'
    bad = [b'"b.wav"', b"null", b"", b'{"audio_filepath": "b.wav"} {"x": 1}', b'{"audio_filepath": "\xff.wav"}', b"[1]"]
    path = tmp_path / "m.json"
    path.write_bytes(b"[" + b", ".join(itertools.chain.from_iterable((good, each) for each in bad)) + b", ]")
    manifest = open_manifest(path, options=SourceOptions(on_bad_row="fail"))
    problems = [manifest.read(index).problem for index in range(len(manifest))]
    assert len(problems) == 13 and manifest.num_bad == 7
    assert [problem is None for problem in problems] == [True, False] * 6 + [False]
    for index, problem in ((1, "not a JSON object"), (5, "no row stands"), (7, "Extra data"), (9, "not UTF-8")):
        assert problems[index].startswith(f"{path}[{index}]: ") and problem in problems[index]


def test_clean_rows_of_an_array_are_lines(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([*ROWS, {"audio_filepath": 5}], indent=1))
    found = Validation([str(path)], SourceOptions(), for_lines=True)
    found.write_clean(tmp_path / "clean.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [{**line, "id": None} for line in lines] == [{**row, "id": None} for row in ROWS]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=6), st.sampled_from([None, 0, 1, 3]), st.sampled_from([(",", ":"), (" , ", " : ")]))
def test_elements_of_any_array_are_found(array, indent, separators):
    text = json.dumps(array, indent=indent, separators=separators, ensure_ascii=False).encode()
    found = list(elements(Text(text)))
    assert [json.loads(element) for _, element in found] == array
    assert all(text[start : start + len(element)] == element for start, element in found)


def test_memory_does_not_grow_with_an_array():
    element = json.dumps({"audio_filepath": "a.wav", "text": "x" * 200, "more": {"y": [1, 2]}}).encode() + b",\n"

    class Long(Text):
        """An array of 4 MB that is made as it is read."""

        def pread(self, count: int, start: int) -> bytes:
            end = min(start + count, 4_000_000)
            first = start % len(element)
            return (element * ((end - start) // len(element) + 2))[first : first + max(0, end - start)]

    class LongArray(Long):
        def pread(self, count: int, start: int) -> bytes:
            return b"[" + super().pread(count - 1, 0) if start == 0 else super().pread(count, start - 1)

    tracemalloc.start()
    num_rows = 0
    with pytest.raises(ManifestError, match="not closed"):
        for _, found in elements(LongArray(b"")):
            num_rows += b"audio_filepath" in found
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_rows == 4_000_000 // len(element) and peak < 2_000_000


def test_an_element_has_a_bound(monkeypatch):
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 64)
    with pytest.raises(ManifestError, match="byte 1: a row of more than 1000 bytes; is a quote"):
        list(elements(Text(b'[{"a": "' + b"x" * 10_000), 1000))


# --- lhotse -----------------------------------------------------------------------------------------------------------


def said(source, **options):
    manifest = open_manifest(source, options=SourceOptions(**options))
    rows = [manifest.read(index) for index in range(len(manifest))]
    keys = ("text", "speaker", "recording", "custom")
    return [
        (row.id, row.audio.path, row.offset_s, row.duration_s, row.channel, row.lang, *map(row.fields.get, keys))
        for row in rows
    ]


@pytest.fixture
def lhotse(tmp_path):
    folder = tmp_path / "lhotse"
    shutil.copytree(LHOTSE, folder)
    (folder / "make.py").unlink()
    return folder


def test_supervisions_are_what_lhotse_trims_cuts_to(lhotse):
    trimmed = said(lhotse / "trimmed.jsonl")
    pair = said(lhotse / "demo_supervisions_test.jsonl.gz")
    # In the order of the supervisions; lhotse's is that of the recordings. Trimmed cuts lose `custom`.
    assert [row[0] for row in pair] == ["call-2", "call-1", "meeting-1", "meeting-2"]
    assert pair[0][-1] == {"k": 1} and sorted(row[:-1] for row in pair) == sorted(row[:-1] for row in trimmed)
    assert pair[2] == ("meeting-1", str(lhotse / "audio/meeting.wav"), 0.0, 2.0, 1, None, "drei", None, "meeting", None)


def test_a_pair_is_the_same_however_it_is_given(lhotse):
    pair = said(lhotse / "demo_supervisions_test.jsonl.gz")
    recordings, supervisions = (str(lhotse / f"demo_{kind}_test.jsonl.gz") for kind in ("recordings", "supervisions"))
    for given_as in (
        recordings, f"{supervisions},{recordings}", lhotse / "demo_*_test.jsonl.gz", [recordings, supervisions],
        [supervisions, Path(recordings)], lhotse / "demo_supervisions_dev.json", lhotse / "demo_recordings_dev.json",
    ):  # fmt: skip
        assert said(given_as) == pair
    assert said(supervisions, format="lhotse") == pair


def test_a_folder_of_pairs_has_splits(lhotse):
    pair = said(lhotse / "demo_supervisions_test.jsonl.gz")
    with pytest.raises(ManifestError, match=r"several splits \(demo_dev, demo_test\); choose one with --split"):
        open_manifest(lhotse)
    assert said(lhotse, split="demo_test") == said(lhotse, split="demo_dev") == pair
    for path in lhotse.glob("*_dev.json"):
        path.unlink()
    assert said(lhotse) == pair


def test_recordings_alone_are_whole_rows(lhotse):
    (lhotse / "demo_supervisions_test.jsonl.gz").unlink()
    audio = [str(lhotse / "audio" / f"{name}.wav") for name in ("meeting", "call", "unlabelled")]
    rows = said(lhotse / "demo_recordings_test.jsonl.gz")
    assert [row[:5] for row in rows] == [
        (name, path, 0.0, 3.0, None) for name, path in zip(("meeting", "call", "unlabelled"), audio, strict=True)
    ]


def test_a_recording_without_supervision_is_said_to_be_left_out(lhotse):
    manifest = open_manifest(lhotse / "demo_supervisions_test.jsonl.gz")
    told = '1 recording has no supervision ("unlabelled"), so no row'
    assert manifest.left_out == f"{lhotse / 'demo_recordings_test.jsonl.gz'}: {told}"


def test_supervisions_without_their_recording_are_refused(lhotse):
    recordings, supervisions = (lhotse / f"demo_{kind}_dev.json" for kind in ("recordings", "supervisions"))
    kept = json.loads(recordings.read_text())
    recordings.write_text(json.dumps([*kept[:1], kept[0]]))
    with pytest.raises(ManifestError) as caught:
        open_manifest(supervisions)
    message = str(caught.value)
    assert f'{supervisions}[0]: recording_id = "call": the recordings lack it; correct that (lhotse fix)' in message
    assert f'[2]: recording_id = "meeting": given twice: {recordings}[0] and {recordings}[1]' in message
    recordings.write_text('[{"sources": [], "id": ["a"]}]')
    with pytest.raises(ManifestError, match=r"recordings_dev\.json\[0\]: .*; write the recordings again"):
        open_manifest(supervisions)
    recordings.unlink()
    with pytest.raises(ManifestError, match="holds supervisions, and no recordings are beside it; give both, with a"):
        open_manifest(supervisions)


def test_cuts_in_an_array_are_the_cuts_of_lines(lhotse):
    cuts = json.loads((lhotse / "cuts.json").read_text())
    (lhotse / "cuts.jsonl").write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    (lhotse / "line.json").write_text(json.dumps(cuts))
    assert len(said(lhotse / "cuts.json")) == 3
    assert said(lhotse / "cuts.json") == said(lhotse / "cuts.jsonl") == said(lhotse / "line.json")


def test_many_supervisions_in_any_order(tmp_path):
    recordings = [
        {"id": f"r{n}", "sources": [{"type": "file", "channels": [0], "source": f"{n}.wav"}], "sampling_rate": 8000,
         "num_samples": 80000, "duration": 10.0, "channel_ids": [0]}
        for n in range(300)
    ]  # fmt: skip
    supervisions = [
        {"id": f"s{n}", "recording_id": f"r{n % 300}", "start": n / 100, "duration": 0.5, "channel": 0}
        for n in range(600)
    ]
    random.Random(1).shuffle(supervisions)
    for name, entries in (("recordings", recordings), ("supervisions", supervisions)):
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    rows = said(tmp_path / "supervisions.jsonl.gz")
    assert [(row[0], row[8], row[2]) for row in rows] == [
        (s["id"], s["recording_id"], s["start"]) for s in supervisions
    ]


def test_a_byte_order_mark_before_recordings(lhotse):
    path = lhotse / "demo_recordings_dev.json"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert len(said(lhotse / "demo_supervisions_dev.json")) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"audio_filepath": "a.wav"},]', "[1]: […,]: no row stands behind a comma; remove the comma"),
        ('[{"audio_filepath": "a.wav"},, {}]', "[1]: […,]: no row stands behind a comma; remove the comma"),
        ('[{"audio_filepath": "a.wav"}\n, ]', "[1]: […,]: no row stands behind a comma; remove the comma"),
        ('[{"audio_filepath": "a.wav"} {}]', "Extra data at column 29; write JSON objects, with a comma between two"),
        ('[{}, nonsense]', "[1]: nonsense: not JSON: Expecting value at column 2; write JSON objects, with a comma"),
        ('[{}, 3]', "[1]: 3: not a JSON object; write JSON objects, with a comma between two"),
    ],
)  # fmt: skip
def test_what_is_no_element_is_not_asked_to_be_a_line(tmp_path, text, said):
    (tmp_path / "m.json").write_text(text)
    assert any(said in problem for problem in problems_of(tmp_path / "m.json")), said


def problems_of(path: Path) -> list[str]:
    manifest = open_manifest(path, options=SourceOptions(on_bad_row="fail"))
    return [manifest.read(index).problem or "" for index in range(len(manifest))]


ORIENTS = {
    "columns": {"audio_filepath": {"0": "a.wav", "1": "b.wav"}, "text": {"0": "x", "1": "y"}},
    "index": {"0": {"audio_filepath": "a.wav"}, "1": {"audio_filepath": "b.wav"}},
    "split": {"columns": ["audio_filepath"], "index": [0, 1], "data": [["a.wav"], ["b.wav"]]},
    "table": {"schema": {"fields": []}, "data": [{"index": 0, "audio_filepath": "a.wav"}]},
}


@pytest.mark.parametrize("orient", ORIENTS)
def test_a_table_of_pandas_is_told_how_to_be_written(tmp_path, orient):
    (tmp_path / "m.json").write_text(json.dumps(ORIENTS[orient]))
    (problem,) = problems_of(tmp_path / "m.json")
    fix = 'a whole table in one object, as pandas writes it; write it with to_json(path, orient="records", lines=True)'
    assert problem.endswith(fix)
