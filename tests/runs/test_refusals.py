"""What a run refuses, it refuses for good: exit code 2, and nothing changed. Else a task of SLURM requeues itself.

Tried, each on a complete run whose files were then changed, or on the same command with other options; `submit` on a
run in chunks. Before: exit 1 for all of the first table, at the start of the engine for unknown arguments, and `submit`
submitted.

| refused | before | now |
|---|---|---|
| another prompt, window, dtype, `--max-tokens`, engine argument, revision of the manifest, model | 1 | 2 |
| rows without a record; a record or mark that is no JSON, lacks fields, or was edited | 1 (some: "a defect") | 2 |
| a line that is no row, a row twice, one of another manifest; rows changed after completion | 1 | 2 |
| the output is a folder, or below a file | 1 | 2 |
| an unknown `--engine-arg` (also with `--devices`, also from standard input) | 2, after files were made | 2 |
| rows that are gone while the mark is there, also with `--retry-failed` | 1 | 2 |
| `submit` of any of these, or of rows and options that tasks refuse | submitted | 2 |

`submit` does not read complete rows again, but compares their number of bytes: an edit of the same length is the
task's to refuse.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from beep_engine import DiesOn
from beep_run import beep_manifest
from conftest import read_jsonl, write_jsonl

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_USAGE, AsrbatchError, UsageError
from asrbatch.runs import preflight
from asrbatch.runs.runner import run
from asrbatch.storage.paths import RunPaths

NUM_ROWS = 4
WELL = DiesOn(99)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_en) -> Path:
    """A folder with a manifest and its complete run."""
    folder = tmp_path_factory.mktemp("made")
    beep_manifest(folder, NUM_ROWS)
    assert run(config_in(folder, tiny_en), start=WELL).exit_code == EXIT_COMPLETE
    return folder


def config_in(folder: Path, model: str, args: tuple[str, ...] = (), **options) -> RunConfig:
    engine = {name: options.pop(name) for name in ("dtype", "max_tokens") if name in options}
    given = {"manifest": str(folder / "manifest.jsonl"), "output": str(folder / "out.jsonl"), "workers": 1, **options}
    return RunConfig(engine=EngineConfig(model=model, args=args, **engine), **given)


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refuse(folder: Path, config: RunConfig, match: str) -> None:
    before = content(folder)
    with pytest.raises(AsrbatchError, match=match) as refused:
        run(config, start=WELL)
    assert refused.value.exit_code == EXIT_USAGE, refused.value
    assert content(folder) == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"prompt": "other"}, "prompt: was null"),
        ({"windows": "fixed"}, "windows.splitter: was"),
        ({"window_s": 20.0}, "windows.limit_s: was"),
        ({"timestamps": False}, "sampling.timestamps: was true"),
        ({"fallback": True}, "sampling.fallback: was null"),
        ({"max_tokens": 7}, "sampling.max_tokens: was"),
        ({"dtype": "float16"}, "dtype: was"),
        ({"args": ("load_format=dummy",)}, "engine_args.load_format: was null"),
        ({"prompt": "other", "retry_failed": True}, "prompt: was null"),
    ],
)
def test_other_options(folder, tiny_en, options, difference):
    refuse(folder, config_in(folder, tiny_en, **options), f"holds rows of another run. What differs: .*{difference}")


def test_another_manifest(folder, tiny_en):
    rows = read_jsonl(folder / "manifest.jsonl")
    write_jsonl(folder / "manifest.jsonl", [{**rows[0], "id": "other"}, *rows[1:]])
    refuse(folder, config_in(folder, tiny_en), "What differs: manifest: was")


def edited(path: Path, **changes) -> None:
    text = json.dumps({**json.loads(path.read_text()), **changes})
    path.unlink()  # it may be a link
    path.write_text(text)


def test_another_model(folder, tiny_en, tmp_path):
    other = tmp_path / "model"
    other.mkdir()
    for path in Path(tiny_en).iterdir():
        (other / path.name).symlink_to(path)
    edited(other / "config.json", _name_or_path="other")
    refuse(folder, config_in(folder, str(other)), "What differs: model: was")


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def first_line(paths: RunPaths) -> bytes:
    return paths.rows.read_bytes().splitlines(keepends=True)[0]


def appended(path: Path, line: bytes) -> None:
    path.write_bytes(path.read_bytes() + line)


FIRST = '"index": 0'
DAMAGES = {
    "no record": (lambda run: run.record.unlink(), "it is unknown which run made it"),
    "a record that is no JSON": (lambda run: run.record.write_text("{"), "run.json: not valid JSON"),
    "a record that lacks fields": (lambda run: run.record.write_text("{}"), "run.json: has no fingerprint, sessions"),
    "an edited fingerprint": (lambda run: edited(run.record, fingerprint=3), "run.json: is not what asrbatch writes"),
    "edited sessions": (lambda run: edited(run.record, sessions=[{}]), "run.json: is not what asrbatch writes"),
    "edited kills": (lambda run: edited(run.record, kills={"0": [1]}), "run.json: is not what asrbatch writes"),
    "edited deaths": (lambda run: edited(run.record, engine_deaths={"x": 1}), "run.json: is not what asrbatch writes"),
    "a mark that is no JSON": (lambda run: run.done.write_text("3"), "done.json: holds no JSON object"),
    "an edited mark": (lambda run: edited(run.done, statuses=3), "done.json: is not what asrbatch writes"),
    "an edited row": (lambda run: replaced(run.rows, '"beep"', '"boop"'), "was changed after the run completed"),
    "a line that is no row": (lambda run: replaced(run.rows, FIRST, FIRST[:-2]), "this line is not an output row"),
    "a row twice": (lambda run: appended(run.rows, first_line(run)), "is there twice"),
    "a row of another manifest": (lambda run: replaced(run.rows, FIRST, '"index": 9'), "is not in the manifest"),
}  # fmt: skip


# Of what a mark shows first, and of what nothing else shows.
OF_ROWS = ("a line that is no row", "a row twice", "a row of another manifest")
OF_A_MARK = ("a mark that is no JSON", "an edited mark", "an edited row")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(folder, tiny_en, damage):
    paths = RunPaths(folder / "out.jsonl")
    change, match = DAMAGES[damage]
    change(paths)
    refuse(folder, config_in(folder, tiny_en), "was changed after the run" if damage in OF_ROWS else match)
    if damage not in OF_A_MARK:
        paths.done.unlink()
        refuse(folder, config_in(folder, tiny_en), match)


@pytest.mark.parametrize(
    ("output", "match"),
    [("there.jsonl", "is a folder, not a file"), ("file/out.jsonl", "is a file, not a folder")],
)
def test_an_output_that_cannot_be_one(folder, tiny_en, output, match):
    (folder / "there.jsonl").mkdir()
    (folder / "file").touch()
    refuse(folder, config_in(folder, tiny_en, output=str(folder / output)), match)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "as before"},
        {"language": "en", "windows": "silence", "strategy": "contiguous"},
        {"hotwords": "Dashwood", "dtype": "float32", "args": ("load_format=dummy", "max_num_seqs=2")},
    ],
)
def test_submit_knows_a_chunk_of_its_own_run(tmp_path, tiny_en, options, monkeypatch):
    """Here, where all of the fingerprint is known, and on a login node without a device, where some of it is."""
    beep_manifest(tmp_path, NUM_ROWS)
    config = config_in(tmp_path, tiny_en, num_chunks=2, chunk_id=1, **options)
    assert run(config, start=WELL).exit_code == EXIT_COMPLETE
    other = dataclasses.replace(config, prompt="another")

    def no_device():
        raise UsageError("no device")

    unchecked = "engine options and the rows' tasks" + (
        ", and whether --hotwords fit the prompt" * ("hotwords" in options)
    )
    for notes in ([], [f"not checked here: {unchecked}: no device"]):
        assert preflight.check_tasks(config, None, [0, 1], with_model=True) == notes
        assert preflight.check_tasks(other, None, [0], with_model=True) == notes
        with pytest.raises(AsrbatchError, match='prompt: was .*, now "another"') as refused:
            preflight.check_tasks(other, None, [0, 1], with_model=True)
        assert refused.value.exit_code == EXIT_USAGE
        monkeypatch.setattr(preflight, "detect_device", no_device)
    (note,) = preflight.check_tasks(config, None, [0, 1], with_model=False)
    assert "the model is not checked here" in note


@pytest.fixture(scope="module")
def made_in_chunks(tmp_path_factory, tiny_en) -> Path:
    """A folder with a manifest and both of its chunks, complete."""
    folder = tmp_path_factory.mktemp("chunks")
    beep_manifest(folder, NUM_ROWS)
    for chunk_id in range(2):
        assert run(config_in(folder, tiny_en, num_chunks=2, chunk_id=chunk_id), start=WELL).exit_code == EXIT_COMPLETE
    return folder


def other_chunk(paths: RunPaths) -> Path:
    return paths.rows.with_name(paths.rows.name.replace("00001-of", "00000-of"))


COMPLETE = {
    **{name: DAMAGES[name] for name in DAMAGES if "record" in name or "mark" in name or name.startswith("edited")},
    "a longer text": (lambda run: replaced(run.rows, '"beep', '"beep beep'), "does not match .*bytes instead of"),
    "rows that are cut": (lambda run: run.rows.write_bytes(run.rows.read_bytes()[:-9]), "does not match .*bytes"),
    "rows that are gone": (lambda run: run.rows.unlink(), "is gone, although"),
    "another run's mark": (lambda run: edited(run.done, fingerprint="other"), "belongs to another run, not to"),
    "another chunk's mark": (lambda run: edited(run.done, bytes=7), "bytes instead of 7"),
}  # fmt: skip
OPEN = {
    "a line that is no row": (lambda run: appended(run.rows, b"{}\n"), "this line is not an output row"),
    "a row twice": (lambda run: appended(run.rows, first_line(run)), "is there twice"),
    "another manifest's row": (lambda run: appended(run.rows, OTHER_ROW), "index 9 .* is not in the manifest"),
    "another id": (lambda run: replaced(run.rows, '"id": "', '"id": "x'), "row . of this manifest has another id"),
    "another chunk's rows": (lambda run: shutil.copy(other_chunk(run), run.rows), "belongs to another chunk"),
}  # fmt: skip
OTHER_ROW = b'{"id": "x", "index": 9, "status": "ok", "error": null, "audio_s": 1, "flags": []}\n'


@pytest.mark.parametrize("damage", [*((True, name) for name in COMPLETE), *((False, name) for name in OPEN)])
def test_submit_refuses_damaged_files(made_in_chunks, tiny_en, tmp_path, damage):
    """Before, it submitted those that have a sound record and mark, and their tasks were refused."""
    is_complete, name = damage
    folder = Path(shutil.copytree(made_in_chunks, tmp_path / "run"))
    config = config_in(folder, tiny_en, num_chunks=2, chunk_id=1)
    change, match = (COMPLETE if is_complete else OPEN)[name]
    if not is_complete:
        config.paths.done.unlink()
    change(config.paths)
    before = content(folder)
    with pytest.raises(AsrbatchError, match=match) as refused:
        preflight.check_tasks(config, None, [0, 1], with_model=False)
    assert refused.value.exit_code == EXIT_USAGE and content(folder) == before
    assert preflight.check_tasks(config, None, [0], with_model=False), "notes alone: that chunk is sound"


def test_submit_takes_what_tasks_take(made_in_chunks, tiny_en, tmp_path):
    """A torn row, which runs again; and an edit of the same length, which takes reading all rows: the task refuses."""
    folder = Path(shutil.copytree(made_in_chunks, tmp_path / "run"))
    config = config_in(folder, tiny_en, num_chunks=2, chunk_id=1)
    replaced(config.paths.rows, '"beep', '"boop')
    assert preflight.check_tasks(config, None, [0, 1], with_model=False)
    refuse(folder, config, "was changed after the run completed")
    replaced(config.paths.rows, '"boop', '"beep')
    config.paths.done.unlink()
    config.paths.rows.write_bytes(config.paths.rows.read_bytes()[:-9])
    assert preflight.check_tasks(config, None, [0, 1], with_model=False)
    assert run(config, start=WELL).exit_code == EXIT_COMPLETE


@pytest.mark.parametrize("retry_failed", [False, True])
def test_rows_that_are_gone_while_their_mark_is_there(folder, tiny_en, retry_failed):
    (folder / "out.jsonl").unlink()
    refuse(folder, config_in(folder, tiny_en, retry_failed=retry_failed), "out.jsonl: is gone, although out.done.json")


def test_submit_tells_problems_of_rows_a_line_each(folder, tiny_en):
    """Before, on one line with a written-out line break between them."""
    rows = read_jsonl(folder / "manifest.jsonl")
    write_jsonl(folder / "manifest.jsonl", [{**row, "lang": "de"} for row in rows])
    with pytest.raises(UsageError) as refused:
        preflight.check_tasks(config_in(folder, tiny_en, num_chunks=2, chunk_id=0), None, [0, 1], with_model=True)
    lines = str(refused.value).splitlines()
    assert sum('lang "de"' in line for line in lines) == NUM_ROWS and len(lines) > NUM_ROWS, lines
    assert "\\n" not in str(refused.value)
