"""What the files of an export are called: as their media files, and never two alike on any file system. What an earlier
export called otherwise does not stay beside them."""

import re
import unicodedata

import pytest
from conftest import read_jsonl
from export_rows import failed_row, files, ok_row, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, OutputError
from asrbatch.export.exporter import export
from asrbatch.export.names import FileNames
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.row import hash_row

pytest_plugins = "command_line"

ids = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(exclude_categories=()), max_size=120),
    st.from_regex(r"[A-Ca-c.~_/ -]{1,6}", fullmatch=True),
    st.sampled_from(
        [
            "..",
            ".",
            "a/b",
            "a\\b",
            "a_b",
            "a b",
            "é",
            "e\u0301",
            "ß",
            "ss",
            "SS",
            "İ",
            "ﬁ",
            "x" * 300,
            "x" * 301,
            "out.run",
        ]
    ),
    st.from_regex(r"[0-9a-f]{16}(-[0-9])?", fullmatch=True),
).filter(len)
paths = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=()), max_size=200),
    st.from_regex(r"(/|https://x/|\./|\.\./)?([aAß]/){0,2}[aA]{1,2}(\.[aA]{1,2}){0,2}", fullmatch=True),
)


def as_stored(name: str) -> str:
    """A name as the most forgetful file system sees it."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFC", name).casefold()).casefold()


def names_of(*rows: tuple[str, str | None]) -> list[str]:
    """By id and path, or by path alone of rows whose id was made."""
    rows = [row if isinstance(row, tuple) else (hash_row(row, None, None, None), row) for row in rows]
    names = FileNames()
    for row in rows:
        names.add(*row)
    return [names.name_of(*row) for row in rows]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(ids, paths), unique_by=lambda row: row[0], max_size=30))
def test_no_two_ids_have_one_name_on_any_file_system_whatever_their_order(rows):
    names = names_of(*rows)
    assert len({as_stored(name) for name in names}) == len(rows)
    assert names_of(*rows[::-1]) == names[::-1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ids, paths), unique_by=lambda row: row[0], min_size=1, max_size=3))
def test_a_name_is_good_for_a_file(rows):
    for name in names_of(*rows):
        for part in name.split("/"):
            assert part and not set(part) & set('\\:*?"<>|\x00') and part.isprintable()
            assert not part.startswith((".", "-")) and len(f".{part}.json.12345678".encode()) <= 143
        assert not name.endswith((".run", ".done"))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["talk.mp4", "a/talk.mp4", "a/b/talk.mp4"], ["talk", "a/talk", "a/b/talk"]),
        (["talk.mp4", "talk.wav", "other.wav"], ["talk.mp4", "talk.wav", "other"]),
        (["talk.mp4", "TALK.wav"], ["talk.mp4", "TALK.wav"]),
        (["talk.mp4", "talk.mp4.mp3"], ["talk", "talk.mp4.mp3"]),
        # `talk.mp4` could be the first or the last: the hash tells.
        (["talk.mp4", "talk.wav", "talk.mp4.mp3"], ["talk.mp4~", "talk.wav", "talk.mp4.mp3"]),
        (["A/x.wav", "a/x.wav"], ["A/x.wav~", "a/x.wav~"]),
        (["/data/talks/x.wav", "/data/talks/b/x.wav"], ["x", "b/x"]),
        (["/data/a/x.wav", "/data/b/x.wav", "/data/ab/x.wav"], ["a/x", "b/x", "ab/x"]),
        (["/data/a/x.wav"], ["x"]),
        (["/data/a/x.wav", "x.wav"], ["data/a/x", "x"]),
        (["https://host/a/x%20y.mp3?key=1.2", "https://host/b/x.mp3"], ["a/x y", "b/x"]),
        (["s3://bucket/a/x#1.mp3", "s3://bucket/a/x?.mp3"], ["x#1", "x_"]),
        (["file:///data/a/x.wav", "/data/b/x.wav"], ["a/x", "b/x"]),
        (["../up/x.wav", "./.hidden/-x.wav"], ["up/x", "hidden/x"]),
        (["x" * 300 + ".wav", "x" * 300 + ".mp4"], ["x" * 100 + ".wav", "x" * 100 + ".mp4"]),
        (["no_ending", "Mr. Smith talks of all"], ["no_ending", "Mr"]),
    ],
)
def test_a_made_id_gives_the_name_of_the_media_file(paths, names):
    found = names_of(*paths)
    assert [name[: len(wanted)] for name, wanted in zip(found, names, strict=True)] == names
    assert all(name == wanted or "~" in wanted for name, wanted in zip(found, names, strict=True))


def test_a_given_id_is_the_name_and_so_is_a_made_one_of_audio_without_a_path():
    assert names_of(("talk-1", "x/y.wav"), ("train/17", None), ("a~b", None), ("out.done", None)) == [
        "talk-1",
        "train_17",
        "a_b",
        "out.done~88d4ca9e54150109",
    ]
    made = "0123456789abcdef"
    assert names_of((made, None), (f"{made}-2", "data:audio/wav;base64,UklG/Rg.")) == [made, f"{made}-2"]


def test_parts_and_channels_of_one_file_are_told_apart_by_a_hash():
    cut, channel = hash_row("a/call.wav", 2.0, 3.0, None), hash_row("a/call.wav", None, None, 1)
    names = names_of((cut, "a/call.wav"), (channel, "a/call.wav"), "a/call.mp4")
    assert names == [names[0], names[1], "a/call.mp4"] and names[0] != names[1]
    assert all(re.fullmatch("a/call.wav~[0-9a-f]{16}", name) for name in names[:2])


def folder_rows(folder, *media: str) -> list[dict]:
    """Rows of a folder with these media files."""
    for file in media:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    manifest = open_manifest(folder)
    found = [manifest.read(index) for index in range(len(manifest))]
    return [ok_row(each.id, f"in {each.fields['audio_filepath']}", index=each.index, **each.fields) for each in found]


def test_a_folder_of_media_is_exported_as_it_is_laid_out(tmp_path):
    rows = folder_rows(tmp_path / "talks", "talk.mp4", "talk.wav", "2023/intro.mp4", "2024/intro.mp4", "2024/end.mp3")
    export(write_rows(tmp_path / "out.jsonl", rows), ["srt", "json"])
    index = read_jsonl(tmp_path / "out.export/out.srt.index.jsonl")
    assert {line["file"]: rows[line["index"]]["audio_filepath"] for line in index} == {
        "talk.mp4.srt": "talk.mp4",
        "talk.wav.srt": "talk.wav",
        "2023/intro.srt": "2023/intro.mp4",
        "2024/intro.srt": "2024/intro.mp4",
        "2024/end.srt": "2024/end.mp3",
    }
    for line in index:
        path = tmp_path / "out.export" / line["file"]
        assert f"in {rows[line['index']]['audio_filepath']}" in path.read_text().replace("\n", " ")
        assert path.with_suffix(".json").exists()
    assert not list(tmp_path.glob("out.export/.*"))


# Names of an earlier export


def test_a_name_that_changed_does_not_stay_beside_the_new_one(cli_here, tmp_path):
    rows = folder_rows(tmp_path / "talks", "talk.mp4", "talk.wav")
    write_rows(tmp_path / "out.jsonl", rows[:1])
    assert cli_here("export", "out.jsonl", "--format", "srt,vtt").returncode == EXIT_COMPLETE
    assert (tmp_path / "out.export/talk.srt").exists()
    write_rows(tmp_path / "out.jsonl", rows)
    done = cli_here("export", "out.jsonl", "--format", "srt")
    assert done.returncode == EXIT_COMPLETE
    assert "srt: 1 file has another name now; the former was removed" in done.stderr
    assert set(files(tmp_path / "out.export")) == {"talk.mp4.srt", "talk.wav.srt", "talk.vtt"}


def test_a_file_of_a_former_name_that_was_edited_is_kept_and_named_until_overwritten(cli_here, tmp_path):
    rows = folder_rows(tmp_path / "talks", "talk.mp4", "talk.wav")
    export(write_rows(tmp_path / "out.jsonl", rows[:1]), ["srt"])
    (tmp_path / "out.export/talk.srt").write_text("corrected by hand")
    write_rows(tmp_path / "out.jsonl", rows)
    for _ in range(2):  # it does not forget
        done = cli_here("export", "out.jsonl", "--format", "srt")
        assert done.returncode == EXIT_ERROR and not done.stdout
        assert "1 file has another name than at an earlier export" in done.stderr
        assert "(talk.srt, now talk.mp4.srt)" in done.stderr
        assert (tmp_path / "out.export/talk.srt").read_text() == "corrected by hand"
    assert cli_here("export", "out.jsonl", "--format", "srt", "--overwrite").returncode == EXIT_COMPLETE
    assert set(files(tmp_path / "out.export")) == {"talk.mp4.srt", "talk.wav.srt"}


def test_files_of_rows_that_are_no_more_are_named_and_left(cli_here, tmp_path):
    write_rows(tmp_path / "out.jsonl", [ok_row("a"), ok_row("b")])
    export(tmp_path / "out.jsonl", ["srt"])
    write_rows(tmp_path / "out.jsonl", [ok_row("a"), failed_row("b")])
    done = cli_here("export", "out.jsonl", "--format", "srt")
    assert "1 file of an earlier export, of no row now, left as it was (b.srt)" in done.stderr
    assert set(files(tmp_path / "out.export")) == {"a.srt", "b.srt"}


def test_nothing_is_removed_that_an_export_of_the_run_did_not_write(tmp_path):
    """One file for all is no former name of each, an edited index names no file of others, and to a file system
    that knows no capitals two names may be one file."""
    rows = write_rows(tmp_path / "out.jsonl", [ok_row("a")])
    export(rows, ["srt"], per_run=True)
    export(rows, ["srt"])
    assert set(files(tmp_path / "out.export")) == {"a.srt", "out.srt"}
    content = (tmp_path / "out.export/a.srt").read_bytes()
    index = tmp_path / "out.export/out.srt.index.jsonl"
    (tmp_path / "b.srt").write_bytes(content)
    (tmp_path / "out.export/b.txt").write_bytes(content)
    (tmp_path / "out.export/c.srt").hardlink_to(tmp_path / "out.export/a.srt")
    before = files(tmp_path / "out.export")
    for file in ("../b.srt", "b.txt", "c.srt", "A.srt"):
        index.write_text(f'{{"id": "a", "index": 0, "file": "{file}"}}\n')
        export(rows, ["srt"], overwrite=True)
        assert files(tmp_path / "out.export") == before and (tmp_path / "b.srt").exists()


# Hostile ids, and several exports


def test_files_of_two_folders_and_of_hostile_ids_are_all_there_under_names_of_their_own(tmp_path):
    given_none = [ok_row(f"{n:016x}", f"text {n}", audio_filepath=f"{folder}/a.wav") for n, folder in enumerate("xyz")]
    hostile = ["../up", "/etc/passwd", "a/b", "a_b", "A", "a", "con", "é", "e\u0301", "x" * 400, "\ud800", " "]
    rows = given_none + [ok_row(row_id, f"text {n}") for n, row_id in enumerate(hostile, 3)]
    write_rows(tmp_path / "out.jsonl", rows)
    export(tmp_path / "out.jsonl", ["txt"])
    index = read_jsonl(tmp_path / "out.export/out.txt.index.jsonl")
    assert [line["id"] for line in index] == [row["id"] for row in rows]
    assert [(tmp_path / "out.export" / line["file"]).read_text() for line in index] == [
        f"text {n}\n" for n in range(len(rows))
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.export"}
    again = tmp_path / "again"
    write_rows(tmp_path / "out.jsonl", rows[::-1])  # in another order: the same names
    export(tmp_path / "out.jsonl", ["txt"], folder=again)
    assert files(again) == files(tmp_path / "out.export")


def test_only_names_that_collide_have_a_hash_and_those_of_failed_rows_count(tmp_path):
    rows = write_rows(
        tmp_path / "out.jsonl", [ok_row("TED"), ok_row("Ted"), ok_row("x/y z"), ok_row("Late"), failed_row("late")]
    )
    export(rows, ["txt"])
    hashed = "~[0-9a-f]{16}"
    names = [line["file"] for line in read_jsonl(tmp_path / "out.export/out.txt.index.jsonl")]
    wanted = [f"TED{hashed}.txt", f"Ted{hashed}.txt", "x_y z.txt", f"Late{hashed}.txt"]
    assert all(re.fullmatch(pattern, name) for pattern, name in zip(wanted, names, strict=True))


def test_parts_exported_to_one_folder_overwrite_nothing(tmp_path):
    for row_id, text in (("TED", "one"), ("Ted", "two")):
        export(write_rows(tmp_path / f"{text}.jsonl", [ok_row(row_id, text)]), ["txt"], folder=tmp_path / "to")
    assert (tmp_path / "to/TED.txt").read_text() == "one\n" and (tmp_path / "to/Ted.txt").read_text() == "two\n"
    other = write_rows(tmp_path / "three.jsonl", [ok_row("TED", "three")])
    with pytest.raises(OutputError, match="1 file is there already and says something else"):
        export(other, ["txt"], folder=tmp_path / "to")
