"""JSON Lines manifests: what is read, what is refused and in which words, ids, digest, memory, and changes on disk."""

import base64
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrbatch.config import SourceOptions
from asrbatch.errors import EXIT_USAGE, ManifestError, RowError, UsageError
from asrbatch.manifest import manifest as manifest_module
from asrbatch.manifest import scan
from asrbatch.manifest.manifest import open_manifest

BOM = b"\xef\xbb\xbf"
PASSED = {"audio_filepath": "a.wav"}


def write(folder, *rows, name="m.jsonl"):
    """A manifest of these rows (dicts, or lines as they are), one a line."""
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    return path


def expected_rows(rows):
    """Ids and digest, written down again in the plainest way: [(id, row)], hex."""
    counts, ids, digest = Counter(), [], hashlib.sha256()
    for row in rows:
        numbers = [float(row.get("offset") or 0), row.get("duration"), row.get("channel")]
        numbers[1] = None if numbers[1] is None else float(numbers[1])
        if row.get("id") is not None:
            row_id = str(row["id"])
        else:
            key = json.dumps([row["audio_filepath"], *numbers], separators=(",", ":")).encode()
            row_id = hashlib.blake2b(key, digest_size=8).hexdigest()
            counts[row_id] += 1
            row_id += f"-{counts[row_id]}" if counts[row_id] > 1 else ""
        canonical = [row_id, *numbers, row.get("lang"), row.get("prompt")]
        digest.update(json.dumps(canonical, separators=(",", ":")).encode() + b"\n")
        ids.append(row_id)
    return ids, digest.hexdigest()


texts = st.text(st.characters(codec="utf-8"), max_size=8)
seconds = st.one_of(st.integers(0, 9), st.floats(0, 1e9, allow_nan=False))
paths = st.one_of(
    st.sampled_from(["a.wav", "b/ü.flac", "/abs/c.ogg", "../d e.mp3", "./~/x.wav", "data:audio/wav;base64,AAAA"]),
    texts.filter(
        lambda path: (
            path.strip() and "://" not in path and "\0" not in path and path[:5].lower() != "data:" and path[0] != "~"
        )
    ),
)
others = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
KNOWN = {
    "offset": st.one_of(st.none(), seconds),
    "duration": st.one_of(st.none(), seconds.filter(lambda s: s > 0)),
    "channel": st.one_of(st.none(), st.integers(0, 3)),
    "text": st.one_of(st.none(), texts),
    "lang": st.one_of(st.none(), st.sampled_from(["en", "fr"])),
    "prompt": st.one_of(st.none(), texts),
    "temperature": st.none(),
    "audios": st.none(),
}


@st.composite
def manifest_rows(draw):
    rows = []
    for number in range(draw(st.integers(1, 12))):
        row = {"audio_filepath": draw(paths)}
        row |= draw(st.fixed_dictionaries({}, optional=KNOWN))
        row |= draw(st.dictionaries(texts.map(lambda name: "x" + name), others, max_size=2))
        if draw(st.booleans()):
            row["id"] = draw(st.sampled_from([f"row {number}", number, f"é{number}"]))
        rows.append(dict(draw(st.permutations(list(row.items())))))
    return rows


@st.composite
def written_rows(draw):
    """Rows, and the bytes of a file that holds them: any spacing, line ends, blank lines, escapes."""
    rows = draw(manifest_rows())
    blank = st.lists(st.sampled_from([b"", b"  ", b"\t"]), max_size=2)
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    lines = draw(blank)
    for row in rows:
        pad = draw(st.sampled_from(["", " ", "\t"]))
        separators = draw(st.sampled_from([(",", ":"), (" , ", " : ")]))
        line = json.dumps(row, ensure_ascii=draw(st.booleans()), separators=separators)
        lines += [(pad + line + pad).encode(), *draw(blank)]
    return rows, draw(st.sampled_from([b"", BOM])) + end.join(lines) + draw(st.sampled_from([b"", end]))


@settings(max_examples=75, deadline=None)
@given(written=written_rows(), block_rows=st.sampled_from([1, 2, 3, 8192]), order=st.randoms(use_true_random=False))
def test_any_written_rows_are_read_as_a_plain_parse_reads_them(tmp_path_factory, written, block_rows, order):
    rows, data = written
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    path.write_bytes(data)
    with mock.patch.object(scan, "_BLOCK_ROWS", block_rows):
        manifest = open_manifest(path)
    plain = [json.loads(line) for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    assert plain == rows
    ids, digest = expected_rows(rows)
    assert len(set(ids)) == len(ids)
    assert manifest.scan.digest == digest
    assert len(manifest) == manifest.scan.num_rows == len(rows)
    indexes = list(range(len(rows))) * 2
    order.shuffle(indexes)
    for index in indexes:
        utterance, row = manifest.read(index), rows[index]
        assert (utterance.index, utterance.id) == (index, ids[index])
        assert list(utterance.fields.items()) == list(row.items())
        assert repr(utterance.fields) == repr(json.loads(json.dumps(row)))  # 1 stays 1, 1.0 stays 1.0
        assert utterance.offset_s == row.get("offset") and utterance.duration_s == row.get("duration")
        assert (utterance.channel, utterance.lang) == (row.get("channel"), row.get("lang"))
        assert utterance.prompt == row.get("prompt")
        if row["audio_filepath"].startswith("data:"):
            assert utterance.audio.resolve() == b"\0\0\0"
        else:
            assert utterance.audio.resolve() == os.path.join(path.parent, row["audio_filepath"])
            assert utterance.audio.name == row["audio_filepath"]


def test_rows_over_many_blocks_have_exact_ids_and_digest(tmp_path):
    chosen = random.Random(1)
    rows = []
    for number in range(30_000):
        row = {"audio_filepath": f"{chosen.randrange(9000)}.wav", "duration": chosen.choice([None, 1, 1.5])}
        if number % 7 == 0:
            row["id"] = f"given {number}"
        rows.append(row)
    manifest = open_manifest(write(tmp_path, *rows))
    ids, digest = expected_rows(rows)
    assert manifest.scan.digest == digest
    assert any(row_id.endswith("-4") for row_id in ids)
    for index in chosen.sample(range(len(rows)), 3000):
        assert manifest.read(index).id == ids[index]


def test_scan_knows_durations(tmp_path):
    rows = [{**PASSED, "duration": 2}, PASSED, {**PASSED, "duration": 0.25}, {**PASSED, "duration": None}]
    scan = open_manifest(write(tmp_path, *rows)).scan
    assert scan.durations_s.dtype == np.float32
    np.testing.assert_array_equal(scan.durations_s, np.float32([2, np.nan, 0.25, np.nan]))
    assert np.isnan(scan.durations_s).sum() == 2
    with pytest.raises(ValueError, match="read-only"):
        scan.durations_s[0] = 1


# --- the digest -------------------------------------------------------------------------------------------------------

FULL = {"audio_filepath": "a.wav", "id": "x", "offset": 1, "duration": 2, "channel": 0, "lang": "en", "prompt": "p"}
OTHER = {"audio_filepath": "b.wav", "id": "y"}


def digest_of(folder, *rows):
    return open_manifest(write(folder, *rows)).scan.digest


@pytest.mark.parametrize(
    "change",
    [{"id": "z"}, {"offset": 1.5}, {"offset": None}, {"duration": 2.5}, {"duration": None}, {"channel": 1},
     {"track": 1}, {"track": 0},
     {"channel": None}, {"lang": "fr"}, {"lang": None}, {"prompt": "q"}, {"prompt": None}, {"prompt": ""}],
)  # fmt: skip
def test_digest_changes_with_each_canonical_field(tmp_path, change):
    assert digest_of(tmp_path, FULL | change, OTHER) != digest_of(tmp_path, FULL, OTHER)


@pytest.mark.parametrize(
    "change",
    [{"audio_filepath": "elsewhere/a.wav"}, {"text": "hello"}, {"extra": 1}, {"offset": 1.0}, {"duration": 2.0}],
)
def test_digest_does_not_change_with_anything_else(tmp_path, change):
    assert digest_of(tmp_path, FULL | change, OTHER) == digest_of(tmp_path, FULL, OTHER)


def test_digest_sees_order_and_split_of_rows_but_not_how_they_are_written(tmp_path):
    digest = digest_of(tmp_path, FULL, OTHER)
    assert digest_of(tmp_path, OTHER, FULL) != digest
    assert digest_of(tmp_path, FULL) != digest
    backwards = json.dumps(dict(reversed(FULL.items())), separators=(" ,  ", ": "))
    assert digest_of(tmp_path, "", backwards, "  ", OTHER, "") == digest
    assert digest_of(tmp_path, FULL | {"offset": 0}, OTHER) == digest_of(tmp_path, FULL | {"offset": None}, OTHER)
    assert digest_of(tmp_path, FULL | {"offset": -0.0}, OTHER) == digest_of(tmp_path, FULL | {"offset": 0}, OTHER)
    assert digest_of(tmp_path, FULL | {"id": 7}, OTHER) == digest_of(tmp_path, FULL | {"id": "7"}, OTHER)


# --- ids --------------------------------------------------------------------------------------------------------------


def ids_of(path):
    manifest = open_manifest(path)
    return [manifest.read(index).id for index in range(len(manifest))]


def test_made_ids_are_numbered_in_order_and_follow_path_offset_duration_channel(tmp_path):
    first, second, third, *distinct = ids_of(
        write(
            tmp_path,
            PASSED,
            {**PASSED, "offset": 0, "lang": "fr"},
            {**PASSED, "duration": None, "text": "t"},
            {**PASSED, "offset": 1},
            {**PASSED, "duration": 1},
            {**PASSED, "channel": 0},
            {"audio_filepath": "./a.wav"},
        )
    )
    assert len(first) == 16 and int(first, 16) >= 0
    assert (second, third) == (f"{first}-2", f"{first}-3")
    assert len({first, *distinct}) == 5
    assert not any("-" in row_id for row_id in distinct)


def test_made_ids_do_not_depend_on_the_folder(tmp_path):
    (tmp_path / "other").mkdir()
    assert ids_of(write(tmp_path, PASSED)) == ids_of(write(tmp_path / "other", PASSED))


def test_a_given_id_that_equals_a_made_one_is_an_error(tmp_path):
    first, second = ids_of(write(tmp_path, PASSED, PASSED))
    for taken in (first, second):
        path = write(tmp_path, PASSED, PASSED, {"audio_filepath": "b.wav", "id": taken})
        with pytest.raises(ManifestError, match=rf"m\.jsonl:3: id = \"{taken}\": {path}:[12] has it already"):
            open_manifest(path)
    # and one that only looks like one is not
    assert ids_of(write(tmp_path, PASSED, {**PASSED, "id": f"{first}-2"})) == [first, f"{first}-2"]


def test_ids_given_twice_name_both_lines(tmp_path):
    path = write(tmp_path, {**PASSED, "id": "7"}, "", {**PASSED, "id": "x"}, {**PASSED, "id": 7}, {**PASSED, "id": "x"})
    with pytest.raises(ManifestError) as caught:
        open_manifest(path)
    fix = "ids must be unique (a row without one gets one made)"
    assert str(caught.value).splitlines() == [
        f"{path}: 2 problems in 4 rows; nothing was run",
        f'{path}:4: id = "7": {path}:1 has it already; {fix}',
        f'{path}:5: id = "x": {path}:3 has it already; {fix}',
    ]


def test_ids_that_share_a_hash_are_compared_not_refused(tmp_path, monkeypatch):
    for module in (scan, manifest_module):
        monkeypatch.setattr(module, "hash", lambda text: len(text), raising=False)
    rows = [{**PASSED, "id": f"{number:04d}"} for number in range(50)]
    assert ids_of(write(tmp_path, *rows)) == [row["id"] for row in rows]
    with pytest.raises(ManifestError, match=r"m\.jsonl:51: id = \"0007\": .*m\.jsonl:8 has it already"):
        open_manifest(write(tmp_path, *rows, rows[7]))


@settings(max_examples=50, deadline=None)
@given(given_ids=st.lists(st.sampled_from(["a", "b", "c", 1, "1", 2]), min_size=1, max_size=6))
def test_ids_are_refused_exactly_when_one_is_given_twice(tmp_path_factory, given_ids):
    path = write(tmp_path_factory.mktemp("m"), *({**PASSED, "id": row_id} for row_id in given_ids))
    wanted = [str(row_id) for row_id in given_ids]
    if len(set(wanted)) == len(wanted):
        assert ids_of(path) == wanted
    else:
        repeats = len(wanted) - len(set(wanted))
        with pytest.raises(ManifestError, match=f"{repeats} problem"):
            open_manifest(path)


# --- bad rows ---------------------------------------------------------------------------------------------------------

BAD_ROWS = [
    ("nonsense", 'm.jsonl:2: nonsense: not JSON: Expecting value at column 1; write one JSON object per line'),
    ('{"audio_filepath": "a.wav"', "not JSON: Expecting ',' delimiter at column 27; write one JSON object per line"),
    ('{"audio_filepath": "a.wav"}{}', "not JSON: Extra data at column 28; write one JSON object per line"),
    ("[1, 2]", 'm.jsonl:2: [1, 2]: not a JSON object; write one JSON object per line'),
    ("null", "not a JSON object"),
    ("[" * 100_000, "nested more than 100 levels deep; write a flat object"),
    ('{"x": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
    ('{"audio_filepath": "a.wav", "text": "1", "text": "2"}', '"text": this name stands twice in one object; keep one'),
    ("\ufeff" + json.dumps(PASSED), "a byte-order mark inside the file; remove it (files joined with cat keep theirs)"),
    ({}, "has no fields: no audio_filepath; name the field with the path audio_filepath"),
    ({"audio": "a.wav", "text": "t"}, "has audio, text: no audio_filepath; name the field"),
    ({"audio_filepath": None}, "audio_filepath = null: is empty; give the path of one audio file, or drop "
        "the row"),
    ('{"audio_filepath": "\\ud800.wav"}', 'audio_filepath = "\\ud800.wav": holds half of a surrogate pair, '),
    ({"audio_filepath": ""}, 'audio_filepath = "": is empty; give the path of one audio file'),
    ({"audio_filepath": " \t"}, "is empty; give the path"),
    ({"audio_filepath": 3}, "audio_filepath = 3: must be a string; give the path of one audio file"),
    ({"audio_filepath": "a\0b"}, 'audio_filepath = "a\\u0000b": a path cannot hold a zero character'),
    ({"audio_filepath": ["a.wav", "b.wav"]}, 'audio_filepath = ["a.wav", "b.wav"]: several clips in one row are not'),
    ({"audio_filepaths": ["a.wav"]}, 'audio_filepaths = ["a.wav"]: several clips in one row are not supported;'),
    ({**PASSED, "audios": ["b.wav"]}, 'audios = ["b.wav"]: several clips in one row are not supported;'),
    ({"audio_filepath": "rtsp://h/a.wav"}, 'audio_filepath = "rtsp://h/a.wav": rtsp:// is not supported; give a local '
        'path, or'),
    ({"audio_filepath": "data:audio/wav;base64,"}, '"data:audio/wav;base64,…(0 chars)": the data: URI holds no audio'),
    ({"audio_filepath": "data:audio/wav;base64, "}, "the data: URI holds no audio"),
    ({"audio_filepath": "data:audio/wav,%00"}, "a data: URI must be base64 encoded; write data:audio/wav;base64,… or"),
    ({"audio_filepath": "data:audio/wav;base64"}, "a data: URI must be base64 encoded"),
    ({**PASSED, "offset": -1}, "offset = -1: must be a number of seconds from 0 to 1e+09; leave it out to start at 0"),
    ({**PASSED, "offset": "1.5"}, 'offset = "1.5": is a string; remove the quotes'),
    ({**PASSED, "offset": True}, "offset = true: is not a number of seconds, e.g. 12.5; leave it out to start at 0"),
    ({**PASSED, "offset": float("nan")}, "offset = NaN: must be a number of seconds from 0"),
    ({**PASSED, "duration": float("nan")}, "duration = NaN: must be a number of seconds from 0 to 1e+09;"),
    ({**PASSED, "duration": float("inf")}, "duration = Infinity: must be a number of seconds from 0"),
    ('{"audio_filepath": "a.wav", "duration": 1e999}', "duration = Infinity: must be a number of seconds"),
    ({**PASSED, "duration": 10**400}, "must be a number of seconds from 0 to 1e+09"),
    ({**PASSED, "duration": 0}, "duration = 0: must be above 0; leave it out to read to the end, or drop the row"),
    ({**PASSED, "duration": -0.5}, "duration = -0.5: must be a number of seconds from 0"),
    ({**PASSED, "duration": [1]}, "duration = [1]: is not a number of seconds, e.g. 12.5; leave it out to"),
    ({**PASSED, "duration": False}, "duration = false: is not a number of seconds"),
    ({**PASSED, "channel": -1}, "channel = -1: must be a whole number from 0; leave it out for the mean"),
    ({**PASSED, "channel": 1.0}, "channel = 1.0: must be a whole number from 0"),
    ({**PASSED, "channel": True}, "channel = true: must be a whole number"),
    ({**PASSED, "track": -1}, "track = -1: must be a whole number from 0; leave it out for the default track"),
    ({**PASSED, "track": "guest"}, 'track = "guest": must be a whole number'),
    ({**PASSED, "channel": "0"}, 'channel = "0": must be a whole number'),
    ({**PASSED, "lang": ""}, 'lang = "": must be a language code such as "en"; leave it out when unknown'),
    ({**PASSED, "lang": 5}, "lang = 5: must be a language code"),
    ({**PASSED, "prompt": 5}, "prompt = 5: must be a string; leave it out for the prompt of the run"),
    ({**PASSED, "text": 5}, "text = 5: must be a string; write the reference in quotes, or null when there is none"),
    ({**PASSED, "text": ["a"]}, 'text = ["a"]: must be a string'),
    ({**PASSED, "id": ""}, 'id = "": must be a non-empty string or a whole number; leave it out to have one made'),
    ({**PASSED, "id": 1.5}, "id = 1.5: must be a non-empty string or a whole number"),
    ({**PASSED, "id": 7.0}, 'id = 7.0: must be a non-empty string or a whole number; write 7 or "7.0", whichever '
        'it is'),
    ({**PASSED, "id": 7.0}, "(pandas: df.convert_dtypes() before writing makes 1.0 a 1 and NaN a null, in columns "
        "with gaps)"),
    ({**PASSED, "id": float("inf")}, "id = Infinity: must be a non-empty string or a whole number; leave it out"),
    ({**PASSED, "text": float("nan")}, "or null when there is none (pandas: df.convert_dtypes() before writing makes"),
    ({**PASSED, "channel": 1.0}, "leave it out for the mean of all channels (pandas: df.convert_dtypes()"),
    ({**PASSED, "duration": float("nan")}, "leave it out to read to the end (pandas: df.convert_dtypes()"),
    ({**PASSED, "id": True}, "id = true: must be a non-empty string or a whole number"),
    ({**PASSED, "id": ["x"]}, 'id = ["x"]: must be a non-empty string'),
    *(
        (
            {**PASSED, field: value},
            f"{field} = {json.dumps(value)}: is set for the whole run, not per row; remove the field, and give "
            "the option to the run",
        )
        for field, value in [
            ("temperature", 0), ("top_p", 0.9), ("top_k", 1), ("seed", 1), ("max_new_tokens", 5), ("max_tokens", 5),
            ("system_prompt", ""), ("user_prompt", "x"),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS, ids=[str(number) for number in range(len(BAD_ROWS))])
def test_bad_row_is_refused_in_one_line(tmp_path, row, problem):
    path = write(tmp_path, {**PASSED, "id": "good"}, row)
    with pytest.raises(ManifestError) as caught:
        open_manifest(path)
    head, line = str(caught.value).splitlines()
    assert head == f"{path}: 1 problem in 2 rows; nothing was run"
    assert problem in line
    assert line.startswith(f"{path}:2: ")
    assert len(line) < len(str(path)) + 300
    assert caught.value.exit_code == EXIT_USAGE


def test_invalid_utf8_is_a_bad_row(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"audio_filepath": "a.wav"}\n{"audio_filepath": "caf\xe9.wav"}\n')
    with pytest.raises(ManifestError, match=r":2: .*caf.*: not UTF-8: byte 0xe9 at position 24 of the line; write the"):
        open_manifest(path)


def test_all_bad_rows_are_reported_together_and_counted(tmp_path):
    rows = [PASSED, *({**PASSED, "offset": -number} for number in range(1, 31)), {**PASSED, "id": "x"}]
    rows += [{**PASSED, "id": "x"}] * 4
    with pytest.raises(ManifestError) as caught:
        open_manifest(write(tmp_path, *rows))
    head, *lines, more, kinds = str(caught.value).splitlines()
    assert "34 problems in 36 rows" in head
    assert [line.split(": ")[1] for line in lines] == [f"offset = -{number}" for number in range(1, 21)]
    assert more == "… and 14 more; `asrbatch validate --report FILE` writes all of them"
    assert kinds == "by kind: 30 × offset: must be a number of seconds from 0 to 1e+09, 4 × id: given twice"


def test_problems_of_all_kinds_come_in_the_order_of_lines(tmp_path):
    path = write(tmp_path, "", {**PASSED, "id": "x"}, {**PASSED, "id": "x"}, "", "bad", {**PASSED, "lang": "xx"})
    with pytest.raises(ManifestError) as caught:
        open_manifest(path, check=lambda u: f"lang = {u.lang}: unknown; use en" if u.lang else None)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()[1:]] == [f"{path}:{n}" for n in (3, 5, 6)]


def test_check_sees_every_good_row_once(tmp_path):
    seen = []

    def check(utterance):
        seen.append((utterance.index, utterance.fields, utterance.audio.path))
        target = utterance.fields.get("target_lang")
        return f'target_lang = "{target}": this run writes en; drop the row' if target == "fr" else None

    rows = [{**PASSED, "target_lang": "en"}, {**PASSED, "target_lang": "fr"}, PASSED]
    with pytest.raises(ManifestError, match=r':2: target_lang = "fr": this run writes en; drop the row$'):
        open_manifest(write(tmp_path, *rows), check=check)
    assert seen == [(index, row, str(tmp_path / "a.wav")) for index, row in enumerate(rows)]


# --- audio references -------------------------------------------------------------------------------------------------


def test_nothing_about_audio_is_read_and_paths_are_relative_to_the_manifest(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    path = write(folder, *({"audio_filepath": p} for p in ("no/such.wav", "/abs/no.wav", "~/x.wav", "a:b.wav")))
    manifest = open_manifest(os.path.relpath(path))
    assert manifest.source == str(path)
    audio = [manifest.read(index).audio for index in range(4)]
    assert [ref.path for ref in audio] == [
        f"{folder}/no/such.wav",
        "/abs/no.wav",
        os.path.expanduser("~/x.wav"),
        f"{folder}/a:b.wav",
    ]
    assert [ref.name for ref in audio] == ["no/such.wav", "/abs/no.wav", "~/x.wav", "a:b.wav"]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: s.rstrip("="), lambda s: f"{s[:3]}\r\n {s[3:]}"])
def test_data_uri_is_decoded_late(tmp_path, wrap):
    payload = os.urandom(1000)
    uri = "Data:audio/wav;BASE64," + wrap(base64.b64encode(payload).decode())
    utterance = open_manifest(write(tmp_path, {"audio_filepath": uri})).read(0)
    assert utterance.audio.path is None
    assert utterance.audio.name == f"Data:audio/wav;BASE64,…({len(uri.partition(',')[2])} chars)"
    assert utterance.audio.resolve() == payload
    assert utterance.fields == {"audio_filepath": uri}


@pytest.mark.parametrize("payload", ["AAA*", "AAAA****", "A", "AA=A", "ÄÄÄÄ"])
def test_data_uri_that_is_not_base64_fails_its_own_row(tmp_path, payload):
    row = {"audio_filepath": f"data:audio/wav;base64,{payload}"}
    utterance = open_manifest(write(tmp_path, row)).read(0)  # the scan does not decode
    with pytest.raises(RowError, match=r"unreadable: data:audio/wav;base64,…\(\d chars\): not base64 .*; encode the"):
        utterance.audio.resolve()


def test_a_line_of_10_mb_is_a_row_like_any_other(tmp_path):
    payload = base64.b64encode(os.urandom(7_500_000)).decode()
    manifest = open_manifest(
        write(tmp_path, PASSED, {"audio_filepath": f"data:;base64,{payload}"}, {**PASSED, "id": 1})
    )
    assert manifest.read(1).audio.resolve() == base64.b64decode(payload)
    assert manifest.read(2).id == "1"
    with pytest.raises(ManifestError) as caught:
        open_manifest(write(tmp_path, {**PASSED, "id": ["x" * 10_000_000]}))
    assert len(str(caught.value)) < 1000


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("m.jsonl", b"", "holds no rows; expected at least one utterance"),
        ("m.jsonl", b"\n  \r\n", "holds no rows"),
        ("m.jsonl", BOM, "holds no rows"),
        ("m.json", b"[]", "holds no rows"),
        ("m.txt", b'["a.wav", "b.wav"]', "starts with"),
        ("m.jsonl.gz", b"\x1f\x8b\x08\x00abc", "the gzip data is damaged or cut off (it ends in the middle); copy the"),
        (
            "m.jsonl",
            b"\x1f\x8bXXabc",
            "the gzip data is damaged or cut off (Error -3 while decompressing data: unknown",
        ),
        ("m.zip", b"PK\x03\x04abc", "is a zip archive, unpack it first"),
        ("m.jsonl.bz2", b"BZh91AY", "is bzip2 data, unpack it first"),
        ("m.jsonl", "{}".encode("utf-16"), "is UTF-16 text, save it as UTF-8"),
        ("a.bin", b"RIFF....WAVE", "is an audio file, write a manifest that names it"),
        ("m.txt", b"path text\na.wav hello\n", 'starts with "path text"; accepted are a JSON Lines file'),
    ],
)
def test_what_is_no_manifest_is_named(tmp_path, name, data, problem):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError) as caught:
        open_manifest(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {problem}")
    assert "\n" not in str(caught.value)


def test_other_things_that_are_no_manifest_are_named(tmp_path):
    cases = {
        tmp_path / "none": "none: does not exist; accepted are a JSON Lines file (one object per line) or a JSON",
        tmp_path / "no*.parquet": "no*.parquet: no file matches; accepted are",
        tmp_path / "empty": "empty: is an empty folder; accepted are",
        tmp_path / "docs": "docs: is a folder with 0.md, 1.md, 2.md, 3.md, 4.md, … and 2 more; accepted are",
        tmp_path / "pipe": "pipe: is not a regular file; accepted are",
    }
    (tmp_path / "empty").mkdir()
    (tmp_path / "docs").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for number in range(7):
        (tmp_path / "docs" / f"{number}.md").touch()
    for source, problem in cases.items():
        with pytest.raises(ManifestError) as caught:
            open_manifest(source)
        assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_any_file_name_is_json_lines_when_it_begins_like_it(tmp_path):
    assert len(open_manifest(write(tmp_path, PASSED, name="manifest"))) == 1
    with pytest.raises(ManifestError, match=r":1: path,text: not JSON"):  # called JSON Lines: then its lines are bad
        open_manifest(write(tmp_path, "path,text", PASSED, name="m.ndjson"))


def test_split_means_nothing_for_json_lines(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"--split: means nothing for .*, which is read as --format jsonl; leave it out; it is for",
    ):
        open_manifest(write(tmp_path, PASSED), options=SourceOptions(split="test"))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_reads_from_threads_equal_reads_in_order(tmp_path):
    rows = [{"audio_filepath": f"{n}.wav", "text": "é" * (n % 50)} for n in range(500) for _ in range(2)]
    manifest = open_manifest(write(tmp_path, *itertools.chain.from_iterable((row, "") for row in rows)))
    expected = [manifest.read(index) for index in range(len(manifest))]
    failures = []

    def read_all(seed):
        indexes = list(range(len(manifest)))
        random.Random(seed).shuffle(indexes)
        failures.extend(index for index in indexes if manifest.read(index) != expected[index])

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [utterance.fields for utterance in expected] == rows


def test_rows_outside_the_manifest_are_an_index_error(tmp_path):
    manifest = open_manifest(write(tmp_path, PASSED))
    for index in (-1, 1):
        with pytest.raises(IndexError, match=f"no row {index}; there are 1"):
            manifest.read(index)
    assert type(manifest.read(np.int64(0)).index) is int


def test_rows_are_not_kept_in_memory(tmp_path):
    num_rows = 20_000
    path = write(tmp_path, *({"audio_filepath": f"{n}.wav", "text": "x" * 1000} for n in range(num_rows)))
    tracemalloc.start()
    manifest = open_manifest(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest) == num_rows
    assert kept < 40 * num_rows  # 8 + 8 + 4 bytes a row, and what arrays allocate ahead
    assert peak < 10 << 20  # a block of rows under way; the file is 20 MB


MANY = """
import json, re, sys
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.runs.runner import run

class Enough(Exception): pass

def start(spec, deliver, on_step):
    # Not ru_maxrss: a process inherits it from the one that started it.
    largest = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    open(sys.argv[4], "w").write(str(largest >> 10))
    raise Enough

try:
    engine = EngineConfig(model=sys.argv[2])
    run(RunConfig(manifest=sys.argv[1], engine=engine, output=sys.argv[3], workers=1), start=start)
except Enough:
    pass
"""


def test_many_rows_need_little_memory_before_the_engine(tiny_en, tmp_path):
    """Beside the 65 MiB of the process itself; a kept row would be half a kilobyte and more."""
    path, num_rows = tmp_path / "m.jsonl", 300_000
    with open(path, "w") as file:
        file.writelines(f'{{"audio_filepath": "a.wav", "id": "{n}", "duration": 2.5}}\n' for n in range(num_rows))
    command = [sys.executable, "-c", MANY, str(path), tiny_en, str(tmp_path / "out.jsonl"), str(tmp_path / "mib")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "mib").read_text()) < 200
    assert json.loads((tmp_path / "out.run.json").read_text())["total_rows"] == num_rows


CHANGED = "the manifest changed since it was opened; leave it alone during a run, and start the command again"


def test_a_manifest_that_grows_or_is_written_again_is_noticed(tmp_path):
    path = write(tmp_path, PASSED, PASSED)
    manifest = open_manifest(path)
    assert manifest.read(1).id
    before = path.stat()
    with path.open("a") as file:
        file.write(json.dumps(PASSED) + "\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # by its size alone
    with pytest.raises(ManifestError, match=f"^{path}: {CHANGED}$"):
        manifest.read(0)
    os.truncate(path, before.st_size)
    assert manifest.read(0).id, "another time is no other content"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"a.wav", b"b.wav"))  # not by its size
    os.utime(path, ns=(1, 1))
    with pytest.raises(ManifestError, match=f"^{path}: {CHANGED}$"):
        manifest.read(0)


@pytest.mark.parametrize(("old", "new"), [(b'"a.wav"', b'"b.wav"'), (b'{"audio', b'["audio'), (b'"a.wav"', b"-1     ")])
def test_a_row_that_changes_unseen_by_size_and_time_is_noticed(tmp_path, old, new):
    path = write(tmp_path, {**PASSED, "id": "x"}, PASSED)
    manifest = open_manifest(path)
    before = path.stat()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert manifest.read(0).id == "x"
    with pytest.raises(ManifestError, match=f"^{path}:2: {CHANGED}$"):
        manifest.read(1)


def test_a_manifest_that_is_replaced_is_read_on_as_it_was(tmp_path):
    path = write(tmp_path, {**PASSED, "id": "old"})
    manifest = open_manifest(path)
    os.replace(write(tmp_path, {**PASSED, "id": "new"}, name="other.jsonl"), path)
    assert manifest.read(0).id == "old"


def test_a_manifest_that_changes_during_the_scan_is_noticed(tmp_path):
    path = write(tmp_path, PASSED)

    def append(utterance):
        with path.open("a") as file:
            file.write("\n")

    with pytest.raises(ManifestError, match=CHANGED):
        open_manifest(path, check=append)


def test_importing_and_opening_json_lines_imports_no_heavy_library(tmp_path):
    path = write(tmp_path, PASSED)
    code = (
        "import sys; from asrbatch.manifest.manifest import open_manifest; open_manifest(sys.argv[1]);"
        "print([name for name in ('datasets', 'pyarrow', 'torch', 'pandas', 'vllm') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
