"""`asrbatch score`: rates as jiwer and the leaderboard count them, intervals as others draw them,
and no row dropped.
"""

import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jiwer
import kaldialign
import numpy as np
import pytest
from conftest import REPO, read_jsonl, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_ROWS_FAILED, EXIT_USAGE, OutputError, UsageError
from asrbatch.evaluation.compare import compare
from asrbatch.evaluation.normalizers import load_normalizer
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.report.make import make_report
from asrbatch.evaluation.row_fields import duration_bin, finite_seconds
from asrbatch.evaluation.score import score, score_files
from asrbatch.evaluation.stats.significance import interval, resampled_rates
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.languages import is_language, primary
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.storage.jsonl import JsonLines

pytest_plugins = "command_line"

DATA = REPO / "tests/data/prompts.tiny-en.jsonl"
PAIRS = read_jsonl(DATA)
RECORDED = json.loads((REPO / "tests/data/leaderboard.json").read_text(encoding="utf-8"))
FEW = 50  # resamples, where intervals are not what is tested


def scored(path: Path, **options) -> dict:
    return score(path, ScoreOptions(**{"resamples": FEW, **options}))


def rows_file(folder: Path, *rows: dict | str, name: str = "rows.jsonl") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows]
    (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder / name


def row(row_id: str, text: str | None, pred_text: str | None, **fields) -> dict:
    return {"id": row_id, "text": text, "pred_text": pred_text, **fields}


# Against what others count


@pytest.mark.parametrize("name", ["none", "whisper-english", "whisper-basic"])
def test_words_and_characters_are_counted_as_jiwer_counts_them(name):
    normalize = load_normalizer(name).normalize
    references = [" ".join(normalize(row["text"]).split()) for row in PAIRS]
    hypotheses = [" ".join(normalize(row["pred_text"] or "").split()) for row in PAIRS]
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    total = scored(DATA, normalizer=name)["total"]
    assert total["wer_percent"] == pytest.approx(100 * words.wer, abs=1e-6)
    assert [total[edit] for edit in ("substitutions", "deletions", "insertions")] == [
        words.substitutions,
        words.deletions,
        words.insertions,
    ]
    assert total["cer_percent"] == pytest.approx(100 * characters.cer, abs=1e-6)
    assert total["rows"] == len(PAIRS) and total["failed"] == 3


@pytest.mark.parametrize("which", ["all_rows", "ok_rows", "spoiled"])
def test_the_leaderboards_number_to_the_second_decimal(which, tmp_path):
    rows = [row for row in PAIRS if which != "ok_rows" or row["status"] == "ok"]
    if which == "spoiled":
        rows = [{**row, "pred_text": RECORDED["spoiled_texts"][row["id"]], "status": "ok"} for row in rows]
    total = scored(write_jsonl(tmp_path / "rows.jsonl", rows), normalizer="leaderboard")["total"]
    recorded = RECORDED[which]
    assert round(total["wer_percent"], 2) == recorded["wer_percent"] != recorded["wer_percent_without_merging"]
    assert {name: total[name] for name in ("substitutions", "deletions", "insertions", "reference_words")} == {
        name: recorded[name] for name in ("substitutions", "deletions", "insertions", "reference_words")
    }


def test_a_file_of_the_leaderboard_has_its_rtfx_and_a_chunk_of_a_session_is_refused(tmp_path):
    result = {"audio_filepath": "sample_0", "duration": 10.0, "time": 0.25, "text": "Hello.", "pred_text": "hello"}
    figures = scored(rows_file(tmp_path, result, {**result, "duration": 5.0, "time": 0.05}), normalizer="leaderboard")
    assert figures["speed"] == {"rtfx_stated": 50.0}
    assert figures["total"]["wer_percent"] == 0
    assert scored(rows_file(tmp_path, result, {**result, "time": None}))["speed"] == {}
    chunk = {**result, "parent_id": "session", "chunk_index": 0}
    with pytest.raises(UsageError, match="id .* is a chunk of a session"):
        scored(rows_file(tmp_path, chunk), normalizer="leaderboard")


def test_intervals_are_those_of_utterances_drawn_one_by_one():
    generator, total = np.random.default_rng(7), scored(DATA, resamples=4000)["total"]
    normalize = load_normalizer("whisper-english").normalize
    counted = [
        jiwer.process_words(normalize(row["text"]), normalize(row["pred_text"] or ""))
        for row in PAIRS
        if row["status"] == "ok"
    ]
    errors = np.array([each.substitutions + each.deletions + each.insertions for each in counted])
    words = np.array([len(each.references[0]) for each in counted])
    drawn = generator.integers(len(words), size=(4000, len(words)))
    low, high = np.quantile(errors[drawn].sum(1) / words[drawn].sum(1), [0.025, 0.975])
    outcomes: dict[tuple[int, int], int] = {}
    for each in zip(errors.tolist(), words.tolist(), strict=True):
        outcomes[each] = outcomes.get(each, 0) + 1
    ours = interval(resampled_rates(outcomes, 4000, seed=0)[0])
    assert ours == pytest.approx((low, high), abs=0.04 * (high - low))
    assert total["wer_percent_interval"][0] < total["wer_percent"] < total["wer_percent_interval"][1]


def test_intervals_are_near_those_of_kaldi():
    ok = [row for row in PAIRS if row["status"] == "ok"]
    outcomes: dict[tuple[int, int], int] = {}
    references, hypotheses = [row["text"].split() for row in ok], [row["pred_text"].split() for row in ok]
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        edits = kaldialign.edit_distance(reference, hypothesis)
        outcomes[edits["total"], len(reference)] = outcomes.get((edits["total"], len(reference)), 0) + 1
    theirs = kaldialign.bootstrap_wer_ci(references, hypotheses, replications=4000)
    low, high = interval(resampled_rates(outcomes, 4000, seed=0)[0])
    assert (low, high) == pytest.approx((theirs["ci95min"], theirs["ci95max"]), abs=0.1 * theirs["ci95"])


def test_few_utterances_and_utterances_without_variation_have_no_interval(tmp_path):
    rows = [row(f"r{i}", "one two", "one" if i % 2 else "one two") for i in range(10)]
    total = scored(rows_file(tmp_path, *rows), normalizer="none")["total"]
    assert total["wer_percent"] == 25 and total["wer_percent_interval"][0] < 25 < total["wer_percent_interval"][1]
    alike = [[{**each, "pred_text": said} for each in rows] for said in ("one", "x y", "one two")]
    for these in (rows[:1], rows[:9], *alike):
        total = scored(rows_file(tmp_path, *these), normalizer="none")["total"]
        assert (
            total["wer_percent"] is not None and total["wer_percent_interval"] is total["cer_percent_interval"] is None
        )


def test_an_interval_follows_from_the_seed_and_the_rows_and_not_from_their_groups_name(tmp_path):
    rows = [{**row, "first": "x", "second": "y" if row["duration"] < 3 else "z"} for row in PAIRS]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    figures = scored(path, by=("first",))
    assert figures["by"]["first"]["groups"]["x"] == figures["total"]
    seeds = [scored(path, seed=seed)["total"]["wer_percent_interval"] for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    renamed = write_jsonl(tmp_path / "renamed.jsonl", [{**row, "second": row["second"] * 2} for row in rows])
    first, again = (scored(each, by=("second",))["by"]["second"] for each in (path, renamed))
    assert first["unweighted_mean"] == again["unweighted_mean"]
    assert [*first["groups"].values()] == [*again["groups"].values()]


def test_the_unweighted_mean_of_alike_groups_is_surer_than_each_of_them(tmp_path):
    rows = [
        row(f"{group}{i}", "one two", "one" if i % 2 else "one two", set=group) for group in "abcd" for i in range(20)
    ]
    part = scored(rows_file(tmp_path, *rows), normalizer="none", by=("set",), resamples=1000)["by"]["set"]
    low, high = part["unweighted_mean"]["wer_percent_interval"]
    of_one = part["groups"]["a"]["wer_percent_interval"]
    assert high - low == pytest.approx((of_one[1] - of_one[0]) / 2, rel=0.2)  # four groups, each drawn on its own


def test_why_an_unweighted_mean_has_no_interval_is_said(tmp_path):
    rows = [row(f"{i}", "one two", "one" if i % 2 else "one two", lang="en", set="ab"[i > 10]) for i in range(20)]
    figures = scored(rows_file(tmp_path, *rows), by=("set",))
    mean = figures["by"]["set"]["unweighted_mean"]
    assert (mean["groups_in_wer"], mean["groups_too_small_in_wer"], mean["wer_percent_interval"]) == (2, 1, None)
    assert figures["notes"] == [
        "--by set: the unweighted mean has no interval, because 1 of 2 groups have fewer than 10 utterances"
    ]


# What is never dropped, and what is not scored


def test_failed_and_missing_predictions_are_empty_hypotheses(tmp_path):
    failed = row("c", "five six", None, status="failed", error={"kind": "too_long", "message": "."})
    path = rows_file(tmp_path, row("a", "one two", "one two"), row("b", "three four", None), failed)
    figures = scored(path, normalizer="none")
    total = figures["total"]
    assert (total["rows"], total["failed"], total["missing"], total["deletions"]) == (3, 1, 1, 4)
    assert total["wer_percent"] == pytest.approx(100 * 4 / 6, abs=1e-5)
    assert figures["failed_kinds"] == {"too_long": 1} and figures["exit_code"] == EXIT_ROWS_FAILED
    assert scored(rows_file(tmp_path, row("a", "one", "one")))["exit_code"] == EXIT_COMPLETE


def test_rows_of_the_references_without_a_prediction_count_and_others_are_left_out(tmp_path):
    manifest = write_jsonl(
        tmp_path / "manifest.jsonl",
        [
            {"id": name, "audio_filepath": f"{name}.wav", "duration": 3, "text": f"one two {name}", "set": "s"}
            for name in "abc"
        ],
    )
    predictions = rows_file(
        tmp_path, {"id": "c", "pred_text": "one two c"}, {"id": "x", "pred_text": "y"}, {"id": "a", "pred_text": "one"}
    )
    figures = scored(predictions, references=str(manifest), normalizer="none", by=("set", "duration"))
    assert (figures["total"]["rows"], figures["total"]["missing"], figures["total"]["deletions"]) == (3, 1, 5)
    assert figures["total"]["wer_percent"] == pytest.approx(100 * 5 / 9, abs=1e-5)
    assert figures["unmatched_predictions"] == 1 and any(
        "1 prediction has no reference row" in note for note in figures["notes"]
    )
    assert figures["by"]["set"]["groups"]["s"]["rows"] == figures["by"]["duration"]["groups"]["2 to 5 s"]["rows"] == 3


def test_a_reference_manifest_without_ids_finds_the_predictions_of_its_audio(tmp_path):
    parts = [
        {"audio_filepath": "talk.wav", "offset": at, "duration": 2.5, "text": f"part {at}"} for at in (0, 2.5, 2.5)
    ]
    manifest = write_jsonl(tmp_path / "manifest.jsonl", parts)
    predictions = rows_file(tmp_path, *({**part, "pred_text_canary": part["text"]} for part in parts))
    figures = scored(predictions, references=str(manifest))
    assert figures["pred_field"] == "pred_text_canary"
    assert (figures["total"]["rows"], figures["total"]["missing"], figures["total"]["wer_percent"]) == (3, 0, 0)


def test_a_manifest_of_other_rows_is_refused_and_a_part_of_it_is_not(tmp_path):
    manifest = write_jsonl(
        tmp_path / "manifest.jsonl", [{"id": f"m{i}", "audio_filepath": f"{i}.wav", "text": "one"} for i in range(300)]
    )
    predictions = rows_file(
        tmp_path, *({"id": f"p{i}", "audio_filepath": "x.wav", "pred_text": "one"} for i in range(300))
    )
    why = r'rows\.jsonl: none of its 300 rows is in .*; here one is id p0, audio "x\.wav", there id m0, audio "0\.wav"'
    with pytest.raises(UsageError, match=why):
        scored(predictions, references=str(manifest))
    with pytest.raises(UsageError, match=why):
        compare(predictions, predictions, ScoreOptions(references=str(manifest)))
    nearly = rows_file(tmp_path, *({"id": f"{'m' if i < 2 else 'p'}{i}", "pred_text": "one"} for i in range(300)))
    with pytest.raises(UsageError, match="only 2 of its 300 rows are in"):
        scored(nearly, references=str(manifest))
    begun = rows_file(tmp_path, {"id": "m7", "pred_text": "one"})  # as a run that was started a moment ago
    assert scored(begun, references=str(manifest))["total"]["missing"] == 299


def test_predictions_without_ids_find_their_audio_however_its_path_is_written(tmp_path):
    (tmp_path / "data").mkdir()
    parts = [
        {"audio_filepath": "a/talk.wav", "offset": at, "duration": 2.5, "text": f"part {at}"} for at in (0, 2.5, 2.5)
    ]
    manifest = write_jsonl(tmp_path / "data/manifest.jsonl", [{**part, "id": f"m{i}"} for i, part in enumerate(parts)])
    for path in (str(tmp_path / "data/a/talk.wav"), "data/./a/talk.wav"):
        said = [{**part, "audio_filepath": path, "pred_text": part["text"]} for part in reversed(parts)]
        figures = scored(rows_file(tmp_path, *said), references=str(manifest))
        assert (figures["total"]["rows"], figures["total"]["missing"], figures["total"]["wer_percent"]) == (3, 0, 0)
        assert any("found in the manifest by their audio" in note for note in figures["notes"])
    compared = compare(tmp_path / "rows.jsonl", tmp_path / "rows.jsonl", ScoreOptions(references=str(manifest)))
    assert (compared["total"]["rows"], compared["total"]["wer"]["errors_a"]) == (3, 0)


def test_rows_without_a_usable_reference_are_counted_by_reason(tmp_path):
    path = rows_file(
        tmp_path,
        row("a", None, "one two"),
        row("b", "  ", "three"),
        row("c", "(laughs) uh, [um]", "four five six"),
        row("d", "Ignore time segment in scoring.", "seven"),
        row("e", "eight", "eight"),
    )
    figures = scored(path, normalizer="leaderboard")
    assert figures["excluded"] == dict.fromkeys(EXCLUDED, 1)
    assert figures["words_said_in_excluded"] == {
        "no_reference": 1,  # `one two` is 12 to these rules
        "empty_reference": 1,
        "nothing_left": 1,
        "marked_to_ignore": 1,
    }
    assert figures["total"]["rows"] == 1
    assert scored(path)["excluded"] == dict.fromkeys(["no_reference", "empty_reference", "nothing_left"], 1)
    assert scored(path, normalizer="none")["words_said_in_excluded"] == {"no_reference": 2, "empty_reference": 1}


def test_nothing_to_score_is_said_with_its_fix(tmp_path):
    with pytest.raises(UsageError, match="1 row: it has no reference.*--references.*asrbatch compare"):
        scored(rows_file(tmp_path, {"id": "a", "pred_text": "x"}))


def test_languages_without_spaces_are_counted_in_characters_and_the_others_in_words(tmp_path):
    path = rows_file(
        tmp_path,
        row("zh", "今天 天气。", "今天天汽", lang="zh"),
        row("de", "Das Wetter, heute", "das Wetter gestern", lang="de"),
        row("en", "It's fine", "it is fine"),
    )
    figures = scored(path, by=("lang",))
    groups = figures["by"]["lang"]["groups"]
    assert (
        groups["zh"]["wer_percent"] is None and groups["zh"]["cer_percent"] == 25 and groups["zh"]["rows_in_words"] == 0
    )
    assert groups["de"]["wer_percent"] == pytest.approx(100 / 3, abs=1e-5) and groups["(none)"]["wer_percent"] == 0
    assert figures["total"]["rows_in_words"] == 2 and figures["total"]["reference_words"] == 6
    assert [(each["name"], each["rows"]) for each in figures["normalizers"]] == [
        ("whisper-basic", 2),
        ("whisper-english", 1),
    ]
    mean = figures["by"]["lang"]["unweighted_mean"]
    assert (mean["groups_in_wer"], mean["groups_in_cer"]) == (2, 3)
    assert mean["wer_percent"] == pytest.approx(100 / 3 / 2, abs=1e-5)
    assert mean["cer_percent"] == pytest.approx(sum(group["cer_percent"] for group in groups.values()) / 3, abs=1e-5)
    assert "1 row does not say its `lang` and was taken for en" in figures["notes"][0]
    assert scored(path, language="fr")["normalizers"][0]["rows"] == 3
    with pytest.raises(UsageError, match="--language klingon: is not a language; give a code such as en"):
        scored(path, language="klingon")
    with pytest.raises(UsageError, match="--language auto: is not a language"):
        compare(path, path, ScoreOptions(language="auto"))


def test_groups_add_up_and_their_mean_is_not_weighted(tmp_path):
    rows = [{**row, "source": "short" if row["duration"] < 2 else "long", "tags": ["x", "y"]} for row in PAIRS]
    figures = scored(write_jsonl(tmp_path / "rows.jsonl", rows), by=("source", "duration", "tags"), resamples=500)
    for name in ("source", "duration"):
        groups = figures["by"][name]["groups"].values()
        for count in (
            "rows",
            "failed",
            "substitutions",
            "deletions",
            "insertions",
            "reference_words",
            "character_errors",
        ):
            assert sum(group[count] for group in groups) == figures["total"][count]
    part = figures["by"]["source"]
    mean = sum(group["wer_percent"] for group in part["groups"].values()) / 2
    assert part["unweighted_mean"]["wer_percent"] == pytest.approx(mean, abs=1e-5)
    low, high = part["unweighted_mean"]["wer_percent_interval"]
    assert low < mean < high and abs(mean - figures["total"]["wer_percent"]) > 0.5
    assert list(figures["by"]["duration"]["groups"]) == [
        "< 2 s",
        *(f"{a} to {b} s" for a, b in [(2, 5), (5, 10), (10, 15), (15, 20), (20, 30), (30, 60), (60, 300)]),
    ]
    assert figures["by"]["tags"]["groups"]["x"]["rows"] == figures["by"]["tags"]["groups"]["y"]["rows"] == len(PAIRS)
    with pytest.raises(UsageError, match="--by nosuch: no row has this field"):
        scored(DATA, by=("nosuch",))


def test_bins_of_duration():
    assert [duration_bin(seconds) for seconds in (0, 1.999, 2, 30, 299.9, 300, 1e6, None)] == [
        "< 2 s",
        "< 2 s",
        "2 to 5 s",
        "30 to 60 s",
        "60 to 300 s",
        "300 s and more",
        "300 s and more",
        "(none)",
    ]


def test_of_many_groups_the_largest_are_shown_and_all_are_counted(cli_here, tmp_path):
    rows = [row(f"r{i}", "a", "a" if i % 3 else "b", speaker=f"s{i}", lang="en") for i in range(1500)]
    rows += [row("more", "a", "a", speaker="s7", lang="en")]
    path = rows_file(tmp_path, *rows)
    few = ("--by", "speaker", "--resamples", FEW)
    done = cli_here("score", path, *few, "--json")
    groups = json.loads(done.stdout)["by"]["speaker"]["groups"]
    assert len(groups) == 1500 and groups["s7"]["rows"] == 2 and groups["s9"]["wer_percent"] == 100
    for command in (("score", path), ("compare", path, path)):
        shown = cli_here(*command, *few).stdout.splitlines()
        names = [line.split()[0] for line in shown if line.strip()]
        assert len({name for name in names if name.startswith("s") and name[1:].isdigit()}) == 50
        assert any(line.split()[:2] == ["s7", "2"] for line in shown)
        assert "note: --by speaker: the 50 groups with the most rows, of 1,500; --json has all" in shown


def test_a_field_with_too_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("asrbatch.evaluation.stats.sums.MOST_GROUPS", 20)
    path = rows_file(tmp_path, *(row(f"r{i}", "a", "a") for i in range(21)))
    assert len(scored(path, by=("text",))["by"]["text"]["groups"]) == 1
    for refused in (
        lambda: scored(path, by=("id",)),
        lambda: compare(path, path, ScoreOptions(by=("id",))),
    ):
        with pytest.raises(UsageError, match="--by id: more than 20 different values; name a field that rows share"):
            refused()


# Any order, any number of processes


@pytest.fixture(scope="module")
def in_order() -> dict:
    return scored(DATA, by=("duration", "status"))


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_changes_nothing(in_order, seed, tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("order"), list(PAIRS)
    random.Random(seed).shuffle(rows)
    shuffled = scored(write_jsonl(folder / "rows.jsonl", rows), by=("duration", "status"))
    assert {**shuffled, "predictions": ""} == {**in_order, "predictions": ""}


def test_processes_count_what_one_counts(tmp_path):
    rows = [{**row, "id": f"{row['id']} {copy}"} for copy in range(9) for row in PAIRS]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    alone = scored(path, by=("duration",), num_processes=1)
    assert scored(path, by=("duration",), num_processes=3) == alone
    assert alone["total"]["rows"] == 9 * len(PAIRS)


def test_texts_counted_in_batches_are_counted_once(tmp_path, monkeypatch):
    path = rows_file(tmp_path, *PAIRS[:40])
    whole, pairs = scored(path), compare(path, path, ScoreOptions(resamples=FEW))
    monkeypatch.setattr("asrbatch.evaluation.rows._BATCH_CHARS", 100)
    assert scored(path) == whole and whole["total"]["rows"] == 40
    assert compare(path, path, ScoreOptions(resamples=FEW)) == pairs


def test_an_error_in_a_process_is_the_error_of_the_command(tmp_path):
    rows = [row(f"r{i}", "a", "a") for i in range(5000)]
    path = rows_file(tmp_path, *rows, row("bad", "a", ["a"]))
    with pytest.raises(
        OutputError, match=r'rows\.jsonl:5001: id bad: pred_text = \["a"\]: is not a text; write it in quotes'
    ):
        scored(path, num_processes=2)


def test_memory_does_not_grow_with_the_texts(tmp_path):
    def peak(copies: int) -> int:
        rows = [{**row, "id": f"{row['id']} {copy}"} for copy in range(copies) for row in PAIRS]
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        del rows
        tracemalloc.start()
        try:
            scored(path, num_processes=1, normalizer="none")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # what is imported and loaded once
    grown, num_rows = peak(12) - peak(4), 8 * len(PAIRS)
    assert grown / num_rows < 120  # bytes a row


# Files


def test_two_rows_with_one_id_are_an_error(tmp_path):
    path = rows_file(tmp_path, row("a", "x", "x"), "\n", row("b", "x", "x"), row("a", "x", "x"))
    with pytest.raises(OutputError, match=r"rows\.jsonl:4: id a is at .*rows\.jsonl:1 already"):
        scored(path)


def test_a_torn_line_is_left_out_and_a_bad_one_is_an_error(tmp_path):
    path = rows_file(tmp_path, row("a", "x", "x"), '{"id": "b", "text": "y", "pre')
    figures = scored(path)
    assert figures["total"]["rows"] == 1 and "the last line is incomplete" in figures["notes"][0]
    pairs = compare(path, path, ScoreOptions(resamples=FEW))
    for each in (figures, pairs):
        assert each["partial"] and each["exit_code"] == EXIT_ROWS_FAILED
    common = compare(path, path, ScoreOptions(resamples=FEW), common=True)
    assert not common["partial"] and common["exit_code"] == EXIT_COMPLETE
    manifest = [{"id": row_id, "audio_filepath": "x.wav", "text": "x"} for row_id in "ab"]
    against = scored(path, references=str(write_jsonl(tmp_path / "m.jsonl", manifest)))
    assert not against["partial"] and against["total"]["missing"] == 1  # there it counts as empty
    for bad, why in (("[1]\n", "not a JSON object"), ("{\n", "not JSON"), ("\x80\n", "not JSON")):
        with pytest.raises(OutputError, match=rf"rows\.jsonl:1: {why}"):
            scored(rows_file(tmp_path, bad, row("a", "x", "x")))
    assert (
        scored(rows_file(tmp_path, "\ufeff", row("a", "x", "x"), json.dumps(row("b", "x", "x"))))["total"]["rows"] == 2
    )


def test_the_field_with_predictions_must_be_clear(tmp_path):
    path = rows_file(tmp_path, {"id": "a", "text": "x", "pred_text_b": "x", "pred_text_c": "y"})
    with pytest.raises(UsageError, match=r"several models \(pred_text_b, pred_text_c\); choose one with --pred-field"):
        scored(path)
    assert scored(path, pred_field="pred_text_c")["total"]["wer_percent"] == 100
    both = rows_file(
        tmp_path, {"id": "a", "lang": "en", "text": "x", "pred_text": "x", "pred_text_c": "y"}, name="both.jsonl"
    )
    note = "predictions are those in pred_text; there are also pred_text_c: --pred-field chooses"
    assert scored(both)["notes"] == [note] and scored(both, pred_field="pred_text")["notes"] == []
    assert compare(both, both, ScoreOptions())["notes"] == [f"A: {note}", f"B: {note}"]
    with pytest.raises(UsageError, match="--pred-field z: no row of .* has it"):
        scored(path, pred_field="z")
    with pytest.raises(UsageError, match="no pred_text in any row, only id, text; say which"):
        scored(rows_file(tmp_path, {"id": "a", "text": "x"}))
    with pytest.raises(UsageError, match="holds no rows"):
        scored(rows_file(tmp_path, ""))
    with pytest.raises(UsageError, match="No such file"):
        scored(tmp_path / "nowhere.jsonl")


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = rows_file(tmp_path, row("a", "x", "x"), row("b", "x", "x"))
    predictions = Predictions(path)
    assert predictions.find("b")["text"] == "x" and predictions.find("c") is None
    path.write_text(path.read_text().replace('"b"', '"c"'))
    with pytest.raises(OutputError, match="was changed while it was read"):
        predictions.read(1)


# The command


def test_the_command_prints_a_table_or_json(cli_here, tmp_path):
    hostile = row("\x1b[31m[bold]x", "one two three", "one \x1b[2J", lang="[red]e\x1bn")
    path = rows_file(tmp_path, hostile, row("b", "four", None))
    shown = cli_here("score", path, "--by", "lang,duration", "--normalizer", "none")
    assert shown.returncode == EXIT_ROWS_FAILED, shown.stderr
    assert r"[red]e\x1bn" in shown.stdout and "\x1b" not in shown.stdout
    assert "1 row without a prediction" in shown.stdout and "unweighted mean" in shown.stdout
    as_json = cli_here("score", path, "--json", "--normalizer", "none", "--seed", "3", "--resamples", "10")
    figures = json.loads(as_json.stdout)
    assert figures["bootstrap"] == {"resamples": 10, "seed": 3, "coverage": 0.95, "unit": "utterance"}
    assert figures["total"]["wer_percent"] == 75.0 and figures["words"]["name"] == "jiwer"
    assert as_json.returncode == figures["exit_code"] == EXIT_ROWS_FAILED
    for arguments, message in (
        (("score", path, "--normalizer", "best"), "--normalizer best: unknown; known: auto"),
        (("score", path, "--by", "lang,,duration"), "an empty name"),
        (("score", path, "--by", ""), "--by is empty; give names of fields"),
        (
            ("score", path, "--split", "test"),
            "--split test: needs a manifest; name it with --references",
        ),
        (("compare", path, path, "--split", "test"), "--split test: needs a manifest"),
        (("score", "nowhere.jsonl"), "nowhere.jsonl: No such file or directory; give a rows file"),
        (("score", path, "--references", "nowhere.jsonl"), "nowhere.jsonl: does not exist"),
    ):
        done = cli_here(*arguments)
        assert (
            (done.returncode, done.stdout) == (EXIT_USAGE, "")
            and message in done.stderr
            and "Traceback" not in done.stderr
        )


SHORT, LONG = ([row for row in PAIRS if (row["duration"] < 2) == is_short] for is_short in (True, False))


def test_of_several_files_the_composite_is_the_mean_of_their_rates_and_all_words_count_once(tmp_path):
    for name, rows in (("a", SHORT), ("b", LONG)):  # ids of two data sets may be the same
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "out.jsonl", [{**row, "id": f"r{at}"} for at, row in enumerate(rows)])
    paths = [tmp_path / name / "out.jsonl" for name in "ab"]
    figures = score_files(paths, ScoreOptions(resamples=FEW, by=("status",)))
    alone = [scored(path) for path in paths]
    assert list(figures["files"]) == ["a/out", "b/out"]
    assert [of["total"] for of in figures["files"].values()] == [of["total"] for of in alone]
    for rate in ("wer", "cer"):
        rates = [of["total"][f"{rate}_percent"] for of in alone]
        assert figures["composite"][f"{rate}_percent"] == pytest.approx(sum(rates) / 2, abs=1e-5)
        assert figures["composite"][f"groups_in_{rate}"] == 2 and figures["composite"][f"{rate}_percent_interval"]
    whole = scored(DATA, by=("status",))  # the same rows in one file
    assert figures["total"] == whole["total"] and figures["by"] == whole["by"]
    assert figures["total"]["wer_percent"] != pytest.approx(figures["composite"]["wer_percent"], abs=0.5)
    assert figures["exit_code"] == EXIT_ROWS_FAILED
    with pytest.raises(UsageError, match=r"a/out\.jsonl: is given twice"):
        score_files([paths[0], paths[1], tmp_path / "a" / ".." / "a" / "out.jsonl"], ScoreOptions())
    with pytest.raises(UsageError, match="--by nowhere: no row has this field"):
        score_files(paths, ScoreOptions(by=("nowhere",), resamples=1))


def test_a_field_that_one_of_several_files_has_makes_groups(tmp_path):
    a = rows_file(tmp_path, row("x", "one two", "one two", lang="en", voice="v"), name="a.jsonl")
    b = rows_file(tmp_path, row("x", "one two", "one", lang="en", time=0.5, duration=2.0), name="b.jsonl")
    figures = score_files([a, b], ScoreOptions(resamples=FEW, by=("voice",)))
    assert {value: of["rows"] for value, of in figures["by"]["voice"]["groups"].items()} == {"v": 1, "(none)": 1}
    assert figures["files"]["b"]["speed"] == {"rtfx_stated": 4.0} and figures["speed"] == {}
    assert figures["notes"][-1] == ("the composite has no interval, because 2 of 2 files have fewer than 10 utterances")


def test_the_command_shows_each_file_the_composite_and_all_words(cli_here, tmp_path):
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in (("short", SHORT), ("long", LONG))]
    done = cli_here("score", *paths, "--resamples", FEW)
    assert done.returncode == EXIT_ROWS_FAILED, done.stderr
    table = done.stdout.partition("by file, in words")[2].partition("by file, in characters")[0]
    rates = [scored(path)["total"]["wer_percent"] for path in paths]
    wanted = {
        "short": rates[0],
        "long": rates[1],
        "composite: mean of 2 files": sum(rates) / 2,
        "all words together": scored(DATA)["total"]["wer_percent"],
    }
    for name, rate in wanted.items():
        [line] = [line for line in table.splitlines() if line.strip().startswith(name)]
        assert f" {rate:.2f} " in line


def test_files_of_the_same_recordings_have_no_composite(cli_here, tmp_path):
    few = [{**row, "audio_filepath": f"{row['id']}.wav"} for row in PAIRS[:30]]
    said = [{**row, "pred_text": "other"} for row in few[::-1]]
    moved = [{**row, "audio_filepath": f"other/{row['id']}.wav"} for row in few]
    a, b, c = (write_jsonl(tmp_path / f"{name}.jsonl", of) for name, of in (("a", few), ("b", said), ("c", moved)))
    done = cli_here("score", a, c, b, "--resamples", FEW, "--by", "status")
    shown = done.stdout
    assert "by file, in words" in shown and "composite" not in shown and "together" not in shown.partition("note: ")[0]
    assert "note: files are of the same recordings" in shown and "asrbatch compare" in shown
    assert "by status" not in shown and "of composite" not in done.stderr
    # Data sets may have the same ids, and the same names of files.
    assert "composite: mean of 2 files" in cli_here("score", a, c, "--resamples", FEW).stdout
    retold = write_jsonl(tmp_path / "d.jsonl", [{**row, "text": "another text"} for row in few])
    assert not score_files([a, retold], ScoreOptions(resamples=FEW))["same_recordings"]
    # What is held against one manifest, or was made of one, is of the same recordings.
    assert score_files([a, c], ScoreOptions(resamples=FEW, references=str(a)))["same_recordings"]
    for path in (a, retold):
        record = {"fingerprint": {"manifest": "m"}, "total_rows": 30, "sessions": []}
        path.with_name(f"{path.stem}.run.json").write_text(json.dumps(record))
    assert score_files([a, retold], ScoreOptions(resamples=FEW))["same_recordings"]


def test_predictions_come_through_a_pipe(tmp_path, cli):
    lines = "".join(json.dumps(row) + "\n" for row in PAIRS)
    (tmp_path / "rows.jsonl").write_text(lines)
    command = f"{sys.executable} -m asrbatch"
    shell = f"cat rows.jsonl | {command} score - --json && {command} score <(cat rows.jsonl) --json"
    shell += f" && cat rows.jsonl | {command} score - rows.jsonl --json && echo '[' | {command} score -"
    done = subprocess.run(["bash", "-c", shell.replace("&&", ";")], cwd=tmp_path, capture_output=True, text=True)
    piped, substituted, both = map(json.loads, done.stdout.splitlines())
    assert (piped["predictions"], piped["total"]) == ("-", score(DATA, ScoreOptions())["total"])
    assert substituted["total"] == piped["total"] and list(both["files"]) == ["standard input", "rows"]
    assert piped["notes"] == score(DATA, ScoreOptions())["notes"]  # none is about a record
    assert done.returncode == EXIT_ERROR and "standard input:1: not JSON" in done.stderr, done.stderr


def test_a_runs_own_files_say_how_fast_and_how_complete_it_was(tmp_path):
    stages = {"read": 0.1, "prepare": 0.2, "queue": 0.0, "first_token": 0.3, "generate": 0.0, "total": 1.0}
    timed = [row(f"r{i}", "x", "x", status="ok", timing={**stages, "total": i / 100}) for i in range(101)]
    path = rows_file(tmp_path, *timed, name="out.jsonl")
    record = {
        "asrbatch": "0.1.0",
        "fingerprint": {"manifest": "m", "language": "de"},
        "total_rows": 103,
        "sessions": [],
    }
    (tmp_path / "out.run.json").write_text(json.dumps(record))
    figures = scored(path)
    assert figures["notes"] == [
        "not complete: 101 of 103 rows are there; the others are not counted (the run record names no manifest): "
        "--references "
        "MANIFEST counts them as empty",
        "101 rows do not say their `lang` and were taken for de; --language says another",
    ]
    assert figures["speed"] == {} and figures["normalizers"][0]["name"] == "whisper-basic"
    assert figures["partial"] and figures["exit_code"] == EXIT_ROWS_FAILED
    (tmp_path / "out.run.json").write_text(json.dumps({**record, "total_rows": 101}))
    mark = {
        "rows": 101,
        "statuses": {"ok": 101},
        "sha256": "0",
        "rtfx_engine": 7.9,
        "rtfx_end_to_end": 7.37,
        "wall_s": 179.266,
    }
    (tmp_path / "out.done.json").write_text(json.dumps(mark))
    figures = scored(path, language="en")
    assert (
        figures["speed"] == {"rtfx_engine": 7.9, "rtfx_end_to_end": 7.37, "wall_s": 179.266} and figures["notes"] == []
    )
    assert not figures["partial"] and figures["exit_code"] == EXIT_COMPLETE
    (tmp_path / "out.done.json").write_text(json.dumps({**mark, "rows": 100}))
    assert scored(path)["speed"] == {}  # of a file with another number of rows
    assert figures["latency_s"]["total"] == {
        "rows": 101,
        "mean": 0.5,
        "p50": 0.5,
        "p90": 0.9,
        "p95": 0.95,
        "p99": 0.99,
        "max": 1.0,
    }
    assert figures["latency_s"]["read"]["p50"] == 0.1


def test_a_run_in_chunks_is_scored_as_the_run_it_is(tmp_path):
    def chunk(number: int, rows: list[dict]) -> None:
        path = rows_file(tmp_path, *rows, name=f"out.chunk-{number:05}-of-00003.jsonl")
        session = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:00+00:00", "outcome": "complete"}
        session |= {"audio_s": 100.0, "engine_s": 10.0, "wall_s": 20.0}
        fingerprint = {"manifest": "m", "num_rows": len(PAIRS)}
        record = {
            "fingerprint": fingerprint,
            "total_rows": len(rows),
            "chunk_id": number,
            "num_chunks": 3,
            "sessions": [session],
        }
        path.with_name(f"{path.stem}.run.json").write_text(json.dumps(record))
        mark = {"rows": len(rows), "statuses": {}, "sha256": "0"}
        path.with_name(f"{path.stem}.done.json").write_text(json.dumps(mark))

    path = tmp_path / "out.jsonl"
    chunk(0, PAIRS[::3])
    chunk(2, PAIRS[2::3])
    figures = scored(path)
    there = len(PAIRS[::3]) + len(PAIRS[2::3])
    assert (
        figures["notes"][0].startswith(f"not complete: {there} of {len(PAIRS)} rows are there")
        and figures["speed"] == {}
    )
    chunk(1, PAIRS[1::3])
    figures = scored(path)
    assert figures["total"] == scored(DATA)["total"]
    assert figures["notes"] == ["read from 3 chunks, not verified: merge-shards does that"]
    assert (figures["speed"]["rtfx_engine"], figures["speed"]["rtfx_end_to_end"]) == (10, 5)
    with open(tmp_path / "out.chunk-00001-of-00003.jsonl", "a") as file:
        file.write(json.dumps(PAIRS[1])[:-1])  # torn, and not the last file
    assert "the last line is incomplete" in scored(path)["notes"][0]
    chunk(1, [*PAIRS[1::3], PAIRS[2]])
    with pytest.raises(
        OutputError, match=rf"chunk-00002-of-00003.jsonl:1: id {PAIRS[2]['id']} is at .*chunk-00001-of-00003"
    ):
        scored(path)
    rows_file(tmp_path, PAIRS[0], name="out.chunk-00000-of-00002.jsonl")
    with pytest.raises(UsageError, match="chunks of runs of 2 and 3; merge one"):
        scored(path)


def run_with_manifest(folder: Path, rows: list[dict], **record) -> tuple[Path, Path]:
    """Rows of a run that is not complete, and the manifest that its record names."""
    manifest = write_jsonl(
        folder / "manifest.jsonl",
        [{"id": f"r{i}", "audio_filepath": f"{i}.wav", "duration": 1 + i, "text": "cat dog"} for i in range(6)],
    )
    found = open_manifest(manifest)
    fingerprint = {"manifest": found.scan.digest, "language": "en", "num_rows": 6, **record.pop("fingerprint", {})}
    facts = {
        "fingerprint": fingerprint,
        "total_rows": 6,
        "sessions": [],
        "manifest": {"source": str(manifest), "rows": 6},
    }
    path = write_jsonl(folder / "out.jsonl", rows)
    (folder / "out.run.json").write_text(json.dumps({**facts, **record}))
    return path, manifest


def test_what_an_unfinished_run_lacks_counts_as_empty_by_its_own_manifest(cli, tmp_path):
    path, manifest = run_with_manifest(tmp_path, [row("r0", "cat dog", "cat dog"), row("r3", "cat dog", "cat")])
    figures = scored(path)
    total = figures["total"]
    assert (total["rows"], total["missing"], total["deletions"], total["wer_percent"]) == (6, 4, 9, 75)
    assert (
        figures["references"] == str(manifest) and not figures["partial"] and figures["exit_code"] == EXIT_ROWS_FAILED
    )
    assert figures["notes"] == [
        f"not complete: 2 of 6 rows are there; the others count as empty, by {manifest}",
        "6 rows do not say their `lang` and were taken for en; --language says another",
    ]
    text = manifest.read_text()
    for change, why in (
        (lambda: manifest.write_text(text.replace('"r5"', '"r6"')), "was changed since it was transcribed"),
        (manifest.unlink, "does not exist"),
    ):
        change()
        figures = scored(path)
        assert figures["total"]["rows"] == 2 and figures["partial"] and figures["exit_code"] == EXIT_ROWS_FAILED
        assert why in figures["notes"][0] and "--references MANIFEST counts them as empty" in figures["notes"][0]
    shown = cli("score", path)
    assert shown.returncode == EXIT_ROWS_FAILED and shown.stdout.startswith(
        "partial: rows that the run has not written"
    )


def test_what_an_unfinished_chunk_lacks_is_what_the_chunk_was_to_hold(tmp_path):
    sharding = Sharding(np.arange(1, 7, dtype=np.float32), 2, "contiguous")
    chunk = {"num_chunks": 2, "strategy": "contiguous", "chunks": sharding.digest}
    more = {"chunk_id": 1, "num_chunks": 2, "total_rows": 3}
    path, _ = run_with_manifest(tmp_path, [row("r4", "cat dog", "cat dog")], fingerprint=chunk, **more)
    total = scored(path)["total"]
    assert (total["rows"], total["missing"], total["deletions"]) == (3, 2, 4)
    path, _ = run_with_manifest(tmp_path, [row("r4", "cat dog", "x")], fingerprint={**chunk, "chunks": "other"}, **more)
    assert scored(path)["partial"] and "are in chunk 1 is unknown" in scored(path)["notes"][0]


# Rows that nobody should write, and some do


ODD = [10**400, 1e305, 1e300, float("nan"), float("inf"), float("-inf"), -1, 1e-7, 1e-320, 0, True, "3", None, [1], {}]


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:8])
def test_odd_numbers_are_no_defect(odd, tmp_path):
    timing = {"timing": {"total": odd, "generate": odd, "read": 1.0}}
    odd_row = {"offset": odd, "duration": odd, "audio_filepath": "x.wav", "channel": odd, "audio_s": odd}
    ours = rows_file(tmp_path, row("a", "one", "one", status="ok", **odd_row, **timing), name="ours.jsonl")
    theirs = {"text": "one", "pred_text": "one", "time": odd, **odd_row}
    others = rows_file(tmp_path, theirs, {**theirs, "time": 2.0, "duration": odd}, name="others.jsonl")
    for path, rows in ((ours, 1), (others, 2)):
        figures = scored(path, by=("duration",))
        assert figures["total"]["rows"] == rows and json.dumps(figures, allow_nan=False)
        assert figures["total"]["audio_s"] == 0 and figures["speed"] == {}
        assert compare(path, path, ScoreOptions(resamples=FEW, by=("duration",)))["total"]["rows"] == rows
        make_report([path], tmp_path / f"{path.stem}.html", ScoreOptions(resamples=FEW), title="t", most_rows=9)
    assert scored(ours)["latency_s"]["read"]["max"] == 1.0


def test_seconds_are_what_can_be_computed_with():
    assert [finite_seconds(odd) for odd in ODD] == [None] * 7 + [1e-7, 1e-320, 0] + [None] * 5
    assert str(finite_seconds(-0.0)) == "0.0" and finite_seconds(1e9) == 1e9


def test_times_of_no_length_make_no_speed(tmp_path):
    result = {"audio_filepath": "a", "duration": 10.0, "time": 1e-7, "text": "a", "pred_text": "a"}
    assert scored(rows_file(tmp_path, result))["speed"] == {}


def test_a_time_that_the_manifest_says_is_no_speed_of_ours(tmp_path):
    fields = {"time": 2.0, "duration": 10.0}
    assert scored(rows_file(tmp_path, row("a", "x", "x", status="ok", **fields)))["speed"] == {}
    assert scored(rows_file(tmp_path, row("a", "x", "x", **fields)))["speed"] == {"rtfx_stated": 5.0}


def test_many_doubled_ids_are_counted_and_few_are_shown(tmp_path, monkeypatch):
    lines = [json.dumps(row(f"r{i}", "x", "x" * 200)) + "\n" for i in range(20_000)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(lines + lines))
    asked, where = [], JsonLines.where
    monkeypatch.setattr(JsonLines, "where", lambda lines, index: asked.append(index) or where(lines, index))
    with pytest.raises(OutputError) as error:
        Predictions(path)
    assert len(asked) == 6  # each reads the file up to its line: asked for every doubled id, it took minutes
    message = str(error.value).splitlines()
    assert message[0].endswith(f"rows.jsonl:20001: id r0 is at {path}:1 already") and message[3] == "… and 19997 more"
    assert len(message) == 5


def test_what_a_failed_row_said_does_not_count(tmp_path):
    error = {"kind": "engine_crash", "message": "."}
    figures = scored(rows_file(tmp_path, row("a", "cat dog", "cat dog", status="failed", error=error)))
    total = figures["total"]
    assert (total["failed"], total["deletions"], total["wer_percent"]) == (1, 2, 100)


def test_long_values_are_different_groups_and_are_shown_short(cli_here, tmp_path):
    values = ["x" * 100 + end for end in "ab"]
    path = rows_file(tmp_path, row("a", "one", "one", source=values[0]), row("b", "one", "two", source=values[1]))
    groups = scored(path, by=("source",))["by"]["source"]["groups"]
    assert {value: group["wer_percent"] for value, group in groups.items()} == {values[0]: 0, values[1]: 100}
    shown = cli_here("score", path, "--by", "source").stdout
    assert values[0] not in "".join(shown.split()) and "x…" in shown


def test_names_of_languages_are_languages(tmp_path):
    path = rows_file(
        tmp_path,
        row("zh", "今天 天气", "今天天汽", lang="Chinese"),
        row("en", "it's", "it is", lang="English"),
        row("de", "eins zwei", "eins", lang="German"),
    )
    groups = scored(path, by=("lang",))["by"]["lang"]["groups"]
    assert groups["Chinese"]["rows_in_words"] == 0 and groups["Chinese"]["cer_percent"] == 25
    assert groups["English"]["wer_percent"] == 0 and groups["German"]["wer_percent"] == 50


@pytest.mark.parametrize(
    ("lang", "code"),
    [
        *(("zh-Hant", "zh"), ("ZH_tw", "zh"), ("<|zh|>", "zh"), ("Mandarin Chinese", "zh"), ("cmn_hans_cn", "zh")),
        *(("en_US.UTF-8", "en"), ("English (US)", "en"), ("eng", "en"), ("nb-NO", "no"), ("Haitian Creole", "ht")),
        *(("deu", "de"), ("ger", "de"), ("jw", "jv"), ("Cantonese", "yue"), ("ast", "ast"), ("haw", "haw")),
        *(("auto", None), ("en.US", None), ("klingon", None), ("xx", None), ("und", None), ("", None), ("<||>", None)),
    ],
)
def test_a_language_is_known_by_its_codes_and_names(lang, code):
    assert is_language(lang) == (code is not None)
    assert code is None or primary(lang) == code


def test_what_is_no_language_is_said_by_name_and_number(tmp_path):
    rows = [
        row(f"r{i}", "It's", "it is", lang=lang) for i, lang in enumerate(["auto", "auto", "en.US", "<|en|>", "en"])
    ]
    path = rows_file(tmp_path, *rows)
    for figures in (scored(path), compare(path, path, ScoreOptions(resamples=FEW))):
        assert figures["languages"]["unknown"] == {"auto": 2, "en.US": 1}
        assert figures["notes"][0].startswith("3 rows say a `lang` that is no language (auto 2, en.US 1)")
    assert scored(path)["total"]["wer_percent"] == 30  # three of them by rules for any language


def test_other_tools_say_the_language_as_language(tmp_path):
    theirs = [{"id": "a", "text": "今天 天气", "pred_text": "今天天汽", "language": "zh"}]
    assert scored(rows_file(tmp_path, *theirs))["total"]["rows_in_words"] == 0
    ours = {**theirs[0], "status": "ok", "lang": "en"}  # there it is what the model heard
    assert scored(rows_file(tmp_path, ours))["total"]["rows_in_words"] == 1
    moved = {
        **theirs[0],
        "status": "ok",
        "language": "en",
        "input": {"language": "zh"},
    }  # and `input` what the manifest said
    assert scored(rows_file(tmp_path, moved))["total"]["rows_in_words"] == 0


@pytest.mark.parametrize("name", ["leaderboard", "whisper-english"])
def test_rules_for_english_say_when_rows_are_not_english(name, tmp_path):
    path = rows_file(tmp_path, *(row(lang, "eins", "eins", lang=lang) for lang in ("de", "de-AT", "French", "en-GB")))
    figures = scored(path, normalizer=name)
    assert figures["languages"]["english_rules"] == {"de": 2, "fr": 1}
    assert figures["notes"][0].startswith(
        f"3 rows are not in English (de 2, fr 1), and the rules of {name} are made for English"
    )
    assert ("this is not its number" in figures["notes"][0]) == (name == "leaderboard")
    assert scored(path)["notes"] == []


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_of_several_languages_changes_nothing(seed, tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("order"), random.Random(1)
    texts = {"zh": "今天天气很好", "de": "das Wetter ist gut", "en": "it's fine", "Hindi": "मौसम अच्छा है", "auto": "x y"}
    rows = [
        row(f"r{i}", texts[lang], "".join(c for c in texts[lang] if draw.random() > 0.2), lang=lang)
        for i, lang in enumerate(draw.choices([*texts], k=80))
    ]
    first = scored(write_jsonl(folder / "rows.jsonl", rows), by=("lang",))
    random.Random(seed).shuffle(rows)
    again = scored(write_jsonl(folder / "rows.jsonl", rows), by=("lang",))
    assert again == first and set(first["by"]["lang"]["groups"]) == {*texts}


def test_rows_heard_as_another_language_are_counted(tmp_path):
    rows = [
        row(f"r{i}", "x", "x", status="ok", language=heard, lang="en")
        for i, heard in enumerate(["en", "de", "de", None, "English"])
    ]
    [note] = scored(rows_file(tmp_path, *rows))["notes"]
    assert note.startswith("2 rows were heard as another language")
    assert not scored(rows_file(tmp_path, rows[0]))["notes"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"\x1f\x8b\x08\x00\x00\x00", UsageError, r"rows\.jsonl: is gzip data, not JSON Lines; unpack it first"),
        (
            b'\xef\xbb\xbf[\n {"id": "a", "pred_text": "x"},\n {"id": "b"}]',
            UsageError,
            r"rows\.jsonl: is one JSON array, not JSON Lines; write each of its objects on a line of its own",
        ),
        (b"plain text", OutputError, r"rows\.jsonl:1: not JSON \(Expecting value\); correct the line"),
        (b"plain text\nmore\n", OutputError, r"rows\.jsonl:1: not JSON"),
        (
            b'{"id": "a", "pred_text": "x", "n": ' + b"1" * 5000 + b"}\n",
            OutputError,
            r":1: a number of more than 4300 digits; correct",
        ),
        (
            b'{"id": true, "pred_text": "x"}\n',
            OutputError,
            r"rows\.jsonl:1: id = true: must be a non-empty string or a whole number",
        ),
        (
            b'{"id": "a", "pred_text": "x"}\n{"id": 1.0}\n',
            OutputError,
            r"rows\.jsonl:2: id = 1\.0: must be a non-empty string",
        ),
        (b'{"id": "", "pred_text": "x"}\n', OutputError, r'rows\.jsonl:1: id = "": must be a non-empty string'),
        (
            b'{"id": "a", "text": 3, "pred_text": "x"}\n',
            OutputError,
            r"rows\.jsonl:1: id a: text = 3: is not a text; write it in quotes",
        ),
    ],
)
def test_files_that_are_none_are_named_with_a_fix(content, error, message, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(error, match=message):
        scored(tmp_path / "rows.jsonl")


def test_a_folder_is_no_file_of_predictions(tmp_path):
    with pytest.raises(UsageError, match="is a folder, not a file; give a rows file"):
        scored(tmp_path)


@pytest.mark.parametrize("asked", [None, {"style": "transcription", "target_language": "en"}])
def test_a_translation_is_scored_in_the_language_it_is_written_in(asked, tmp_path):
    rows = [row("a", "a good day", "a good day", lang="ja", language="ja", status="ok")]
    path = rows_file(tmp_path, *rows)
    assert scored(path)["total"]["reference_words"] == 0, "Japanese is counted in characters"
    fingerprint = {"task": "translate", **({"asked": asked} if asked else {})}
    (tmp_path / "rows.run.json").write_text(json.dumps({"fingerprint": fingerprint, "total_rows": 1, "sessions": []}))
    found = scored(path)
    assert found["total"]["reference_words"] == 3 and not any("heard as another" in note for note in found["notes"])
    assert scored(path, language="ja")["total"]["reference_words"] == 0


def test_what_a_translation_into_an_unknown_language_is_written_in_says_the_option(tmp_path):
    path = rows_file(tmp_path, row("a", "a good day", "a good day", lang="ja", language="ja", status="ok"))
    fingerprint = {"task": "translate", "asked": {"style": "chat"}}
    (tmp_path / "rows.run.json").write_text(json.dumps({"fingerprint": fingerprint, "total_rows": 1, "sessions": []}))
    assert scored(path)["total"]["reference_words"] == 0, "by its `lang`"
    assert scored(path, language="en")["total"]["reference_words"] == 3
