"""`asrbatch compare`: pairs by id, differences that are there, and no two manifests mixed up unnoticed."""

import itertools
import json
import operator
import random
import re
from collections import Counter
from pathlib import Path

import jiwer
import kaldialign
import numpy as np
import pytest
from conftest import REPO, read_jsonl, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, OutputError, UsageError
from asrbatch.evaluation.compare import compare
from asrbatch.evaluation.normalizers import load_normalizer
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.score import score
from asrbatch.evaluation.stats.significance import permutation_test
from asrbatch.manifest.manifest import open_manifest

pytest_plugins = "command_line"

DATA = REPO / "tests/data/prompts.tiny-en.jsonl"
PAIRS = read_jsonl(DATA)
SPOILED = json.loads((REPO / "tests/data/leaderboard.json").read_text(encoding="utf-8"))["spoiled_texts"]


def compared(a: Path, b: Path, *, common: bool = False, shown: int = 10, **options) -> dict:
    return compare(a, b, ScoreOptions(**{"resamples": 200, **options}), common=common, shown=shown)


def rows_file(folder: Path, name: str, **texts: str | None) -> Path:
    """Rows with the reference `one two three`; the names are ids, the values predictions."""
    rows = [{"id": row_id, "text": "one two three", "pred_text": said} for row_id, said in texts.items()]
    return write_jsonl(folder / f"{name}.jsonl", rows)


def with_record(rows: Path, manifest: str, **facts) -> Path:
    record = {"fingerprint": {"manifest": manifest}, "total_rows": 3, "sessions": [], **facts}
    rows.with_name(f"{rows.stem}.run.json").write_text(json.dumps(record))
    return rows


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> Path:
    """The same rows in another order; every third prediction is the spoiled reference."""
    rows = [
        {**row, "pred_text": SPOILED[row["id"]], "status": "ok"} if at % 3 == 0 else row for at, row in enumerate(PAIRS)
    ]
    random.Random(1).shuffle(rows)
    return write_jsonl(tmp_path_factory.mktemp("b") / "b.jsonl", rows)


def test_both_rates_are_those_of_score_and_rows_are_paired_by_id(spoiled):
    figures = compared(DATA, spoiled, by=("duration",))
    alone = [score(path, ScoreOptions(resamples=10))["total"] for path in (DATA, spoiled)]
    wer, cer = figures["total"]["wer"], figures["total"]["cer"]
    assert [wer["a_percent"], wer["b_percent"]] == [each["wer_percent"] for each in alone]
    assert [cer["a_percent"], cer["b_percent"]] == [each["cer_percent"] for each in alone]
    # One number has one interval.
    drawn = [score(path, ScoreOptions(resamples=200))["total"] for path in (DATA, spoiled)]
    for rate, of in (("wer", wer), ("cer", cer)):
        both = [of["a_percent_interval"], of["b_percent_interval"]]
        assert both == [each[f"{rate}_percent_interval"] for each in drawn] and None not in both
    assert wer["delta_points"] == pytest.approx(wer["b_percent"] - wer["a_percent"], abs=1e-5)
    normalize = load_normalizer("whisper-english").normalize
    b = {row["id"]: row for row in read_jsonl(spoiled)}

    def errors(row: dict) -> int:
        found = jiwer.process_words(normalize(row["text"]), normalize(row["pred_text"] or ""))
        return found.substitutions + found.deletions + found.insertions

    changes = {row["id"]: errors(b[row["id"]]) - errors(row) for row in PAIRS}
    assert figures["total"]["better"] == sum(change < 0 for change in changes.values()) > 0
    assert figures["total"]["worse"] == sum(change > 0 for change in changes.values()) > 0
    assert figures["same_text"] == sum((row["pred_text"] or "") == (b[row["id"]]["pred_text"] or "") for row in PAIRS)
    for name, sign in (("got_worse", 1), ("got_better", -1)):
        largest = sorted(
            (row_id for row_id, change in changes.items() if sign * change > 0), key=lambda i: (-abs(changes[i]), i)
        )
        assert [change["id"] for change in figures[name]] == largest[:10]
        first = figures[name][0]
        assert first["errors_b"] - first["errors_a"] == changes[first["id"]]
        assert (first["a"], first["b"]) == (
            next(r["pred_text"] for r in PAIRS if r["id"] == first["id"]),
            b[first["id"]]["pred_text"],
        )
    assert sum(group["worse"] for group in figures["by"]["duration"].values()) == figures["total"]["worse"]


def test_a_real_difference_is_told_from_chance(spoiled, tmp_path):
    wer = compared(DATA, spoiled, resamples=2000)["total"]["wer"]
    low, high = wer["delta_points_interval"]
    assert 0 < low < wer["delta_points"] < high and wer["p_value"] < 0.01
    flipped = compared(spoiled, DATA, resamples=2000)["total"]["wer"]
    assert flipped["delta_points"] == -wer["delta_points"] and flipped["p_value"] < 0.01
    # As many errors more as less: nothing but chance.
    a = rows_file(tmp_path, "a", **{f"r{i}": "one two three" if i % 2 else "one two" for i in range(40)})
    b = rows_file(tmp_path, "b", **{f"r{i}": "one two" if i % 2 else "one two three" for i in range(40)})
    wer = compared(a, b)["total"]["wer"]
    assert (wer["delta_points"], wer["p_value"]) == (0, 1)
    assert wer["delta_points_interval"][0] < 0 < wer["delta_points_interval"][1]


@pytest.mark.parametrize(
    ("worse", "better", "same", "expected"),
    [
        (3, 0, 0, 1 / 4),
        (5, 0, 4, 1 / 16),
        (3, 0, 3, 1 / 4),
        (4, 0, 96, 1 / 8),
        (1, 0, 999, 1),
        (2, 2, 5, 1),
        (4, 1, 0, 3 / 8),
    ],
)
def test_p_values_of_few_changed_rows_are_those_of_swapping_rows(worse, better, same, expected, tmp_path):
    said = ["ab", "ba", "aa"]  # of A and B: a is right, b has an error
    pairs = said[:1] * worse + said[1:2] * better + said[2:] * same
    a, b = (
        rows_file(
            tmp_path,
            name,
            **{f"r{i}": "one two three" if pair[at] == "a" else "one two" for i, pair in enumerate(pairs)},
        )
        for at, name in enumerate("ab")
    )
    wer = compared(a, b, resamples=20_000)["total"]["wer"]
    assert wer["p_value"] == pytest.approx(expected, abs=0.015)
    assert (wer["rows"], wer["better"], wer["worse"]) == (len(pairs), better, worse)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=10))
def test_a_p_value_is_that_of_every_way_to_swap(differences):
    observed = abs(sum(differences))
    ways = list(itertools.product([-1, 1], repeat=len(differences)))
    as_large = sum(abs(sum(map(operator.mul, way, differences))) >= observed for way in ways)
    assert permutation_test(Counter(differences), 20_000, 0) == pytest.approx(as_large / len(ways), abs=0.02)


def test_a_p_value_of_many_rows_is_that_of_swapping_them():
    generator = np.random.default_rng(3)
    differences = generator.poisson(2, 300) - generator.poisson(2, 300) + (generator.random(300) < 0.1)
    swapped = (differences * generator.choice([-1, 1], size=(20_000, 300))).sum(1)
    drawn = [permutation_test(Counter(differences.tolist()), 20_000, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(np.mean(np.abs(swapped) >= abs(differences.sum())), rel=0.15)
    assert permutation_test({1: 5000}, 99, 0) == 0.01


def test_an_interval_of_the_difference_is_that_of_rows_drawn_one_by_one(spoiled):
    wer = compared(DATA, spoiled, normalizer="none", resamples=4000)["total"]["wer"]
    b = {row["id"]: row["pred_text"] or "" for row in read_jsonl(spoiled)}
    counted = [
        [
            kaldialign.edit_distance(row["text"].split(), said.split())["total"]
            for said in (row["pred_text"] or "", b[row["id"]])
        ]
        + [len(row["text"].split())]
        for row in PAIRS
    ]
    drawn = np.array(counted)[np.random.default_rng(5).integers(len(counted), size=(4000, len(counted)))].sum(1)
    low, high = np.quantile(100 * (drawn[:, 1] - drawn[:, 0]) / drawn[:, 2], [0.025, 0.975])
    assert wer["delta_points_interval"] == pytest.approx([low, high], abs=0.05 * (high - low))


def few_changes(folder: Path, changed: int, rows: int) -> tuple[Path, Path]:
    """A with an error in each of the first rows, B without any."""
    said = {f"r{at:03}": "one two" if at < changed else "one two three" for at in range(rows)}
    return rows_file(folder, "a", **said), rows_file(folder, "b", **dict.fromkeys(said, "one two three"))


def words_of(done) -> str:
    """What was printed, without its line breaks."""
    return " ".join(done.stdout.split())


def test_it_says_whether_a_difference_may_be_chance(cli_here, tmp_path):
    pair, plain = few_changes(tmp_path, 4, 40), ("--normalizer", "none")
    shown, figures = words_of(cli_here("compare", *pair, *plain)), compared(*pair, resamples=2000, normalizer="none")
    wer = figures["total"]["wer"]
    sentence = (
        f"B makes 4 fewer errors than A (0 against 4, of 120 words); the difference may be chance (p = "
        f"{wer['p_value']:.2g}, permutation of rows; although the interval does not contain 0)"
    )
    assert wer["significant"] is False and sentence in shown
    few = "errors in words differ in 4 rows only: p cannot be below 0.125 then"
    assert figures["notes"][-1].startswith(few) and f"note: {few}" in shown
    assert wer["p_value"] == pytest.approx(0.125, abs=0.03)

    pair = few_changes(tmp_path, 12, 40)
    shown, figures = (
        words_of(cli_here("compare", *pair[::-1], *plain)),
        compared(*pair[::-1], resamples=2000, normalizer="none"),
    )
    assert figures["total"]["wer"]["significant"] is True and "B makes 12 more errors than A (12 against 0, " in shown
    assert "the difference is significant (p = 0.00" in shown and "differ in" not in "".join(figures["notes"])
    figures = compared(*few_changes(tmp_path, 5, 5), resamples=2000, normalizer="none")
    assert "p cannot be below 0.0625" in figures["notes"][-1], "the least that 5 rows can have is no significance yet"
    assert "p cannot" not in "".join(compared(*few_changes(tmp_path, 6, 6))["notes"])
    same = words_of(cli_here("compare", pair[1], pair[1], *plain))
    assert "B makes as many errors as A: 0 of 18 words" in same and "p cannot" not in same


def test_of_few_rows_no_p_value_is_shown(cli_here, tmp_path):
    rows = [
        [{"id": f"r{at}", "text": "one two", "pred_text": said, "lang": "en", "set": "few" if at < 9 else "more"}
         for at in range(29)]
        for said in ("one two", "one")
    ]  # fmt: skip
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", of) for name, of in zip("ab", rows, strict=True)]
    lines = cli_here("compare", *paths, "--by", "set", "--show", "0", "--normalizer", "none").stdout.partition(
        "by set, in words"
    )[2]
    few, more = (next(line.split() for line in lines.splitlines() if line.split()[:1] == [x]) for x in ("few", "more"))
    assert few == ["few", "9", "0.00", "50.00", "+50.00", "0", "9"]
    assert more == ["more", "20", "0.00", "50.00", "+50.00", "0.0005", "0", "20"]


def test_what_is_marked_are_the_errors_that_are_counted(cli_here, tmp_path):
    text = {"id": "x", "lang": "en", "text": "An ill-disposed man, Mr. Smith."}
    said = ("an ill disposed man mister Smith", "a man of ill-disposed Mr. Smith")
    paths = [
        write_jsonl(tmp_path / f"{name}.jsonl", [{**text, "pred_text": each}])
        for name, each in zip("ab", said, strict=True)
    ]
    shown = cli_here("compare", *paths).stdout
    line = next(line for line in shown.splitlines() if "disposed" in line)
    a, b = re.split(r"\s{2,}", line.strip())
    assert "x: 0 errors" in shown and a == "an ill disposed man mister smith", "a row without errors has no marks"
    assert "[-" in b and "{+" in b and "-disposed" not in b
    white = {"id": "y", "lang": "en", "text": "white paper"}
    for path, each in zip(paths, ("whitepaper", "white"), strict=True):
        write_jsonl(path, [{**white, "pred_text": each}])
    shown = cli_here("compare", *paths, "--normalizer", "leaderboard").stdout
    assert re.search(r"^\s+whitepaper\s+white \[-paper-\]\s*$", shown, re.M), "a compound is no error there"


def test_better_and_worse_are_counted_in_each_unit(tmp_path):
    rows = {"a": [], "b": []}
    for row_id, lang, text, *said in (
        ("e1", "en", "one two", "one twi", "one xyzuvw"),  # as many words wrong, more characters
        ("e2", "en", "one two", "one", "one two"),
        ("z1", "zh", "今天", "今", "今天"),
        ("z2", "zh", "今天", "今", "天今天"),
    ):
        for side, text_said in zip("ab", said, strict=True):
            rows[side].append({"id": row_id, "lang": lang, "text": text, "pred_text": text_said})
    figures = compared(*(write_jsonl(tmp_path / f"{side}.jsonl", rows[side]) for side in "ab"), by=("lang",))
    total, zh = figures["total"], figures["by"]["lang"]["zh"]
    assert [(total[rate]["rows"], total[rate]["better"], total[rate]["worse"]) for rate in ("wer", "cer")] == [
        (2, 1, 0),
        (4, 2, 1),
    ]
    assert [(zh[rate]["rows"], zh[rate]["better"], zh[rate]["worse"]) for rate in ("wer", "cer")] == [
        (0, 0, 0),
        (2, 1, 0),
    ]
    assert (total["better"], total["worse"]) == (2, 0)  # each row in its own unit


def test_a_file_compared_with_itself_differs_nowhere():
    figures = compared(DATA, DATA)
    wer = figures["total"]["wer"]
    assert (wer["delta_points"], wer["delta_points_interval"], wer["p_value"]) == (0, None, 1)
    assert figures["same_text"] == figures["same_normalized"] == figures["total"]["rows"] == len(PAIRS)
    assert figures["got_worse"] == figures["got_better"] == []


def test_order_and_processes_change_nothing(spoiled, tmp_path):
    rows = {path: read_jsonl(path) for path in (DATA, spoiled)}
    paths = {}
    for path, of in rows.items():
        many = [{**row, "id": f"{row['id']} {copy}"} for copy in range(8) for row in of]
        paths[path] = write_jsonl(tmp_path / f"{path.stem}.many.jsonl", many)
        random.Random(2).shuffle(many)
        write_jsonl(tmp_path / f"{path.stem}.shuffled.jsonl", many)
    first = compared(*paths.values(), by=("duration",), num_processes=1)
    again = compared(*(tmp_path / f"{path.stem}.shuffled.jsonl" for path in rows), by=("duration",), num_processes=3)
    for figures in (first, again):
        figures["a"].pop("predictions"), figures["b"].pop("predictions")
    assert first == again


def test_what_one_run_over_the_same_manifest_lacks_is_empty_there(tmp_path):
    a = with_record(rows_file(tmp_path, "a", x="one two three", y="one two three"), "m")
    b = with_record(rows_file(tmp_path, "b", y="one two three", z="one"), "m")
    figures = compared(a, b, normalizer="none")
    assert figures["total"]["rows"] == 3 and figures["exit_code"] == EXIT_ROWS_FAILED
    assert (figures["a"]["missing"], figures["b"]["missing"]) == (1, 1)
    assert figures["total"]["wer"]["errors_a"] == 3 and figures["total"]["wer"]["errors_b"] == 5
    assert figures["notes"][0].startswith("A: not complete: 2 of 3 rows are there; the others are not counted (")
    assert compared(a, b, common=True)["left_out"] == 2 and compared(a, b, common=True)["total"]["rows"] == 1


def test_different_manifests_are_refused_unless_told(tmp_path):
    a, b = (rows_file(tmp_path, name, x="one", y="two") for name in "ab")
    assert compared(a, b)["exit_code"] == EXIT_COMPLETE  # without records, but with the same ids
    with_record(a, "m")
    assert compared(a, b)["total"]["rows"] == 2
    with_record(b, "another")
    with pytest.raises(UsageError, match="are of different manifests, or of different chunks; --common"):
        compared(a, b)
    assert compared(a, b, common=True)["total"]["rows"] == 2
    with_record(b, "m", chunk_id=1, num_chunks=4)
    with pytest.raises(UsageError, match="different chunks"):
        compared(a, b)
    c = rows_file(tmp_path, "c", y="one", z="two", q="two")
    with pytest.raises(
        UsageError, match=r"do not have the same rows \(1 only in the first, 2 only in the second\).*--common"
    ):
        compared(a, c)
    figures = compared(a, c, common=True)
    assert (figures["total"]["rows"], figures["left_out"]) == (1, 3)
    with pytest.raises(UsageError, match="there is nothing to compare"):
        compared(a, rows_file(tmp_path, "d", w="x"), common=True)


def test_references_that_differ_are_an_error_unless_a_manifest_says_which_counts(tmp_path):
    a = rows_file(tmp_path, "a", x="one two three")
    b = write_jsonl(tmp_path / "b.jsonl", [{"id": "x", "text": "one two", "pred_text": "one two three"}])
    with pytest.raises(
        OutputError,
        match=r'id x: references \(text\): the files have different ones, "one two three" \(.*a\.jsonl:1\) and '
        r'"one two" '
        r"\(.*b\.jsonl:1\); .*--references",
    ):
        compared(a, b)
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "x", "audio_filepath": "x.wav", "text": "one two three four"}])
    wer = compared(a, b, references=str(manifest), normalizer="none")["total"]["wer"]
    assert (wer["a_percent"], wer["b_percent"], wer["reference"]) == (25, 25, 4)
    only_a = write_jsonl(tmp_path / "c.jsonl", [{"id": "x", "pred_text": "one"}])
    assert compared(a, only_a, normalizer="none")["total"]["wer"]["errors_b"] == 2  # A's reference serves both


def test_without_references_it_says_how_far_two_runs_agree(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_jsonl(
        a, [{"id": i, "pred_text": t} for i, t in (("x", "One two."), ("y", "three four five"), ("z", ""), ("w", None))]
    )
    write_jsonl(
        b, [{"id": i, "pred_text": t} for i, t in (("w", ""), ("x", "one, two"), ("y", "three for five"), ("z", "six"))]
    )
    figures = compared(a, b, normalizer="whisper-basic")
    assert figures["against"] == "a" and figures["total"]["rows"] == 4
    assert (figures["same_text"], figures["same_normalized"]) == (1, 2)
    wer = figures["total"]["wer"]
    assert (wer["a_percent"], wer["b_percent"], wer["p_value"]) == (0, 40, None)
    assert [(change["id"], change["errors_b"], change["reference"]) for change in figures["most_different"]] == [
        ("y", 1, None),
        ("z", 1, None),
    ]
    assert "got_better" not in figures


def test_the_command(cli, cli_here, tmp_path, spoiled):
    shown = cli("compare", DATA, spoiled, "--by", "duration", "--show", "1", "--resamples", "50")
    assert shown.returncode == EXIT_ROWS_FAILED and not shown.stderr, shown.stderr
    assert "worse in B" in shown.stdout and "better in B" in shown.stdout and "B − A" in shown.stdout
    done = cli_here("compare", DATA, spoiled, "--json", "--show", "1", "--resamples", "50")
    figures = json.loads(done.stdout)
    assert len(figures["got_worse"]) == len(figures["got_better"]) == 1
    assert figures["bootstrap"]["resamples"] == 50
    different = cli_here("compare", DATA, rows_file(tmp_path, "b", x="one"))
    assert different.returncode == EXIT_USAGE and "--common" in different.stderr and "Traceback" not in different.stderr
    hostile = [{"id": "x", "pred_text": said} for said in ("a", "\x1b[2J[bold]b")]
    paths = [write_jsonl(tmp_path / f"h{at}.jsonl", [row]) for at, row in enumerate(hostile)]
    agreement = cli_here("compare", *paths, "--normalizer", "none")
    assert agreement.returncode == EXIT_COMPLETE and "\x1b" not in agreement.stdout and "[2J[bold]b" in agreement.stdout
    assert "WER % of B against A" in agreement.stdout


def mirrored(figures: dict) -> dict:
    """What the figures of B and A must be, given those of A and B."""
    groups = {
        "": figures["total"],
        **{(name, value): of for name, part in figures["by"].items() for value, of in part.items()},
    }
    found = {}
    for name, of in groups.items():
        turned = {"rows": of["rows"], "better": of["worse"], "worse": of["better"]}
        for rate in ("wer", "cer"):
            was = of[rate]
            turned[rate] = {
                "rows": was["rows"],
                "better": was["worse"],
                "worse": was["better"],
                "a_percent": was["b_percent"],
                "b_percent": was["a_percent"],
                "a_percent_interval": was["b_percent_interval"],
                "b_percent_interval": was["a_percent_interval"],
                "delta_points": was["delta_points"] and -was["delta_points"],
                "delta_points_interval": was["delta_points_interval"]
                and [-each for each in was["delta_points_interval"][::-1]],
                "p_value": was["p_value"],
                "significant": was["significant"],
                "errors_a": was["errors_b"],
                "errors_b": was["errors_a"],
                "reference": was["reference"],
            }
        found[name] = turned
    return found


def test_swapping_a_and_b_mirrors_every_figure(tmp_path):
    draw = random.Random(4)
    rows = {"a": [], "b": []}
    for i in range(60):
        lang, source = draw.choice([("zh", "x"), ("en", "y"), ("de", "z")])
        text = "今天天气很好" if lang == "zh" else "it's one two three four"
        for side in rows:
            said = "".join(c for c in text if draw.random() > 0.2)
            # What a row says of itself stands in one of the files, or in both.
            says = {"lang": lang, "source": source} if side == "ab"[i % 2] or i % 3 == 0 else {}
            rows[side].append(
                {"id": f"r{i}", "text": text, "pred_text": said, "audio_s": 1.5 + (side == "a" and i % 5 == 0), **says}
            )
    a, b = (write_jsonl(tmp_path / f"{side}.jsonl", rows[side]) for side in "ab")
    figures, swapped = (compared(*pair, by=("source", "lang", "duration")) for pair in ((a, b), (b, a)))
    expected = mirrored(figures)
    found = {"": swapped["total"], **{(name, v): of for name, part in swapped["by"].items() for v, of in part.items()}}
    assert (
        found == expected and set(figures["by"]["lang"]) == {"zh", "en", "de"} and len(figures["by"]["duration"]) == 2
    )
    assert figures["by"]["lang"]["zh"]["wer"]["reference"] == 0 < figures["by"]["lang"]["zh"]["cer"]["reference"]
    assert figures["normalizers"] == swapped["normalizers"] and not any("`lang`" in note for note in figures["notes"])
    for one, other in (("got_worse", "got_better"), ("got_better", "got_worse")):
        assert [(c["id"], c["errors_a"], c["a"]) for c in figures[one]] == [
            (c["id"], c["errors_b"], c["b"]) for c in swapped[other]
        ]


@pytest.mark.parametrize("name", ["lang", "source"])
def test_files_that_contradict_each_other_are_refused(name, tmp_path):
    paths = [
        write_jsonl(tmp_path / f"{side}.jsonl", [{"id": "x", "text": "one", "pred_text": "one", name: f"v{side}"}])
        for side in "ab"
    ]
    with pytest.raises(
        OutputError, match=rf"id x: .*{name}: the files have different ones, .*va.*a\.jsonl:1.*vb.*b\.jsonl:1"
    ):
        compared(*paths, by=("source",))
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "x", "audio_filepath": "x.wav", "text": "one", name: "vc"}])
    assert list(compared(*paths, references=str(manifest), by=(name,))["by"][name]) == ["vc"]


def test_the_language_of_the_runs_counts_and_two_different_ones_are_refused(tmp_path):
    rows = [{"id": row_id, "text": "cat dog bird", "pred_text": "cat dog"} for row_id in "xy"]
    a, b = (write_jsonl(tmp_path / f"{name}.jsonl", rows) for name in "ab")
    with_record(a, "m")
    with_record(b, "m").with_name("b.run.json").write_text(
        json.dumps({"fingerprint": {"manifest": "m", "language": "zh"}, "total_rows": 2, "sessions": []})
    )
    for pair in ((a, b), (b, a)):
        assert compared(*pair)["total"]["wer"]["reference"] == 0  # characters
    a.with_name("a.run.json").write_text(
        json.dumps({"fingerprint": {"manifest": "m", "language": "en"}, "total_rows": 2, "sessions": []})
    )
    with pytest.raises(
        UsageError, match=r'a\.jsonl was run with language "en", .*b\.jsonl was run with language "zh"; .*--language'
    ):
        compared(a, b)
    assert compared(a, b, language="en")["total"]["wer"]["reference"] == 6


def test_references_are_checked_as_in_score(tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "x", "audio_filepath": "x.wav", "text": "one two three"}])
    a, b = rows_file(tmp_path, "a", x="one"), rows_file(tmp_path, "b", x="one", q="two")
    figures = compared(a, b, references=str(manifest), common=True)
    assert (figures["a"]["unmatched_predictions"], figures["b"]["unmatched_predictions"]) == (0, 1)
    assert "B: 1 prediction has no reference row and was left out" in figures["notes"]
    with pytest.raises(UsageError, match="--by nosuch: no row has this field"):
        compared(a, a, by=("nosuch",))


def test_rows_without_id_and_audio_are_not_paired_by_line(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one", "pred_text": "one"}] * 2)
    with pytest.raises(UsageError, match=r"a\.jsonl: 2 rows have neither an id nor audio_filepath.*give them ids"):
        compared(path, path)


def test_what_two_unfinished_runs_both_lack_is_empty_in_both(tmp_path):
    manifest = write_jsonl(
        tmp_path / "m.jsonl",
        [
            {"id": row_id, "audio_filepath": "x.wav", "offset": at, "text": "one two three"}
            for at, row_id in enumerate("xyz")
        ],
    )
    digest = open_manifest(manifest).scan.digest
    a, b = rows_file(tmp_path, "a", x="one two three"), rows_file(tmp_path, "b", x="one", y="one")
    for path in (a, b):
        record = with_record(path, digest).with_name(f"{path.stem}.run.json")
        record.write_text(
            json.dumps({**json.loads(record.read_text()), "manifest": {"source": str(manifest), "rows": 3}})
        )
    figures = compared(a, b, normalizer="none")
    assert (figures["total"]["rows"], figures["a"]["missing"], figures["b"]["missing"]) == (3, 2, 1)
    assert (figures["total"]["wer"]["errors_a"], figures["total"]["wer"]["errors_b"]) == (6, 7)
    assert not figures["partial"] and figures["references"] == str(manifest)
    manifest.unlink()
    assert compared(a, b)["partial"] and compared(a, b)["total"]["rows"] == 2


def test_what_a_failed_row_said_does_not_count(tmp_path):
    a = write_jsonl(tmp_path / "a.jsonl", [{"id": "x", "text": "cat dog", "pred_text": "cat dog", "status": "failed"}])
    b = write_jsonl(tmp_path / "b.jsonl", [{"id": "x", "text": "cat dog", "pred_text": "cat dog", "status": "ok"}])
    figures = compared(a, b)
    assert figures["total"]["wer"]["errors_a"] == 2 and figures["total"]["better"] == 1 and figures["same_text"] == 0


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"task": "transcribe"},
            r"a\.jsonl was translated into \S*en\S*, \S*b\.jsonl was transcribed: .* --language says",
        ),
        (
            {"task": "translate", "asked": {"style": "transcription", "target_language": "de"}},
            "was translated into .*de.*: ",
        ),
        ({"task": "translate", "asked": {"style": "chat"}}, r"b\.jsonl was translated: their texts are written in"),
    ],
)
def test_a_translation_and_another_text_are_not_compared_by_lang(told, message, tmp_path):
    said = {"text": "a good day", "lang": "ja"}
    a = write_jsonl(tmp_path / "a.jsonl", [{"id": "x", "pred_text": "a good day", **said}])
    b = write_jsonl(tmp_path / "b.jsonl", [{"id": "x", "pred_text": "good day", **said}])
    with_record(a, "m", fingerprint={"manifest": "m", "task": "translate"}, total_rows=1)
    with_record(b, "m", fingerprint={"manifest": "m", **told}, total_rows=1)
    with pytest.raises(UsageError, match=message):
        compared(a, b)
    figures = compared(a, b, language="en")
    assert figures["total"]["wer"]["errors_b"] == 1, "in words, whatever `lang` says"
    with_record(b, "m", fingerprint={"manifest": "m", "task": "translate"}, total_rows=1)
    assert compared(a, b)["total"]["wer"]["errors_b"] == 1
