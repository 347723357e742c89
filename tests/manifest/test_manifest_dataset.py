"""Data sets and Parquet: the same rows as in JSON Lines, the right column, audio read late, alone and from threads."""

import datetime
import decimal
import io
import itertools
import json
import os
import random
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError, RowError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.readers import parquet

NUM_ROWS = 23
datasets.disable_progress_bars()


def wav(number):
    """A small WAV file that is different for every number."""
    file = io.BytesIO()
    soundfile.write(file, np.full(50 + number, number / 1000, np.float32), 16_000, format="WAV")
    return file.getvalue()


AUDIO = [wav(number) for number in range(NUM_ROWS)]
ROWS = [
    {"id": f"r{n}", "offset": n * 0.25, "duration": 1.5 + n, "lang": "en" if n % 2 else None, "text": f"text {n}"}
    for n in range(NUM_ROWS)
]


def table(rows=ROWS, audio=AUDIO, paths=None, **columns):
    """An Arrow table of these rows, with an audio column as `datasets` stores it."""
    paths = paths or [None] * len(rows)
    cells = [{"bytes": data, "path": path} for data, path in zip(audio[: len(rows)], paths, strict=True)]
    audio_column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    names = list(rows[0]) if rows else []
    made = {"audio": audio_column} | {name: pa.array([row[name] for row in rows]) for name in names}
    return pa.table(made | {name: pa.array(values) for name, values in columns.items()})


def save(folder, arrow, split=None):
    data = datasets.Dataset(arrow, split=split)
    if "audio" in arrow.column_names:
        data = data.cast_column("audio", datasets.Audio())
    data.save_to_disk(folder)
    return folder


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"audio_filepath": "a.wav", **row}) + "\n" for row in rows))
    return path


def write_parquet(path, arrow, row_group_size=5, **options):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(arrow, path, row_group_size=row_group_size, **options)
    return path


def shards(folder, num_files=3, split="train"):
    """ROWS over some files, named as the hub names them, each of several row groups."""
    bounds = np.linspace(0, NUM_ROWS, num_files + 1).astype(int)
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        write_parquet(folder / f"{split}-{number:05d}-of-{num_files:05d}.parquet", table()[start:end], 3)
    return folder


def read_all(manifest):
    return [manifest.read(index) for index in range(len(manifest))]


SOURCES = {
    "parquet file": lambda tmp: write_parquet(tmp / "rows.parquet", table()),
    "parquet folder": lambda tmp: shards(tmp / "folder"),
    "parquet glob": lambda tmp: shards(tmp / "folder") / "*.parquet",
    "saved": lambda tmp: save(tmp / "saved", table()),
    "saved in shards": lambda tmp: datasets.Dataset(table()).save_to_disk(tmp / "saved", num_shards=4) or tmp / "saved",
    "saved dict": lambda tmp: (
        datasets.DatasetDict({"train": datasets.Dataset(table())}).save_to_disk(tmp / "dict") or tmp / "dict"
    ),
}


@pytest.fixture(params=SOURCES, ids=str)
def source(request, tmp_path):
    return SOURCES[request.param](tmp_path)


# --- the same as JSON Lines -------------------------------------------------------------------------------------------


def test_rows_ids_and_digest_are_those_of_json_lines(source, tmp_path):
    expected = open_manifest(write_jsonl(tmp_path / "m.jsonl", ROWS))
    manifest = open_manifest(source)
    assert manifest.source == str(source)
    assert manifest.scan.digest == expected.scan.digest
    np.testing.assert_array_equal(manifest.scan.durations_s, expected.scan.durations_s)
    for found, wanted in zip(read_all(manifest), read_all(expected), strict=True):
        assert (found.index, found.id, found.offset_s, found.duration_s) == (
            wanted.index, wanted.id, wanted.offset_s, wanted.duration_s
        )  # fmt: skip
        assert (found.channel, found.lang, found.prompt) == (wanted.channel, wanted.lang, wanted.prompt)
        assert found.fields == {"audio_filepath": wanted.id, **ROWS[wanted.index]}
        assert next(iter(found.fields)) == "audio_filepath"  # where the audio column was


def test_audio_is_that_of_the_row_in_any_order_and_from_threads(source, monkeypatch):
    monkeypatch.setattr(parquet, "_AUDIO_BATCH_BYTES", 500)  # batches of a few rows
    manifest = open_manifest(source)
    assert [utterance.audio.resolve() for utterance in read_all(manifest)] == AUDIO
    order = list(range(NUM_ROWS)) * 10
    random.Random(3).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda index: manifest.read(index).audio.resolve(), order))
    assert loaded == [AUDIO[index] for index in order]


@settings(max_examples=30, deadline=None)
@given(
    row_group_size=st.integers(1, NUM_ROWS),
    batch_bytes=st.sampled_from([1, 300, 1000, 1 << 20]),
    order=st.lists(st.integers(0, NUM_ROWS - 1), min_size=1, max_size=40),
)
def test_any_order_of_reading_gives_the_right_rows(tmp_path_factory, row_group_size, batch_bytes, order):
    path = write_parquet(tmp_path_factory.mktemp("m") / "rows.parquet", table(), row_group_size)
    with (
        mock.patch.object(parquet, "_AUDIO_BATCH_BYTES", batch_bytes),
        mock.patch.object(parquet, "_LIGHT_BATCH_BYTES", batch_bytes),
    ):
        manifest = open_manifest(path)
    for index in order:
        utterance = manifest.read(index)
        assert (utterance.id, utterance.audio.resolve()) == (f"r{index}", AUDIO[index])


def test_digest_takes_the_rows_in_the_order_of_file_names(tmp_path):
    whole = open_manifest(write_parquet(tmp_path / "rows.parquet", table()))
    assert open_manifest(shards(tmp_path / "a")).scan.digest == whole.scan.digest
    backwards = shards(tmp_path / "b", 2)
    first, _ = sorted(backwards.iterdir())
    first.rename(backwards / "z.parquet")
    second = backwards / "train-00001-of-00002.parquet"
    second.rename(backwards / "y.parquet")
    assert open_manifest(backwards).scan.digest != whole.scan.digest
    assert open_manifest(backwards).read(0).id == f"r{pq.read_metadata(backwards / 'z.parquet').num_rows}"


# --- ids, splits ------------------------------------------------------------------------------------------------------

NO_IDS = table().drop_columns("id")


@pytest.mark.parametrize(
    ("make", "split", "label"),
    [
        (lambda tmp: save(tmp / "s", NO_IDS), None, "data"),
        (lambda tmp: save(tmp / "s", NO_IDS, datasets.Split.TEST), None, "test"),
        (lambda tmp: save(tmp / "s", NO_IDS, datasets.Split.TEST), "test", "test"),
        (lambda tmp: write_parquet(tmp / "clips.parquet", NO_IDS), None, "clips"),
        (lambda tmp: write_parquet(tmp / "dev-00000-of-00001.parquet", NO_IDS), None, "dev"),
        (lambda tmp: write_parquet(tmp / "dev-00001-of-00002-0a1b.parquet", NO_IDS), None, "dev-00001-of-00002-0a1b"),
        (lambda tmp: write_parquet(tmp / "d" / "dev-00000-of-00001-0a1b.parquet", NO_IDS).parent, None, "dev"),
        (lambda tmp: write_parquet(tmp / "d" / "part-0.parquet", NO_IDS).parent, None, "data"),
    ],
)
def test_rows_without_ids_are_called_by_split_and_row(tmp_path, make, split, label):
    manifest = open_manifest(make(tmp_path), options=SourceOptions(split=split))
    utterances = read_all(manifest)
    assert [utterance.id for utterance in utterances] == [f"{label}/{n}" for n in range(NUM_ROWS)]
    assert [utterance.audio.name for utterance in utterances] == [f"{label}/{n}" for n in range(NUM_ROWS)]
    assert utterances[3].fields["audio_filepath"] == f"{label}/3"


def test_a_given_id_may_not_be_the_made_one_of_another_row(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", table(id=[f"t/{n - 1}" if n == 4 else None for n in range(NUM_ROWS)]))
    with pytest.raises(ManifestError, match=rf'{path}:t/4: id = "t/3": {path}:t/3 has it already; ids must be unique'):
        open_manifest(path)


def test_splits_are_chosen_by_name(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset(table()[:5]), "test": datasets.Dataset(table()[5:])}).save_to_disk(
        tmp_path / "saved"
    )
    folder = shards(tmp_path / "parquet", 2, "test")
    shards(folder, 1, "train")
    for source in (tmp_path / "saved", folder, folder / "*.parquet"):
        with pytest.raises(ManifestError) as caught:
            open_manifest(source)
        names = "train, test" if source.name == "saved" else "test, train"
        assert str(caught.value) == f"{source}: holds several splits ({names}); choose one with --split"
        with pytest.raises(ManifestError, match='has no split "dev"; there is t'):
            open_manifest(source, options=SourceOptions(split="dev"))
    assert len(open_manifest(tmp_path / "saved", options=SourceOptions(split="test"))) == NUM_ROWS - 5
    assert open_manifest(tmp_path / "saved", options=SourceOptions(split="test")).read(0).id == "r5"
    assert len(open_manifest(folder, options=SourceOptions(split="test"))) == NUM_ROWS


def test_split_of_a_source_without_splits_is_refused(tmp_path):
    for source in (save(tmp_path / "s", table()), write_parquet(tmp_path / "rows.parquet", table())):
        with pytest.raises(ManifestError, match="has no splits, so --split test means nothing; leave it out"):
            open_manifest(source, options=SourceOptions(split="test"))
    with pytest.raises(ManifestError, match='has no split "test"; there is train'):
        open_manifest(save(tmp_path / "s2", table(), datasets.Split.TRAIN), options=SourceOptions(split="test"))


# --- the audio column -------------------------------------------------------------------------------------------------


def string_column(name, **more):
    return pa.table({name: ["x.wav", "/abs/y.wav"], "text": ["a", "b"], **more})


@pytest.mark.parametrize("name", ["audio_filepath", "audio", "path", "file"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_string_column_of_a_known_name_holds_paths(tmp_path, name, kind):
    arrow = string_column(name)
    arrow = arrow.set_column(0, name, arrow[name].cast(kind))
    manifest = open_manifest(write_parquet(tmp_path / "rows.parquet", arrow))
    first, second = read_all(manifest)
    assert (first.audio.path, first.audio.name) == (str(tmp_path / "x.wav"), "x.wav")
    assert second.audio.path == "/abs/y.wav"
    assert first.fields == {"audio_filepath": "x.wav", "text": "a"}


def test_an_audio_feature_or_struct_goes_before_a_string_column(tmp_path):
    arrow = table(paths=[f"{n}.wav" for n in range(NUM_ROWS)], path=[f"elsewhere/{n}" for n in range(NUM_ROWS)])
    for source in (save(tmp_path / "s", arrow), write_parquet(tmp_path / "rows.parquet", arrow)):
        utterance = open_manifest(source).read(7)
        assert utterance.audio.resolve() == AUDIO[7]
        assert (utterance.fields["audio_filepath"], utterance.fields["path"]) == ("7.wav", "elsewhere/7")
        named = arrow.rename_columns({"path": "audio_filepath"})
    utterance = open_manifest(write_parquet(tmp_path / "named.parquet", named)).read(7)
    assert utterance.audio.resolve() == AUDIO[7]
    assert utterance.fields == {**ROWS[7], "audio_filepath": "elsewhere/7"}  # the data set's own name for it stays
    turned = named.select(["audio_filepath", "id", "audio"])
    utterance = open_manifest(write_parquet(tmp_path / "turned.parquet", turned)).read(7)
    assert utterance.fields == {"audio_filepath": "elsewhere/7", "id": "r7"}


def test_the_declared_audio_feature_is_chosen_among_structs(tmp_path):
    arrow = table(image=[{"bytes": b"png", "path": None}] * NUM_ROWS)
    data = datasets.Dataset(arrow).cast_column("audio", datasets.Audio()).cast_column("image", datasets.Image())
    data.to_parquet(tmp_path / "rows.parquet")
    data.save_to_disk(tmp_path / "saved")
    plain = table(made_of=[{"bytes": b"x", "path": None}] * NUM_ROWS)  # a struct without a feature of its own
    datasets.Dataset(plain).cast_column("audio", datasets.Audio()).save_to_disk(tmp_path / "plain")
    for source in (tmp_path / "rows.parquet", tmp_path / "saved", tmp_path / "plain"):
        assert open_manifest(source).read(3).audio.resolve() == AUDIO[3]
    datasets.Dataset(arrow.drop_columns("audio")).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "no")
    with pytest.raises(
        ManifestError, match="no: no audio column among id, offset, duration, lang, text, image; expected"
    ):
        open_manifest(tmp_path / "no")


def plain_bytes(arrow, kind):
    return arrow.set_column(0, "audio", pa.array(AUDIO[: len(arrow)], kind))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("how", ["parquet", "arrow", "saved"])
def test_a_column_of_plain_bytes_is_audio(tmp_path, how, kind, alone):
    arrow = plain_bytes(table(), kind)
    arrow = arrow.select(["audio"]) if alone else arrow
    source = tmp_path / f"rows.{how}"
    if how == "saved":
        datasets.Dataset(arrow).save_to_disk(source)
    elif how == "arrow":
        with pa.ipc.new_file(source, arrow.schema) as file:
            file.write_table(arrow)
    else:
        write_parquet(source, arrow)
    rows = read_all(open_manifest(source))
    assert [row.audio.resolve() for row in rows] == AUDIO
    if not alone:
        write_parquet(tmp_path / "rows.parquet", table())
        same = open_manifest(tmp_path / "rows.parquet")
        assert open_manifest(source).scan.digest == same.scan.digest
        for row, other in zip(rows, read_all(same), strict=True):
            assert (row.id, row.offset_s, row.fields) == (other.id, other.offset_s, other.fields)


def test_a_null_among_plain_bytes_without_statistics_is_a_missing_one(tmp_path):
    cells = pa.array([AUDIO[0], None], pa.binary())
    source = write_parquet(tmp_path / "rows.parquet", pa.table({"audio": cells}), write_statistics=False)
    rows = read_all(open_manifest(source))
    assert rows[0].audio.resolve() == AUDIO[0]
    with pytest.raises(RowError, match="missing: .*/1: the audio cell holds neither bytes nor a path; drop the row"):
        rows[1].audio.resolve()


@pytest.mark.parametrize(
    ("arrow", "problem"),
    [
        (
            pa.table({"audio": [b"x"], "path": ["a.wav"]}),
            r"several columns may hold the audio \(audio, path\); choose one with --audio-column",
        ),
        (
            table(other=[{"bytes": b"x", "path": None}] * NUM_ROWS),
            r"several columns may hold the audio \(audio, other\);",
        ),
        (
            string_column("path", file=["a", "b"]),
            r"several columns may hold the audio \(path, file\); choose one with --audio-column",
        ),
        (
            pa.table({"sound": ["a.wav"]}),
            "no audio column among sound; expected an Audio feature, a struct of bytes and",
        ),
        (pa.table({"audio": [1]}), "no audio column among audio; expected"),
        (
            pa.table({"clips": [[{"bytes": b"x", "path": None}] * 2]}),
            "the column clips is a list: several clips in one row are not supported; write one row per clip",
        ),
        (
            pa.table({"audio": [["a.wav", "b.wav"]]}),
            "the column audio is a list: several clips in one row are not supported",
        ),
        (pa.table([["a"], ["b"]], ["path", "path"]), 'two columns are named "path"; rename one of them'),
    ],
)
def test_not_exactly_one_audio_column_is_an_error(tmp_path, arrow, problem):
    with pytest.raises(ManifestError, match=rf"^{tmp_path}/rows\.parquet: {problem}"):
        open_manifest(write_parquet(tmp_path / "rows.parquet", arrow))


def test_two_audio_features_are_an_error(tmp_path):
    arrow = table(second=[{"bytes": b"x", "path": None}] * NUM_ROWS)
    data = datasets.Dataset(arrow).cast_column("audio", datasets.Audio()).cast_column("second", datasets.Audio())
    data.save_to_disk(tmp_path / "saved")
    with pytest.raises(ManifestError, match=r"several columns may hold the audio \(audio, second\)"):
        open_manifest(tmp_path / "saved")


# --- paths in cells ---------------------------------------------------------------------------------------------------


def test_cells_without_bytes_are_paths_relative_to_the_data_set(tmp_path):
    paths = ["in.wav", "/abs/y.wav", *[f"{n}.wav" for n in range(NUM_ROWS - 2)]]
    arrow = table(audio=[None] * NUM_ROWS, paths=paths)
    datasets.Dataset(arrow).save_to_disk(tmp_path / "saved")
    for source in (tmp_path / "saved", write_parquet(tmp_path / "parquet" / "x.parquet", arrow).parent):
        first, second, *_ = read_all(open_manifest(source))
        assert (first.audio.path, first.audio.load, first.fields["audio_filepath"]) == (
            f"{source}/in.wav",
            None,
            "in.wav",
        )
        assert second.audio.path == "/abs/y.wav"


def test_a_row_group_of_bytes_and_paths_is_read_cell_by_cell(tmp_path):
    audio = [AUDIO[0], None, None, None, b"", None]
    paths = ["label.wav", "in.wav", "none.wav", None, None, "ftp://h/a.wav"]
    (tmp_path / "in.wav").write_bytes(AUDIO[9])
    # Without statistics it is not known which cells are empty.
    path = write_parquet(tmp_path / "rows.parquet", table(ROWS[:6], audio, paths), 6, write_statistics=False)
    manifest = open_manifest(path)
    load = [utterance.audio.resolve for utterance in read_all(manifest)]
    assert (load[0](), load[1](), load[4]()) == (AUDIO[0], AUDIO[9], b"")
    with pytest.raises(
        RowError, match=f"missing: rows/2: {tmp_path}/none.wav does not exist, and the audio cell holds no"
    ):
        load[2]()
    with pytest.raises(RowError, match="missing: rows/3: the audio cell holds neither bytes nor a path; drop the row"):
        load[3]()
    with pytest.raises(RowError, match=r"missing: rows/5: .*ftp://h/a\.wav does not exist"):
        load[5]()


def test_cells_known_to_be_empty_are_bad_rows(tmp_path):
    audio, paths = [None] * 3, ["a.wav", None, "ftp://h/a.wav"]
    for source in (
        write_parquet(tmp_path / "rows.parquet", table(ROWS[:3], audio, paths)),
        datasets.Dataset(table(ROWS[:3], audio, paths)).save_to_disk(tmp_path / "s") or tmp_path / "s",
    ):
        with pytest.raises(ManifestError) as caught:
            open_manifest(source)
        head, first, second = str(caught.value).splitlines()
        assert "2 problems in 3 rows" in head
        assert "/1: audio_filepath = null: is empty" in first
        assert '/2: audio_filepath = "ftp://h/a.wav": ftp:// is not supported' in second


@pytest.mark.parametrize("how", ["plain bytes", "structs"])
def test_empty_cells_among_full_ones_are_the_same_bad_rows_in_every_format(tmp_path, how):
    audio, paths = (
        [AUDIO[0], None, None, b"", None, *AUDIO[:4]],
        ["a.wav", "in.wav", None, None, "ftp://h/a.wav", *"...."],
    )
    if how == "structs":
        arrow = table(ROWS[:9], audio, paths)
    else:
        arrow = table(ROWS[:9]).set_column(0, "audio", pa.array(audio, pa.binary()))
    with pa.ipc.new_file(tmp_path / "rows.arrow", arrow.schema) as file:
        file.write_table(arrow)
    datasets.Dataset(arrow).save_to_disk(tmp_path / "saved")
    parquet = write_parquet(tmp_path / "rows.parquet", arrow, 5)
    destroy_audio_of_group(parquet, 1)  # where no cell is empty the audio is not looked at
    found = []
    for source in (parquet, tmp_path / "rows.arrow", tmp_path / "saved"):
        problems = []
        manifest = open_manifest(source, options=SourceOptions(on_bad_row="fail"), on_issue=problems.append)
        assert [n for n in range(9) if manifest.read(n).problem] == [each.row for each in problems]
        assert (manifest.read(0).audio.resolve(), manifest.read(3).audio.resolve()) == (AUDIO[0], b"")
        found.append([(each.row, each.kind, each.text) for each in problems])
    assert found[0] == found[1] == found[2]
    assert [row for row, *_ in found[0]] == ([2, 4] if how == "structs" else [1, 2, 4])


def test_audio_that_is_damaged_among_empty_cells_stops_no_scan(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", table(ROWS[:3], [AUDIO[0], None, AUDIO[2]]), 3)
    destroy_audio_of_group(path, 0)
    for row in read_all(open_manifest(path)):
        with pytest.raises(RowError, match=rf"unreadable: {path}: cannot be read as Parquet"):
            row.audio.resolve()


# --- fields and bad rows ----------------------------------------------------------------------------------------------


def test_every_other_column_is_carried_as_json_can_hold_it(tmp_path):
    at = datetime.datetime(2024, 5, 6, 7, 8, 9)
    columns = {
        "when": [at], "day": [at.date()], "time": [at.time()], "span": [datetime.timedelta(seconds=1.5)],
        "money": [decimal.Decimal("1.10")], "blob": [b"abc"], "words": [[{"w": "a", "at": at, "raw": b"abc"}]],
        "small": pa.array([np.float16(0.5)]), "flag": [True], "none": pa.array([None], pa.int32()), "whole": [3],
        "real": [0.5], "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "ns": pa.array([1], pa.timestamp("ns")),
    }  # fmt: skip
    sha = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc" (FIPS 180-2)
    expected = {
        "when": "2024-05-06T07:08:09", "day": "2024-05-06", "time": "07:08:09", "span": 1.5, "money": "1.10",
        "blob": sha, "words": [{"w": "a", "at": "2024-05-06T07:08:09", "raw": sha}], "small": 0.5, "flag": True,
        "none": None, "whole": 3, "real": 0.5, "map": [["k", 1]], "ns": "1970-01-01T00:00:00.000000001",
    }  # fmt: skip
    arrow = table(ROWS[:1], **columns)
    for source in (write_parquet(tmp_path / "rows.parquet", arrow), tmp_path / "saved"):
        if source.name == "saved":
            arrow = arrow.drop_columns(["small", "map", "time"])  # not known to datasets, or not in this form
            datasets.Dataset(arrow).save_to_disk(source)
        fields = open_manifest(source).read(0).fields
        assert json.loads(json.dumps(fields)) == fields  # a list is a list, a date is a string
        wanted = {"audio_filepath": "r0", **ROWS[0], **expected}
        assert fields == {name: wanted[name] for name in fields}
        assert list(fields) == ["audio_filepath", *arrow.column_names[1:]]


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("duration", [-1.0], "duration = -1.0: must be a number of seconds from 0"),
        ("duration", ["3"], 'duration = "3": is a string; remove the quotes'),
        ("offset", [float("nan")], "offset = NaN: must be a number"),
        ("channel", [1.0], "channel = 1.0: must be a whole number"),
        ("lang", [7], "lang = 7: must be a language code"),
        ("text", [["a"]], 'text = ["a"]: must be a string'),
        ("id", [1.5], "id = 1.5: must be a non-empty string"),
        ("temperature", [0.2], "temperature = 0.2: is set for the whole run"),
        ("audios", [["a", "b"]], 'audios = ["a", "b"]: several clips in one row'),
    ],
)
def test_columns_named_as_row_fields_are_checked_as_rows_are(tmp_path, column, values, problem):
    row = {name: value for name, value in ROWS[0].items() if name != column}
    arrow = table([row], **{column: values})
    path = write_parquet(tmp_path / "rows.parquet", arrow)
    datasets.Dataset(arrow).save_to_disk(tmp_path / "saved")
    for source, place in ((path, "rows/0"), (tmp_path / "saved", "data/0")):
        with pytest.raises(ManifestError) as caught:
            open_manifest(source)
        head, line = str(caught.value).splitlines()
        assert head == f"{source}: 1 problem in 1 row; nothing was run"
        assert line.startswith(f"{source}:{place}: {problem}")


def test_whole_number_ids_and_nulls_mean_what_they_mean_in_json(tmp_path):
    rows = [{"id": 5, "temperature": None, "audios": None}, {"id": None, "temperature": None, "audios": None}]
    manifest = open_manifest(write_parquet(tmp_path / "rows.parquet", table(rows)))
    assert [utterance.id for utterance in read_all(manifest)] == ["5", "rows/1"]
    assert manifest.read(1).fields["audio_filepath"] == "rows/1"


def test_check_sees_rows_of_data_sets_without_their_heavy_columns(tmp_path):
    arrow = table(target_lang=["fr"] * NUM_ROWS, vector=[[0.5]] * NUM_ROWS, blob=[b"x"] * NUM_ROWS)
    path, seen = write_parquet(tmp_path / "rows.parquet", arrow), []
    with pytest.raises(ManifestError, match=r"rows/0: target_lang = fr: no; drop it"):
        open_manifest(
            path, check=lambda u: seen.append(set(u.fields)) or f"target_lang = {u.fields['target_lang']}: no; drop it"
        )
    assert seen == [{"audio_filepath", *ROWS[0], "target_lang"}] * NUM_ROWS
    assert set(open_manifest(path).read(0).fields) == {"audio_filepath", *ROWS[0], "target_lang", "vector", "blob"}


def test_no_rows_is_an_error(tmp_path):
    empty = table()[:0]
    datasets.Dataset(empty).save_to_disk(tmp_path / "saved")
    for source in (write_parquet(tmp_path / "rows.parquet", empty), tmp_path / "saved"):
        with pytest.raises(ManifestError, match=f"^{source}: holds no rows; expected at least one utterance$"):
            open_manifest(source)


# --- damaged, mixed, changed ------------------------------------------------------------------------------------------


def test_damaged_sources_are_named(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", table())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ManifestError, match=rf"^{path}: cannot be read as Parquet: .*; is it complete\?$"):
        open_manifest(path)
    folder = save(tmp_path / "saved", table())
    next(folder.glob("*.arrow")).write_bytes(b"nonsense")
    with pytest.raises(ManifestError, match=rf"^{folder}/.*\.arrow: cannot be read as Arrow: .*; is it complete\?$"):
        open_manifest(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(ManifestError, match=rf"^{folder}: state.json cannot be read \(.*\); save the data set again$"):
        open_manifest(folder)
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text("{}")
    with pytest.raises(
        ManifestError, match=r"dict: dataset_dict.json cannot be read \(KeyError: 'splits'\); save the data set again"
    ):
        open_manifest(tmp_path / "dict")


def test_files_that_do_not_belong_together_are_named(tmp_path):
    folder = write_parquet(tmp_path / "d" / "a.parquet", table()).parent
    other = write_parquet(folder / "b.parquet", table().drop_columns("lang"))
    with pytest.raises(
        ManifestError, match=rf"^{other}: other columns than {folder}/a.parquet \(lang\); give files of one"
    ):
        open_manifest(folder)
    write_parquet(other, table().drop_columns("audio").append_column("audio", pa.array(["x"] * NUM_ROWS)))
    with pytest.raises(ManifestError, match=rf"^{other}: column audio is of another type than in {folder}/a.parquet"):
        open_manifest(folder)
    other.write_text("no parquet")
    with pytest.raises(
        ManifestError, match=rf"^{folder}: matches {other}, which is not Parquet; give files of one format"
    ):
        open_manifest(folder)


def change_last_byte(file):
    """In place, as the files are mapped."""
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))
    os.utime(file, ns=(2, 2))


def test_a_data_set_that_changes_is_noticed(source):
    manifest = open_manifest(source)
    utterance = manifest.read(0)
    files = [*source.glob("**/*.arrow"), *source.glob("**/*.parquet"), *source.parent.glob("*.parquet")]
    for file in files:
        os.utime(file, ns=(1, 1))
    assert manifest.read(0) == utterance, "another time is no other content"
    for file in files:
        change_last_byte(file)
    for read in (lambda: manifest.read(0), utterance.audio.resolve):
        with pytest.raises(
            ManifestError, match="the manifest changed since it was opened; leave it alone during a run"
        ):
            read()
    for file in files:
        file.unlink()
    with pytest.raises(ManifestError, match="cannot be read: No such file or directory"):
        manifest.read(0)


def tar_of(tmp, audio):
    with tarfile.open(tmp / "rows.tar", "w") as tar:
        for number, data in enumerate(audio):
            member = tarfile.TarInfo(f"{number}.wav")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return tmp / "rows.tar"


LARGE = {
    "parquet": lambda tmp, rows, audio: write_parquet(tmp / "rows.parquet", table(rows, audio), 1, compression=None),
    "saved": lambda tmp, rows, audio: save(tmp / "saved", table(rows, audio)),
    "tar": lambda tmp, rows, audio: tar_of(tmp, audio),
}


@pytest.mark.parametrize("at", [0.03, 0.2, 0.5, 0.77, None])
@pytest.mark.parametrize("kind", LARGE)
def test_audio_overwritten_in_a_large_file_is_noticed(tmp_path, kind, at):
    """Before, 20 kB between eight samples of 16 KiB were taken for what had been checked. None: only touched, which
    nothing but reading terabytes tells from that."""
    audio = [np.random.default_rng(number).bytes(700_000) for number in range(3)]
    source = LARGE[kind](tmp_path, ROWS[:3], audio)
    manifest = open_manifest(source)
    utterance = manifest.read(1)
    (path,) = [source] if source.is_file() else source.glob("*.arrow")
    size = path.stat().st_size
    assert size > 2_000_000
    with path.open("r+b") as file:
        if at is not None:
            file.seek(int(size * at))
            file.write(bytes(20_000))
    os.utime(path, ns=(2, 2))
    later = manifest.read(2).audio.resolve if kind == "tar" else lambda: manifest.read(2)
    for read in (later, utterance.audio.resolve):
        with pytest.raises(ManifestError, match="the manifest changed since it was opened"):
            read()
    if at is None:
        assert open_manifest(source).scan.digest == manifest.scan.digest, "the next run goes on"


def test_a_data_set_that_changes_during_the_scan_is_noticed(source):
    files = [*source.glob("**/*.arrow"), *source.glob("**/*.parquet"), *source.parent.glob("*.parquet")]
    with pytest.raises(ManifestError, match="the manifest changed since it was opened"):
        open_manifest(source, check=lambda utterance: [change_last_byte(file) for file in files] and None)


# --- how little is read -----------------------------------------------------------------------------------------------


def destroy_audio_of_group(path, number, share_spared=0.0):
    """Overwrites the stored audio bytes of one row group with zeros, from that share of it on."""
    column = pq.read_metadata(path).row_group(number).column(0)
    assert column.path_in_schema in ("audio", "audio.bytes")
    start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    spared = int(column.total_compressed_size * share_spared)
    with path.open("r+b") as file:
        file.seek(start + spared)
        file.write(bytes(column.total_compressed_size - spared))


def test_audio_of_other_row_groups_is_never_read(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", table())
    for number in (0, 2, 3):
        destroy_audio_of_group(path, number)
    manifest = open_manifest(path)  # nor by the scan
    utterances = read_all(manifest)
    assert [utterances[index].audio.resolve() for index in range(5, 10)] == AUDIO[5:10]
    with pytest.raises(RowError, match=rf"{path}: cannot be read as Parquet") as error:
        utterances[4].audio.resolve()
    assert error.value.kind == "unreadable", "a failed row: the run goes on with the others"
    assert utterances[5].audio.resolve() == AUDIO[5]  # still


def test_damage_in_the_middle_of_a_row_group_is_an_error_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_AUDIO_BATCH_BYTES", 1000)
    path = tmp_path / "rows.parquet"
    write_parquet(path, table(), NUM_ROWS, write_batch_size=1, data_page_size=100, use_dictionary=False)
    destroy_audio_of_group(path, 0, 0.5)
    utterances = read_all(open_manifest(path))
    assert utterances[0].audio.resolve() == AUDIO[0]
    for _ in range(3):
        with pytest.raises(RowError, match=rf"{path}: cannot be read as Parquet"):
            utterances[-1].audio.resolve()
    assert utterances[0].audio.resolve() == AUDIO[0]


def test_rows_that_compress_well_still_come_in_small_batches(tmp_path):
    rows = pa.table({"audio": ["a.wav"] * 50_000, "text": ["the same words " * 10] * 50_000})
    table = parquet.ParquetTable([str(write_parquet(tmp_path / "rows.parquet", rows, 50_000))])
    table.choose_audio("audio", in_cells=False)
    sizes = [batch.num_rows for batch, _ in table.scan(["audio", "text"])]
    assert sum(sizes) == 50_000 and max(sizes) <= 8192


def test_a_large_row_group_is_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_AUDIO_BATCH_BYTES", 1 << 20)
    audio = [os.urandom(200_000) for _ in range(200)]  # 40 MB, in pages of 1 MB
    rows = [{"id": n} for n in range(len(audio))]
    path = write_parquet(tmp_path / "rows.parquet", table(rows, audio), len(audio), write_batch_size=1)
    manifest = open_manifest(path)
    before, highest = pa.total_allocated_bytes(), 0
    for index in range(len(audio)):
        assert manifest.read(index).audio.resolve() == audio[index]
        highest = max(highest, pa.total_allocated_bytes() - before)
    assert highest < 10 << 20


def test_reading_in_order_reads_each_row_group_once(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_AUDIO_BATCH_BYTES", 300)
    opened = []
    real = pq.ParquetFile

    def counting(*args, **options):
        opened.append(args)
        return real(*args, **options)

    monkeypatch.setattr(parquet.pq, "ParquetFile", counting)
    manifest = open_manifest(write_parquet(tmp_path / "rows.parquet", table(), 8))
    opened.clear()
    utterances = read_all(manifest)
    assert len(opened) == 3  # light columns: 23 rows in groups of 8
    for first in range(0, NUM_ROWS, 2):  # two threads, one row apart
        for index in reversed(range(first, min(first + 2, NUM_ROWS))):
            utterances[index].audio.resolve()
    assert len(opened) <= 3 + 3 + 2  # at most a restart where a pair straddles two groups


def test_tables_are_read_without_datasets_and_nothing_without_need(tmp_path):
    parquet, saved = write_parquet(tmp_path / "rows.parquet", table()), save(tmp_path / "saved", table())
    code = (
        "import sys; from asrbatch.manifest.manifest import open_manifest; "
        "open_manifest(sys.argv[1]).read(0).audio.resolve();"
        "print([name for name in ('datasets', 'torch', 'torchcodec', 'pandas', 'vllm') if name in sys.modules])"
    )
    for source in (parquet, saved):
        done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
