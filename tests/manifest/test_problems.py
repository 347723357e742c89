"""Every problem of a manifest is listed, once: by `validate --report`, and by a run that refuses them."""

import json
import os
import threading
from contextlib import closing

import pytest
from conftest import read_jsonl, write_jsonl
from typer.testing import CliRunner

from asrbatch.cli.app import app
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_ROWS_FAILED, EXIT_USAGE, ManifestError, OutputError, UsageError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.runs.runner import run
from asrbatch.storage.paths import RunPaths, find_chunks
from asrbatch.storage.problems import ProblemFile
from asrbatch.types import Issue


def bad_rows(number: int) -> list[dict]:
    """Of three kinds in turn, with a good row first; the ids that are given twice are found last."""
    kinds = ({"offset": -1.0}, {"temperature": 0.5}, {"id": "first"})
    return [
        {"audio_filepath": "a.wav", "id": "first"},
        *({"audio_filepath": "a.wav", "id": f"u{n}", **kinds[n % 3]} for n in range(number)),
    ]


def test_problems_come_from_threads_those_of_a_row_in_order(tmp_path):
    with closing(ProblemFile(tmp_path / "new" / "list")) as problems:
        add = [
            threading.Thread(
                target=lambda part: [
                    problems.add(Issue(row, f"m:{row}", None, "rows", kind, "ü\udc80\n"))
                    for row in part
                    for kind in "ab"
                ],
                args=(range(start, 1000, 4),),
            )
            for start in (3, 0, 2, 1)
        ]
        for thread in add:
            thread.start()
        for thread in add:
            thread.join()
        problems.write()
    listed = read_jsonl(tmp_path / "new" / "list")
    by_row = sorted(listed, key=lambda line: line["row"])
    assert [(line["row"], line["kind"]) for line in by_row] == [(row, kind) for row in range(1000) for kind in "ab"]
    assert {line["text"] for line in listed} == {"ü\udc80\n"} and problems.num_problems == 2000
    assert os.listdir(tmp_path / "new") == ["list"]


def test_a_report_lists_rows_and_audio_with_file_line_and_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [*bad_rows(75), {"audio_filepath": "gone.wav"}, {"wav": "a.wav", "id": ""}]
    write_jsonl(tmp_path / "m.jsonl", rows)
    (tmp_path / "a.wav").write_bytes(b"junk")
    done = CliRunner().invoke(app, ["validate", "m.jsonl", "--json", "--workers", "1", "--report", "all.jsonl"])
    assert done.exit_code == EXIT_USAGE
    told = json.loads(done.stdout)
    assert told["report"] == {"path": str(tmp_path / "all.jsonl"), "problems": 78}
    listed = read_jsonl(tmp_path / "all.jsonl")
    listed.sort(key=lambda line: line["row"])
    assert [line["row"] for line in listed] == list(range(78))
    assert all(line["where"] == f"{tmp_path}/m.jsonl:{line['row'] + 1}" and "; " in line["text"] for line in listed)
    assert [line["id"] for line in listed[:4]] == ["first", "u0", "u1", "first"] and listed[77]["id"] is None
    assert {problem["kind"]: problem["rows"] for problem in told["problems"]} == {
        kind: sum(line["kind"] == kind for line in listed) for kind in {line["kind"] for line in listed}
    }
    assert {line["of"] for line in listed} == {"rows", "audio"} and listed[0]["kind"] == "unreadable"
    again = ["validate", "m.jsonl", "--audio", "none", "--report", "all.jsonl", "--overwrite", "--on-bad-row", "fail"]
    assert CliRunner().invoke(app, again).exit_code == EXIT_ROWS_FAILED
    assert sorted(line["row"] for line in read_jsonl(tmp_path / "all.jsonl")) == [*range(1, 76), 77]


def refused(config: RunConfig) -> list[str]:
    def start(*_, **__):
        raise AssertionError("the engine was started")

    with pytest.raises(ManifestError) as caught:
        run(config, start=start)
    assert caught.value.exit_code == EXIT_USAGE
    return str(caught.value).splitlines()


def test_a_run_that_refuses_rows_lists_all_of_them_beside_its_output(tiny_en, tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", bad_rows(75))
    config = RunConfig(
        manifest=str(path),
        engine=EngineConfig(model=tiny_en),
        output=str(tmp_path / "run/out.jsonl"),
        num_chunks=2,
        chunk_id=1,
    )
    listed = tmp_path / "run/out.problems"
    said = refused(config)
    assert said[0] == f"{path}: 75 problems in 76 rows; nothing was run"
    assert [line.split(": ")[0] for line in said[1:21]] == [f"{path}:{line}" for line in range(2, 22)]
    assert said[21:] == [
        "… and 55 more",
        "by kind: 25 × offset: must be a number of seconds from 0 to 1e+09, 25 × temperature: is set for the "
        "whole run, not per row, 25 × id: given twice",
        f"all of them, a JSON line each: {listed}",
    ]
    assert sorted(line["row"] for line in read_jsonl(listed)) == list(range(1, 76))
    assert os.listdir(tmp_path / "run") == ["out.problems"] and find_chunks(config.output_path) == {}
    write_jsonl(path, bad_rows(2))
    assert refused(config)[-1].endswith(str(listed)) and len(read_jsonl(listed)) == 2
    write_jsonl(path, bad_rows(0))
    assert run(config).progress.total_rows == 0  # of two chunks and one row the second is empty, and starts no engine
    assert not listed.exists()


def test_a_list_that_cannot_be_written_hides_no_problem(tiny_en, tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", bad_rows(3))
    # Nobody, root included, makes a file there.
    config = RunConfig(manifest=str(path), engine=EngineConfig(model=tiny_en), output="/proc/out.jsonl")
    said = refused(config)
    assert len(said) == 5 and said[-1].startswith(
        f"the list of all of them was not written: {RunPaths(config.output_path).problems}"
    )
    with closing(ProblemFile(path / "below" / "list")) as problems, pytest.raises(OutputError, match="Not a directory"):
        problems.add(Issue(0, "m:1", None, "rows", "k", "t"))
        problems.write()
    config = RunConfig(manifest=str(path), engine=EngineConfig(model=tiny_en), output=str(path / "out.jsonl"))
    with pytest.raises(UsageError, match="is a file, not a folder"):
        run(config)
    os.rename(path, tmp_path / "other.problems")
    config = RunConfig(
        manifest=str(tmp_path / "other.problems"),
        engine=EngineConfig(model=tiny_en),
        output=str(tmp_path / "other.jsonl"),
    )
    with pytest.raises(UsageError, match="other.problems is the input; give another name"):
        run(config)


def test_where_nothing_lists_them_it_is_said_what_does(tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", bad_rows(30))
    with pytest.raises(
        ManifestError, match=r"… and 10 more; `asrbatch validate --report FILE` writes all of them\nby kind: 10 × "
    ):
        open_manifest(path)
