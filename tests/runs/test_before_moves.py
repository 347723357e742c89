"""What commit 04d2e9f made, before modules moved: it is gone on with, merged, scored and exported as by that commit.

`data/before_moves/README.md` says how it was made. One thing of it is refused on purpose: its rules for windows had
version 2, and rows of other rules are not added to it. To go on with it all the same, and try all else, its record is
given the present version (`with_present_rules`), and nothing else of it is touched.
"""

import json
import shutil
from pathlib import Path

import pytest
from conftest import read_jsonl, write_jsonl

from asrbatch.audio.windows import WindowConfig
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, OutputError
from asrbatch.runs.fingerprint import digest, is_of_other_rules
from asrbatch.runs.plan import RunPlan

DATA = Path(__file__).parents[1] / "data"
BEFORE = DATA / "before_moves"
EXPECTED = json.loads((BEFORE / "expected.json").read_text(encoding="utf-8"))
IDS = ["cut", "d39833e9a4ae4e62", "gone", "long", "s-0880", "s-0890", "s-0920", "s-0930"]
CHUNKED = {"windows": "fixed", "timestamps": False, "num_chunks": 2}
KILLED = [("unfinished", {}), ("sequential", {"windows": "sequential", "condition_on_previous": True})]
THEN, NOW = 2, WindowConfig(16_000, 30.0, 160).choices["version"]


@pytest.fixture
def runs(tmp_path) -> Path:
    """A copy, in another place than that where the runs were begun."""
    return Path(shutil.copytree(BEFORE, tmp_path / "elsewhere"))


def of_present_rules(fingerprint: dict) -> dict:
    assert fingerprint["windows"]["version"] == THEN
    return fingerprint | {"windows": fingerprint["windows"] | {"version": NOW}}


def with_present_rules(record: Path) -> None:
    value = json.loads(record.read_text(encoding="utf-8"))
    value["fingerprint"] = of_present_rules(value["fingerprint"])
    record.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def files(folder: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(f"{name}.*") if path.is_file()}


def check_resumed(runs: Path, name: str) -> None:
    """The rows that were whole stand where they stood, byte for byte; the torn one is gone; every row is there once."""
    kept = (BEFORE / f"{name}.jsonl").read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    assert (runs / f"{name}.jsonl").read_bytes().startswith(kept)
    rows = read_jsonl(runs / f"{name}.jsonl")
    assert 2 <= kept.count(b"\n") < len(rows) and sorted(row["id"] for row in rows) == IDS
    assert all(row["pred_text"] if row["id"] != "gone" else row["error"]["kind"] == "missing" for row in rows)
    before, now = (json.loads((folder / f"{name}.run.json").read_text()) for folder in (BEFORE, runs))
    assert now["fingerprint"] == of_present_rules(before["fingerprint"]) and now["created"] == before["created"]
    assert now["sessions"][0] == before["sessions"][0]
    assert [session["outcome"] for session in now["sessions"]] == [None, "complete"]
    mark = json.loads((runs / f"{name}.done.json").read_text())
    assert mark["rows"] == 8 and mark["fingerprint"] == digest(of_present_rules(before["fingerprint"]))


@pytest.mark.parametrize(("name", "options"), KILLED)
def test_rows_of_other_rules_are_not_added_to_a_killed_run(name, options, runs, transcribe, tiny_en):
    with pytest.raises(OutputError, match="was begun with version 2 of the rules for windows, and .* has 3 .*Finish"):
        transcribe(runs / "m.jsonl", tiny_en, runs / f"{name}.jsonl", **options)
    assert files(runs, name) == files(BEFORE, name)
    with pytest.raises(OutputError, match=r"What differs: .*windows\.version: was 2, now 3.*Give the same options"):
        transcribe(runs / "m.jsonl", tiny_en, runs / f"{name}.jsonl", **options, prompt="and another prompt")


@pytest.mark.parametrize(("name", "options"), KILLED)
def test_a_killed_run_is_gone_on_with(name, options, runs, transcribe, tiny_en):
    with_present_rules(runs / f"{name}.run.json")
    summary = transcribe(runs / "m.jsonl", tiny_en, runs / f"{name}.jsonl", **options)
    assert summary.outcome == "complete" and summary.exit_code == EXIT_ROWS_FAILED
    check_resumed(runs, name)


def test_a_killed_run_on_devices_is_gone_on_with_on_one(runs, transcribe, tiny_en):
    with_present_rules(runs / "devices.run.json")
    how = {"args": ("max_num_seqs=1",), "prompt": "Elinor and Mister Dashwood."}
    assert transcribe(runs / "m.jsonl", tiny_en, runs / "devices.jsonl", **how).exit_code == EXIT_ROWS_FAILED
    check_resumed(runs, "devices")


def test_a_complete_run_is_complete(runs, cli, transcribe, tiny_en):
    done = cli("transcribe", "m.jsonl", "-m", tiny_en, "-o", "complete.jsonl", "--dtype", "float32", cwd=runs)
    assert done.returncode == EXIT_ROWS_FAILED and "already complete" in done.stderr, done.stderr
    assert "note: complete.jsonl was made with version 2 of the rules for windows" in done.stderr
    for chunk_id in (0, 1):
        summary = transcribe(runs / "m.jsonl", tiny_en, runs / "chunked.jsonl", chunk_id=chunk_id, **CHUNKED)
        assert summary.outcome == "already_complete"
    for path in [*BEFORE.glob("complete.*json*"), *BEFORE.glob("chunked.chunk*")]:
        assert (runs / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(OutputError, match="was begun with version 2"):  # its failed row would be of other rules
        transcribe(runs / "m.jsonl", tiny_en, runs / "complete.jsonl", retry_failed=True)


def test_chunks_merge_to_the_same_bytes(runs, cli):
    for name in ("chunked.jsonl", "chunked.run.json", "chunked.done.json"):
        (runs / name).unlink()
    done = cli("merge-shards", "chunked.jsonl", "--manifest", "m.jsonl", cwd=runs)
    assert done.returncode == EXIT_ROWS_FAILED, done.stderr
    assert (runs / "chunked.jsonl").read_bytes() == (BEFORE / "chunked.jsonl").read_bytes()
    for kind in ("done", "run"):
        before, now = (json.loads((folder / f"chunked.{kind}.json").read_text()) for folder in (BEFORE, runs))
        for value in (before, now):
            # What stands behind "manifest" is new.
            news = ("bytes", "device_hours_of", "killed_sessions", "cost", "model", "started", "ended")
            for differs in ("created", "completed", "manifest", *news):
                value.pop(differs, None)
        assert now == before


def export(cli, folder: Path, runs: Path) -> None:
    """As it was written to `complete.export`."""
    for name, options in (
        ("each", ("--format", "srt,vtt,txt,tsv,ctm,json")),
        ("run", ("--format", "ctm,tsv,json", "--per-run", "--times", "file")),
    ):
        done = cli("export", "complete.jsonl", *options, "--to", folder / name, cwd=runs)
        assert done.returncode == EXIT_ROWS_FAILED, done.stderr


def test_exports_are_the_same_bytes(runs, cli, tmp_path):
    export(cli, tmp_path / "now", runs)
    before, now = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (BEFORE / "complete.export", tmp_path / "now")
    )
    # Of rows without an id of theirs, subfolders are kept since.
    ours, media = "each/0920", "each/audio/0920"
    renamed = {Path(str(path).replace(ours, media)): text for path, text in before.items()}
    index = {path for path in renamed if path.name.endswith(".index.jsonl")}
    names = [f'"file": "{each.removeprefix("each/")}.'.encode() for each in (ours, media)]
    before = {path: text.replace(*names) if path in index else text for path, text in renamed.items()}
    assert len(before) > 50 and now == before


DRAWS = ("--resamples", "1000")  # as many as a score had where none were asked for
SCORES = {
    "complete": ("score", "complete.jsonl", "--by", "dataset,duration", *DRAWS),
    "unfinished": ("score", "unfinished.jsonl", "--references", "m.jsonl", "--normalizer", "none", *DRAWS),
    "prompts": ("score", "prompts.jsonl", "--normalizer", "leaderboard", *DRAWS),
    "runs": ("compare", "complete.jsonl", "chunked.jsonl", "--by", "dataset"),
    "spoiled": ("compare", "prompts.jsonl", "spoiled.jsonl"),
}


def spoil(rows: list[dict]) -> list[dict]:
    """Without the last word of every third text."""
    spoiled = [dict(row) for row in rows]
    for row in spoiled[::3]:
        row["pred_text"] = row["pred_text"] and row["pred_text"].rpartition(" ")[0]
    return spoiled


def figures(value):
    """Without what may change: places, versions, digests of rules, p-values, words for people."""
    unsure = {"predictions", "references", "asrbatch", "sha256", "p_value", "p_value_is_exact", "notes", "marks_lost"}
    unsure |= {"unstated", "detected"}  # a row that was detected in a language is scored by it now
    unsure |= {"a_percent_interval", "b_percent_interval"}  # now those of `score`
    unsure |= {"significant", "normalized"}  # new
    if isinstance(value, dict):
        return {name: figures(inner) for name, inner in value.items() if name not in unsure}
    return [figures(inner) for inner in value] if isinstance(value, list) else value


def score(cli, name: str, runs: Path) -> dict:
    rows = read_jsonl(DATA / "prompts.tiny-en.jsonl")
    write_jsonl(runs / "prompts.jsonl", rows)
    write_jsonl(runs / "spoiled.jsonl", spoil(rows))
    done = cli(*SCORES[name], "--json", cwd=runs)
    assert done.returncode in (EXIT_COMPLETE, EXIT_ROWS_FAILED), done.stderr
    return {"exit_code": done.returncode, **figures(json.loads(done.stdout))}


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_the_same(name, runs, cli):
    assert score(cli, name, runs) == figures(EXPECTED["scores"][name])


def many_rows(path: Path) -> Path:
    """A manifest to deal out: 1,000 rows, every 50th without a duration."""
    durations = [i * 7919 % 2999 / 100 + 0.1 for i in range(1000)]
    rows = [{"audio_filepath": f"{i}.wav", "id": f"row-{i}", "duration": d} for i, d in enumerate(durations)]
    for row in rows[::50]:
        del row["duration"]
    return write_jsonl(path, rows)


def fingerprint(of: dict, runs: Path, models: dict) -> dict:
    """What a run would note; `of` is an entry of `fingerprints` in `expected.json`."""
    many_rows(runs / "many.jsonl")
    engine = EngineConfig(model=models[of["model"]], **of["engine"])
    return RunPlan(RunConfig(manifest=str(runs / of["manifest"]), engine=engine, **of["options"])).fingerprint


@pytest.mark.parametrize("of", EXPECTED["fingerprints"], ids=lambda of: of["name"])
def test_fingerprints_are_the_same(of, runs, tiny_en, base):
    now = fingerprint(of, runs, {"tiny.en": tiny_en, "base": base})
    assert is_of_other_rules(of["fingerprint"], now) and now["windows"].pop("version") == NOW
    # What the model takes at once, which matters since a tail joins the window before it.
    assert now["windows"].pop("most_s", None) == (30.0 if of["name"] == "fixed" else None)
    now["windows"]["version"] = THEN
    assert json.loads(json.dumps(now)) == of["fingerprint"]
    assert digest(now) == of["digest"]
    assert list(now) == list(of["fingerprint"]), "a record has them in this order"


def test_digests_of_stored_fingerprints_are_the_same():
    for name, value in EXPECTED["digests"].items():
        assert digest(json.loads((BEFORE / f"{name}.run.json").read_text())["fingerprint"]) == value
