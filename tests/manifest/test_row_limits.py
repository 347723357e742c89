"""Nothing that one row holds may end a run, and no line may fill the memory.

| a row, or line | before | after |
|---|---|---|
| nested 500 deep: lists, objects, on a line, in an array | RecursionError in the run, for ever | bad row |
| nested 990 deep | bad or not by who calls: "the manifest changed" | bad row |
| so in a WebDataset's JSON, in lhotse's `custom`, in a bad row's other fields | RecursionError | bad row |
| so in a source file, in the files of `save_to_disk` | RecursionError | error that names the file |
| `file://[x/a.wav` | ValueError in the run | bad row |
| a `prompt` with half of a surrogate pair | an exception of the tokenizer in the run | bad row |
| anything else that raises over one row | traceback | bad row |
| a line of gigabytes: plain, packed, standard input, CSV, Kaldi | all of it in memory | error that names the file |
"""

import gzip
import io
import json
import tarfile

import pytest
from source_makers import MAKERS

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError, RowError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.readers import jsonl, text
from asrbatch.manifest.row import MOST_LEVELS, InvalidRow
from asrbatch.pipeline.result import failed_row
from asrbatch.storage import files

FAIL = SourceOptions(on_bad_row="fail")
GOOD = b'{"audio_filepath": "good.wav"}'
DEEP = f"nested more than {MOST_LEVELS} levels deep"


def nested(levels: int, opening: str = "[") -> str:
    return "[" * levels + "]" * levels if opening == "[" else '{"a":' * levels + "1" + "}" * levels


def problems_of(source, options=FAIL):
    manifest = open_manifest(source, options=options)
    rows = [manifest.read(index) for index in range(len(manifest))]
    # What stands in a bad row's place can be written, as any other.
    for row in rows:
        json.loads(json.dumps(failed_row(row, RowError("bad_row", row.problem or ""), {})))
    return [row.problem for row in rows]


@pytest.mark.parametrize("levels", [MOST_LEVELS + 1, 500, 990, 5000, 100_000])
@pytest.mark.parametrize("opening", "[{")
@pytest.mark.parametrize("as_array", [False, True])
def test_a_row_nested_too_deeply_is_a_bad_row(tmp_path, levels, opening, as_array):
    rows = [
        GOOD.decode(),
        f'{{"audio_filepath": "a.wav", "x": {nested(MOST_LEVELS, opening)}}}',
        f'{{"audio_filepath": "b.wav", "x": {nested(levels, opening)}}}',
        f'{{"audio_filepath": {nested(levels, opening)}}}',
    ]
    path = tmp_path / "m.json"
    path.write_text(f"[{','.join(rows)}]" if as_array else "\n".join(rows))
    problems = problems_of(path)
    assert problems[:2] == [None, None] and all(DEEP in problem for problem in problems[2:])
    with pytest.raises(ManifestError, match=f"2 problems in 4 rows(.|\n)*{DEEP}"):
        open_manifest(path)


def test_brackets_in_strings_nest_nothing(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"audio_filepath": "a.wav", "text": '"[{' * 300, "y": [[]] * 300}))
    assert problems_of(path) == [None]


def test_the_json_of_a_webdataset_too(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("k.json", b'{"x": %s}' % nested(500).encode()), ("k.wav", b"audio")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (problem,) = problems_of(path)
    assert DEEP in problem


def test_fields_of_lhotse_too(tmp_path, speech_wav):
    rows = [{"id": "u", "text": "t", "duration": 1.0, "lang": "en", "file": speech_wav}]
    path = MAKERS["lhotse-json"](tmp_path, rows)
    (cut,) = json.loads(path.read_text())
    for levels in (500, 99):  # the second is inside what is inside the cut
        path.write_text(json.dumps([cut | {"custom": {"x": json.loads(nested(levels))}}]))
        (problem,) = problems_of(path)
        assert (problem is None) == (levels < MOST_LEVELS) and (problem is None or DEEP in problem)


def test_a_source_file_and_saved_data_name_their_file(tmp_path):
    (tmp_path / "m.toml").write_text(f"source = {nested(500)}")
    with pytest.raises(ManifestError, match=r"m\.toml: "):
        open_manifest(tmp_path / "m.toml")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text(nested(100_000))
    with pytest.raises(ManifestError, match=r"dataset_dict\.json cannot be read"):
        open_manifest(tmp_path / "saved")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"audio_filepath": "file://[x/a.wav"}', "is not a URL: Invalid IPv6 URL; give the path of one audio file"),
        (
            '{"audio_filepath": "a.wav", "prompt": "\\ud800"}',
            "holds half of a surrogate pair, which is not a character",
        ),
        ('{"audio_filepath": "a.wav", "offset": 1e999}', "must be a number of seconds"),
        ('{"audio_filepath": "a.wav", "id": %s}' % ("9" * 5000), "not JSON: Exceeds the limit"),
        ('{"audio_filepath": "a.wav", "duration": %s}' % ("9" * 400), "must be a number of seconds"),
    ],
)
def test_other_fields_that_raised(tmp_path, row, problem):
    path = tmp_path / "m.jsonl"
    path.write_text(row)
    (found,) = problems_of(path)
    assert problem in found


def test_whatever_is_raised_over_a_row_is_that_row_s(tmp_path, monkeypatch):
    parse = jsonl.parse_row

    def stumble(fields, audio):
        if fields["audio_filepath"] == "bad.wav":
            raise KeyError("of some library")
        return parse(fields, audio)

    def check(utterance):
        if utterance.audio.name == "unchecked.wav":
            raise ZeroDivisionError
        return None

    monkeypatch.setattr(jsonl, "parse_row", stumble)
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f'{{"audio_filepath": "{name}.wav"}}\n' for name in ("good", "bad", "unchecked")))
    manifest = open_manifest(path, check=check, options=FAIL)
    assert [manifest.read(index).problem for index in range(3)] == [
        None,
        f"{path}:2: this row: cannot be read: KeyError: 'of some library'; correct it, or drop it",
        f"{path}:3: this row: cannot be read: ZeroDivisionError:; correct it, or drop it",
    ]


@pytest.fixture
def short_rows(monkeypatch):
    monkeypatch.setattr(text, "MOST_ROW_BYTES", 100_000)


LONG = GOOD + b"\n" + b'{"audio_filepath": "' + b"x" * 3_000_000


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstandard"])
@pytest.mark.parametrize("ending", [b"", b'"}\n'])
def test_a_line_that_does_not_end_is_an_error(tmp_path, short_rows, packing, ending):
    import zstandard

    path = tmp_path / "m.jsonl"
    pack = {"plain": bytes, "gzip": gzip.compress, "zstandard": zstandard.compress}[packing]
    path.write_bytes(pack(LONG + ending))
    with pytest.raises(ManifestError) as caught:
        open_manifest(path, options=FAIL)
    assert str(caught.value) == (
        f"{path}: holds a line of more than 100000 bytes; is it text, with a row on each line?"
    )
    path.write_bytes(pack(GOOD + b"\n" + b'{"audio_filepath": "%s"}' % (b"x" * 90_000)))
    assert len(open_manifest(path)) == 2


def test_nor_one_on_standard_input_nor_of_a_table_nor_of_kaldi(tmp_path, short_rows, monkeypatch):
    files._unnamed_copy.cache_clear()
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(LONG)}))
    with pytest.raises(ManifestError, match="standard input: holds a line of more than"):
        open_manifest("-")
    files._unnamed_copy.cache_clear()
    (tmp_path / "m.csv").write_bytes(b"audio,text\n" + b"a.wav," + b"x" * 200_000)
    with pytest.raises(ManifestError, match=r"m\.csv: holds a line of more than"):
        open_manifest(tmp_path / "m.csv")
    (tmp_path / "kaldi").mkdir()
    (tmp_path / "kaldi" / "wav.scp").write_bytes(b"a " + b"x" * 200_000)
    with pytest.raises(ManifestError, match=r"wav\.scp: holds a line of more than"):
        open_manifest(tmp_path / "kaldi")


def test_of_row_lets_errors_of_the_source_pass():
    from asrbatch.manifest.row import of_row

    def raises(error):
        raise error

    for error in (ManifestError("m"), OSError("o"), InvalidRow("a", "b", "c")):
        with pytest.raises(type(error)):
            of_row(raises, error)
