"""Properties of all readers: formats agree on any rows, places are true, ids are unique and stable, and no bytes crash
them.
"""

import contextlib
import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from source_makers import MAKERS

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError, RowError, UsageError
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.validate import Validation
from asrbatch.manifest.writer import line_fields
from asrbatch.storage.files import json_bytes

KEEPING = SourceOptions(on_bad_row="fail")
few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

# What every format can hold: Kaldi's keys and WebDataset's have no white space, dots or slashes, and Kaldi strips
# texts.
ids = st.lists(st.text("abcXYZ019_-é字", min_size=1, max_size=8), min_size=1, max_size=7, unique=True)
words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=9)
sentences = st.lists(words, min_size=1, max_size=4).map(" ".join)


@contextlib.contextmanager
def folder():
    with TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def data_sets(draw) -> list[dict]:
    return [
        {
            "id": row_id,
            "text": draw(sentences),
            "duration": draw(st.integers(1, 10**6)) / 1000,
            "lang": draw(st.sampled_from(["en", "de"])),
        }
        for row_id in draw(ids)
    ]


# lhotse looks into the audio when cuts are made, and the card of a hub's copy is read anew each time: slow, and tested
# elsewhere.
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("jsonl", "hub") and "lhotse" not in kind])
@few
@given(rows=data_sets())
def test_formats_agree_on_any_rows(kind, rows):
    with folder() as there:
        for number, row in enumerate(rows):
            row["file"] = there / f"{number}.wav"
            row["file"].write_bytes(b"audio %d" % number)
        for name in ("one", "two"):
            (there / name).mkdir()
        plain = open_manifest(MAKERS["jsonl"](there / "one", rows))
        other = open_manifest(MAKERS[kind](there / "two", rows))
        assert other.scan.digest == plain.scan.digest
        for index in range(len(rows)):
            ours, theirs = other.read(index), plain.read(index)
            assert (ours.id, ours.fields["text"], ours.duration_s) == (
                theirs.id,
                theirs.fields["text"],
                theirs.duration_s,
            )
            data = ours.audio.resolve()
            assert (data if isinstance(data, bytes) else Path(data).read_bytes()) == b"audio %d" % index


# --- any bytes --------------------------------------------------------------------------------------------------------

pieces = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([
        b"\n", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"{", b"}", b"[", b'"', b",", b"\t", b";", b"\\", b"\\ud800", b"NaN",
        b"1e999", b"-1", b"null", b"\0", b"\x85", b"\x1c", b"\xe2\x80\xa8",
        b'{"audio_filepath": "a.wav"}\n',
        b'{"audio_filepath": "a.wav", "id": "x"}\n',
        b'{"audio_filepath": "a/b.wav", "id": 7}\r\n',
        b'{"audio_filepath": "data:audio/wav;base64,AAAA", "text": "\xc3\xbc"}\n',
        b'{"audio_filepath": "\\ud800.wav"}\n',
        b'{"id": "x", "audio_filepath": "a.wav", "duration": 1e-320}\n',
        b"audio_filepath,id,duration\n", b"a.wav,x,1.5\n", b'"a\nb.wav",y,\n', b"path\tid\n", b"a.wav\t\xff\n",
        b"rec1 a.wav\n", b"utt1 rec1 0.0 1.5\n", b"utt1 the text\n", b"utt1 cat a.wav |\n",
    ]),
)  # fmt: skip
contents = st.lists(pieces, max_size=12).map(b"".join)


def opened(source, **options) -> Manifest | None:
    """None where it is refused in words."""
    try:
        return open_manifest(source, options=SourceOptions(on_bad_row="fail", **options))
    except (ManifestError, UsageError) as e:
        lines = str(e).splitlines()
        assert str(source)[:5] in lines[0] and all(line.isprintable() for line in str(e).splitlines()), lines
        return None


def check_rows(manifest: Manifest, again: Manifest, text: bytes | None = None) -> None:
    """Rows can be read in any order, ids are unique and the same another time; places are lines of that text."""
    indexes = range(len(manifest))
    assert len(manifest) > 0
    rows = {index: manifest.read(index) for index in reversed(indexes)}
    assert len({row.id for row in rows.values()}) == len(rows)
    assert manifest.scan.digest == again.scan.digest
    for index in indexes:
        other = again.read(index)
        assert (other.id, other.problem, other.index) == (rows[index].id, rows[index].problem, index)
        assert repr(other.fields) == repr(rows[index].fields)  # NaN is not equal to itself
        json_bytes(line_fields(rows[index], "/")) if rows[index].problem is None else None
        if text is not None:
            number = int(manifest.where(index).rpartition(":")[2])
            assert 1 <= number <= len(text.splitlines()) + 1


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.tsv", "m.txt"])
@thorough
@given(data=contents)
@example(b'{"audio_filepath": "a.wav"}\n\n  \n{"audio_filepath": "a.wav"}')
def test_no_bytes_crash_a_reader_of_text(name, data):
    with folder() as there:
        path = there / name
        path.write_bytes(data)
        manifest = opened(path)
        if manifest is not None:
            check_rows(manifest, opened(path), data)
        for format in ("jsonl", "csv", "tsv"):
            if (forced := opened(path, format=format)) is not None:
                check_rows(forced, opened(path, format=format), data)


@quick
@given(rows=st.lists(st.tuples(st.sampled_from([b"", b"  ", b"\r"]), st.booleans()), min_size=1, max_size=20))
def test_a_row_of_lines_is_where_it_is_said_to_be(rows):
    """Blank lines of all kinds, with and without a byte-order mark; and fields of CSV that span lines."""
    lines, places = [], []
    for number, (blank, has_blank) in enumerate(rows):
        lines += [blank] * has_blank
        lines.append(json.dumps({"audio_filepath": f"{number}.wav"}).encode())
        places.append(len(lines))
    with folder() as there:
        for data in (b"\n".join(lines), b"\xef\xbb\xbf" + b"\n".join(lines)):
            (there / "m.jsonl").write_bytes(data)
            (there / "m.jsonl.gz").write_bytes(gzip.compress(data))
            for path in (there / "m.jsonl", there / "m.jsonl.gz"):
                manifest = open_manifest(path)
                assert [manifest.where(index) for index in range(len(rows))] == [f"{path}:{place}" for place in places]
        text, places = b"audio_filepath,note\r\n", []
        for number, (_, spans) in enumerate(rows):
            places.append(text.count(b"\n") + 1)
            text += b'%d.wav,"%s"\r\n' % (number, b"one\ntwo\r\n" if spans else b"one")
        (there / "m.csv").write_bytes(text)
        manifest = open_manifest(there / "m.csv")
        assert [manifest.where(index) for index in range(len(rows))] == [f"{there}/m.csv:{place}" for place in places]


@thorough
@given(scp=contents, segments=st.none() | contents, text=st.none() | contents)
def test_no_bytes_crash_the_reader_of_kaldi_folders(scp, segments, text):
    with folder() as there:
        for name, data in (("wav.scp", scp), ("segments", segments), ("text", text)):
            if data is not None:
                (there / name).write_bytes(data)
        manifest = opened(there, format="kaldi")
        if manifest is not None:
            check_rows(manifest, opened(there, format="kaldi"))


@thorough
@given(data=st.data())
def test_no_damage_crashes_a_reader_of_binary_files(data):
    rows = [{"id": f"u{n}", "text": f"t{n}", "duration": 1.0, "lang": "en"} for n in range(3)]
    kind = data.draw(st.sampled_from(["parquet", "webdataset", "nemo-tar", "jsonl.gz", "jsonl.zst"]))
    with folder() as there:
        for row in rows:
            row["file"] = there / f"{row['id']}.wav"
            row["file"].write_bytes(b"x" * 100)
        (there / "d").mkdir()
        source = MAKERS[kind](there / "d", rows)
        damaged = source if source.is_file() else next(source.glob("*.tar"))
        content = bytearray(damaged.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            at = int(data.draw(st.floats(0, 1)) * len(content))
            match data.draw(st.sampled_from(["change", "cut", "gap", "double"])):
                case "change":
                    new = data.draw(st.binary(min_size=1, max_size=4))
                    content[at : at + len(new)] = new
                case "cut":
                    del content[at:]
                case "gap":
                    del content[at : at + data.draw(st.integers(1, 600))]
                case "double":
                    content[at:at] = content[at : at + 600]
        damaged.write_bytes(content)
        manifest = opened(source)
        if manifest is not None:
            check_rows(manifest, opened(source))
            for index in range(len(manifest)):
                row = manifest.read(index)
                if row.problem is None and row.audio.load is not None:
                    with contextlib.suppress(RowError):
                        row.audio.load()


@quick
@given(
    names=st.lists(st.text("ab./ü \t", min_size=1, max_size=8), min_size=1, max_size=6), payload=st.binary(max_size=20)
)
def test_any_names_of_members_are_keys_or_refused(names, payload):
    with folder() as there:
        with tarfile.open(there / "s.tar", "w") as tar:
            for number, name in enumerate(names):
                info = tarfile.TarInfo(name + ("", ".wav", ".json", ".txt")[number % 4])
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
        manifest = opened(there / "s.tar")
        if manifest is not None:
            check_rows(manifest, opened(there / "s.tar"))


# --- what is written --------------------------------------------------------------------------------------------------


@thorough
@given(data=contents, elsewhere=st.booleans())
def test_the_clean_rows_of_any_bytes_are_a_manifest_without_a_fault(data, elsewhere):
    with folder() as there:
        path, clean = there / "m.jsonl", there / ("sub/clean.jsonl" if elsewhere else "clean.jsonl")
        path.write_bytes(data)
        try:
            found = Validation([str(path)], SourceOptions(format="jsonl"))
            found.write_clean(clean)
        except (ManifestError, UsageError):
            assert not clean.exists()
            return
        good = [row for row in map(found.manifest.read, range(len(found))) if row.problem is None]
        written = open_manifest(clean)  # refuses bad rows
        assert len(written) == len(good) == len(found) - found.num_bad
        for index, row in enumerate(good):
            other = written.read(index)
            assert (other.audio.path, other.audio.name[:5]) == (row.audio.path, row.audio.name[:5]) or elsewhere
            assert os.path.normpath(str(other.audio.path)) == os.path.normpath(str(row.audio.path))
        if not elsewhere:
            lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
            assert set(clean.read_bytes().splitlines()) <= {line.removesuffix(b"\r") for line in lines} | set(
                data.splitlines()
            )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
others = st.dictionaries(
    st.sampled_from(["note", "speaker", "snr", "x y", "original_audio_filepath"]), json_values, max_size=3
)


@quick
@given(rows=st.lists(others, min_size=1, max_size=5))
def test_lines_keep_every_field(rows):
    with folder() as there:
        path = there / "m.jsonl"
        lines = [{"audio_filepath": f"{n}.wav", **row} for n, row in enumerate(rows)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        given_rows = [open_manifest(path).read(n) for n in range(len(rows))]
        made = there / "sub" / "made.jsonl"
        made.parent.mkdir()
        made.write_bytes(b"".join(json_bytes(line_fields(row, str(made.parent), 1.25)) + b"\n" for row in given_rows))
        for row, read in zip(given_rows, map(open_manifest(made).read, range(len(rows))), strict=True):
            assert (read.id, read.audio.path, read.duration_s) == (row.id, row.audio.path, 1.25)
            for name, value in row.fields.items():
                if name != "audio_filepath":
                    assert read.fields[name] == json.loads(json.dumps(value), parse_constant=lambda _: None)
