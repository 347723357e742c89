"""`asrbatch report`: the page in a real Chromium, and that nothing in a transcript can be more than text there."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import soundfile
from conftest import REPO, read_jsonl, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_ROWS_FAILED, EXIT_USAGE, OutputError, UsageError
from asrbatch.evaluation.alignment import alignment
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.report.excerpt import excerpt
from asrbatch.evaluation.report.make import make_report
from asrbatch.evaluation.report.page import ReportedRun, script_json
from asrbatch.evaluation.report.page import page as make_page
from asrbatch.evaluation.report.plots import Bar, bars
from asrbatch.evaluation.report.rows import worst_rows
from asrbatch.evaluation.report.runs import score_runs
from asrbatch.evaluation.score import score
from asrbatch.storage.metrics import SPEEDS, STAGES_ARE

pytest_plugins = "command_line"

DATA = REPO / "tests/data/prompts.tiny-en.jsonl"
PAIRS = read_jsonl(DATA)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("CI") == "true" or os.environ.get("ASRBATCH_REQUIRE_CHROMIUM") == "1"
in_chromium = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED,
    reason="no Chromium here; scripts/install_chromium.sh (Debian, as root) installs it",
)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work may slow the machine
ATTACK = "window.attacked = true"
# Not `wait_for_function`, whose second look is an `eval`, which the page's policy refuses.
AUDIO_IS_READY = """new Promise((ready) => {
  const audio = document.querySelector("audio");
  if (audio.readyState > 0) ready(); else audio.addEventListener("loadedmetadata", () => ready());
})"""
HOSTILE = (
    f"</script><script>{ATTACK}</script>",
    f"<img src=x onerror='{ATTACK}'>",
    f'"><svg onload="{ATTACK}">',
    f"<!--<script>{ATTACK}",
    "\u202eturned\u2066 \x1b[2J\x9b2J",
    "\u2028\u2029\x00\ud800 ]]> ${7*7} {{7*7}} &lt;b&gt; javascript:alert(1)",
)


@pytest.fixture(scope="module")
def browser(request) -> Iterator:
    from playwright.sync_api import sync_playwright

    flags = [f"--js-flags={request.param}"] if hasattr(request, "param") else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Opens a page; at the end there must have been no error in it and no request but for local files."""
    problems, requests, pages = [], [], []

    def call(path: Path):
        page = browser.new_page()
        pages.append(page)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield call
    for page in pages:
        page.close()
    assert not problems
    assert all(url.startswith("file://") for url in requests)


def made(*paths: Path, most_rows: int = 100_000, common: bool = False, **options) -> Path:
    """The page, at the last of the paths, of the predictions at the others."""
    *paths, to = paths
    scoring = ScoreOptions(**{"resamples": 50, **options})
    make_report(paths, to, scoring, title="A title", most_rows=most_rows, common=common, overwrite=True)
    return to


def ids(page) -> list[str]:
    return page.locator("#rows tr.row td:first-child button").all_inner_texts()


def column(page, number: int) -> list[str]:
    return page.locator(f"#rows tr.row td:nth-child({number})").all_inner_texts()


@in_chromium
def test_the_page_shows_the_scores_and_sorts_and_filters_all_rows(opened, tmp_path):
    rows = [
        {**row, "flags": ["truncated"] if row["index"] % 10 == 0 else [], "voice": f"v{row['index'] % 3}"}
        for row in PAIRS
    ]
    page = opened(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "report.html", by=("voice",)))
    assert page.title() == "A title" and "15.92 %" in page.inner_text(".cards")
    assert page.inner_text("#count") == "551 of 551 utterances" and page.inner_text("#page") == "page 1 of 12"
    assert ids(page)[:3] == ["demo-instruct", "priv-callee-options", "demo-congrats"]
    errors = [int(text) for text in column(page, 3)]
    assert errors == sorted(errors, reverse=True) and len(errors) == 50

    page.click("th[data-key=seconds] button")
    seconds = [float(text) for text in column(page, 5)]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] == max(round(row["duration"], 2) for row in PAIRS)
    page.click("th[data-key=seconds] button")
    assert float(column(page, 5)[0]) == min(round(row["audio_s"] or row["duration"], 2) for row in PAIRS)
    page.click("th[data-key=id] button")
    assert ids(page) == sorted(row["id"] for row in PAIRS)[:50]
    page.click("#after")
    assert ids(page) == sorted(row["id"] for row in PAIRS)[50:100]

    page.select_option("#flag", label="truncated")
    assert page.inner_text("#count") == "56 of 551 utterances"
    page.select_option("select[data-group='0']", label="v1")
    expected = {row["id"] for row in rows if row["flags"] and row["voice"] == "v1"}
    assert set(ids(page)) == expected
    page.fill("#search", "VOICE")
    texts = {row["id"]: f"{row['id']} {row['text']} {row['pred_text']}".lower() for row in rows}
    assert set(ids(page)) == {row_id for row_id in expected if "voice" in texts[row_id]}
    page.fill("#search", "")
    for which in ("#flag", "select[data-group='0']"):
        page.select_option(which, "")
    page.select_option("#status", label="too_long")
    assert len(ids(page)) == 3
    durations = page.locator("select[data-group='1'] option").all_inner_texts()
    assert durations[:4] == ["any duration", "< 2 s", "2 to 5 s", "5 to 10 s"] and durations[-1] == "60 to 300 s"


@in_chromium
def test_a_row_shows_what_is_wrong_in_it_and_plays(opened, tmp_path):
    soundfile.write(tmp_path / "a b#1.wav", [0.0] * 8000 * 3, 8000)
    audio = {"audio_filepath": str(tmp_path / "a b#1.wav"), "offset": 0.5, "duration": 1.5}
    rows = [
        {"id": "words", "text": "one two three four", "pred_text": "one too three five four", **audio},
        {"id": "characters", "text": "今天好", "pred_text": "今天", "lang": "zh", "audio_filepath": "gone.wav"},
    ]
    page = opened(
        made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "report.html", normalizer="whisper-basic")
    )
    page.click("tr.row:has-text('words')")
    assert page.inner_text(".more .aligned") == "one two too three five four"
    assert page.locator(".more .sub del").all_inner_texts() == ["two"] and page.locator(
        ".more .sub ins"
    ).all_inner_texts() == ["too"]
    assert page.locator(".more span:not(.sub) > ins").all_inner_texts() == ["five"]
    page.evaluate(AUDIO_IS_READY)
    assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(3, abs=0.01)
    assert page.get_attribute("audio", "src").endswith("/a%20b%231.wav#t=0.5,2")
    page.click("tr.row:has-text('words')")
    assert page.locator(".more").count() == 0
    page.click("tr.row:has-text('characters')")
    assert page.locator(".more del").all_inner_texts() == ["好"] and page.locator("audio").count() == 0


@in_chromium
def test_rows_open_by_keyboard_and_leave_each_other_alone(opened, tmp_path):
    rows = [{"id": f"r{at}", "text": "one two", "pred_text": "one too"} for at in range(60)]
    page = opened(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "report.html"))
    assert page.is_disabled("#before") and page.is_enabled("#after")
    page.focus("tr.row:nth-child(1) button")
    page.keyboard.press("Enter")
    page.evaluate("document.querySelector('.more').dataset.kept = 'yes'")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator(".more").count() == 2 and page.locator(".more[data-kept]").count() == 1
    assert page.evaluate("document.activeElement.textContent") == "r1"
    assert page.locator("tr.row button[aria-expanded=true]").all_inner_texts() == ["r0", "r1"]
    page.keyboard.press("Enter")
    assert page.locator(".more").count() == 1
    page.click("#after")
    assert page.is_enabled("#before") and page.is_disabled("#after") and page.inner_text("#page") == "page 2 of 2"


@in_chromium
def test_audio_is_found_beside_the_predictions_and_plays_the_row_and_its_errors(opened, tmp_path):
    soundfile.write(tmp_path / "x.wav", [0.0] * 8000 * 9, 8000)
    segments = [{"start": 2.0 * at, "end": 2.0 * at + 2, "text": f"word{at} word{at}"} for at in range(3)]
    said = {"text": "word0 word0 word1 wort1 word2 word2", "pred_text": "word0 word0 word1 word1 word2 word2"}
    rows = [{"id": "a", "audio_filepath": "x.wav", "offset": 0, "duration": 6.0, "segments": segments, **said}]
    rows.append({**rows[0], "id": "b", "offset": 2.5, "text": rows[0]["text"].replace("wort1 word2", "word1 wort2")})
    starts = [[(2.0 * at, f" word{at}"), (2.0 * at + 1.25, f" word{at}")] for at in range(3)]
    timed = [
        {**segment, "words": [{"word": text, "start": start} for start, text in words]}
        for segment, words in zip(segments, starts, strict=True)
    ]
    rows.append({**rows[0], "id": "c", "segments": timed})
    page = opened(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "report.html", normalizer="none"))
    for row_id, src, at in (("a", "/x.wav#t=0,6", 2.0), ("b", "/x.wav#t=2.5,8.5", 6.5), ("c", "/x.wav#t=0,6", 3.25)):
        page.click(f"tr.row:has-text('{row_id}')")
        assert page.get_attribute("audio", "src").endswith(src)
        page.evaluate(AUDIO_IS_READY)
        page.evaluate("document.querySelector('audio').play = function () { window.from = this.currentTime }")
        page.click(".more .plays")
        assert page.evaluate("window.from") == at
        page.click(f"tr.row:has-text('{row_id}')")


@in_chromium
def test_words_are_coloured_by_their_probability_and_play(opened, tmp_path):
    soundfile.write(tmp_path / "x.wav", [0.0] * 8000 * 9, 8000)
    words = [(" one,", 0.5, 0.991), (" <i>two", 1.25, 0.84), (" three", 2.5, 0.59), (" four", 4.0, 0.01)]
    segments = [
        {"start": 0, "end": 9, "text": "".join(text for text, *_ in some)}
        | {"words": [{"word": w, "start": at, "end": at, "probability": p} for w, at, p in some]}
        for some in (words[:1], words[1:])
    ]
    said = {"text": None, "pred_text": "one, <i>two three four", "audio_filepath": "x.wav", "offset": 2.0}
    rows = [{**said, "id": "a", "segments": segments}, {**said, "id": "b", "segments": [segments[0], {"text": "x"}]}]
    rows.append({**rows[0], "id": "c", "audio_filepath": "gone.wav", "text": "one two three four"})
    page = opened(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "report.html", normalizer="none"))
    page.click("tr.row:has-text('a')")
    assert page.inner_text(".more .words") == "one, <i>two three four"
    spans = page.locator(".more .words span")
    shades = spans.evaluate_all("all => all.map(each => getComputedStyle(each).backgroundColor)")
    assert len(set(shades)) == 4 and shades[0] == "rgba(0, 0, 0, 0)"
    assert page.locator(".more .words [tabindex='0']").all_inner_texts() == ["<i>two", "three", "four"]
    assert spans.nth(2).get_attribute("title") == "59 %, play from 4.5 s"
    page.evaluate(AUDIO_IS_READY)
    page.evaluate("document.querySelector('audio').play = function () { window.from = this.currentTime }")
    spans.nth(0).click()
    assert page.evaluate("window.from") == 2.5
    page.focus(".more .words span:last-child")
    page.keyboard.press("Enter")
    assert page.evaluate("window.from") == 6.0
    page.click("tr.row:has-text('a')")
    page.click("tr.row:has-text('b')")  # not all of it has words
    assert page.locator(".more .words").count() == 0 and "prediction: one, <i>two" in page.inner_text(".more")
    page.click("tr.row:has-text('b')")
    page.click("tr.row:has-text('c')")  # scored, and its audio is not here
    assert page.locator(".more .words .unsure").count() == 3 and page.locator(".more .plays").count() == 0


@in_chromium
def test_labels_of_plots_have_room(opened, tmp_path):
    rows = [Bar(f"group {at}", f"12.34 ({10**at:,} rows)", 12.34 + at, (12.0, 14.5 + at)) for at in range(9)]
    style = (REPO / "asrbatch/evaluation/report/page.css").read_text(encoding="utf-8")
    (tmp_path / "plot.html").write_text(
        f"<!doctype html><style>{style}</style><body>{bars('t', rows)}{bars('t', [Bar('n', '1,000,000', 1e6)])}"
    )
    page = opened(tmp_path / "plot.html")
    for width in (390, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        boxes = {
            name: page.locator(f".bars {name}").evaluate_all("all => all.map(each => each.getBoundingClientRect())")
            for name in (".name", "svg", ".label", "rect")
        }
        assert page.evaluate("document.documentElement.scrollWidth") == width and len(boxes[".label"]) == 10
        for name, plot, label in zip(boxes[".name"], boxes["svg"], boxes[".label"], strict=True):
            assert name["right"] <= plot["left"] and plot["right"] <= label["left"] and plot["width"] >= 45
        assert page.locator(".label >> nth=0").evaluate("each => parseFloat(getComputedStyle(each).fontSize)") >= 12
        widths, plot = [box["width"] for box in boxes["rect"]], boxes["svg"][0]
        assert widths[:9] == sorted(widths[:9]) and widths[9] == pytest.approx(boxes["svg"][9]["width"])
        whisker = page.locator("line >> nth=0").bounding_box()
        scale = widths[0] / 12.34
        assert whisker["x"] == pytest.approx(plot["left"] + 12 * scale, abs=1)
        assert whisker["width"] == pytest.approx(2.5 * scale, abs=2)  # and its ends


@in_chromium
def test_compounds_that_are_no_error_are_not_coloured(opened, tmp_path):
    rows = [{"id": "a", "text": "a white paper on it", "pred_text": "a whitepaper in it"}]
    page = opened(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "report.html", normalizer="leaderboard"))
    page.click("tr.row")
    assert page.locator(".more del").all_inner_texts() == ["on"] and page.locator(".more ins").all_inner_texts() == [
        "in"
    ]


@in_chromium
def test_no_script_of_a_transcript_runs(opened, tmp_path):
    rows = [
        {
            "id": text,
            "text": f"one {text}",
            "pred_text": text,
            "flags": [text],
            "set": text,
            "status": "ok",
            "audio_filepath": text,
        }
        for text in HOSTILE
    ]
    rows.append(
        {"id": "f", "text": "x", "pred_text": None, "status": "failed", "error": {"kind": HOSTILE[0], "message": ""}}
    )
    path = write_jsonl(tmp_path / "rows.jsonl", [])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_report([path], tmp_path / "r.html", ScoreOptions(by=("set",), resamples=10), title=HOSTILE[1], most_rows=100)
    page = opened(tmp_path / "r.html")
    for at in range(len(rows)):
        page.click(f"tr.row >> nth={at}")
    assert page.locator(".more").count() == len(rows)
    shown = page.locator("#rows").inner_text()
    assert shown.count(ATTACK) > 5  # it is there, as text
    assert shown.count("\\u202eturned\\u2066 \\u001b[2J\\u009b2J") > 1 and not set(shown) & set(
        "\u202e\u2066\x1b\x9b\x00"
    )
    assert page.evaluate("window.attacked") is None
    assert page.locator("script").count() == 2 and page.locator("img, body svg svg, iframe").count() == 0
    # And were one to get into the page all the same, its policy would not let it run.
    page.evaluate("text => { document.querySelector('h1').innerHTML = text }", "<b id=inserted>x</b>")
    assert page.locator("#inserted").count() == 1
    assert "script-src 'sha256-" in page.get_attribute("meta[http-equiv]", "content")


@in_chromium
def test_a_script_that_got_into_the_page_would_not_run(browser, tmp_path):
    path = made(DATA, tmp_path / "report.html")
    path.write_text(
        path.read_text(encoding="utf-8").replace("<h1>", f"<script>{ATTACK}</script><img src=x onerror='{ATTACK}'><h1>")
    )
    page = browser.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.as_uri())
    assert page.inner_text("#count") == "551 of 551 utterances" and page.evaluate("window.attacked") is None
    assert sum("Content Security Policy" in text for text in refused) >= 2
    page.close()


class Steps:
    """How often the blocks of a page's script run: its work, on whatever machine.

    Code that V8 optimised, or compiled before it was told to count, is not counted: the browser must be one that does
    not optimise, and has not seen the page."""

    def __init__(self, page, path: Path):
        self._page, self._session = page, page.context.new_cdp_session(page)
        self._session.send("Profiler.enable")
        self._session.send("Profiler.startPreciseCoverage", {"callCount": True, "detailed": True})
        page.goto(path.as_uri())

    def of(self, act: Callable[[], None]) -> int:
        self._take()
        act()
        return self._take()

    def _take(self) -> int:
        scripts = self._session.send("Profiler.takePreciseCoverage")["result"]
        functions = [each for script in scripts if script["url"] == self._page.url for each in script["functions"]]
        return sum(block["count"] for each in functions for block in each["ranges"])


@pytest.fixture(scope="module")
def hundred_thousand(tmp_path_factory) -> Path:
    [metrics], scored = score_runs([DATA], ScoreOptions(resamples=10), lambda line: None)
    listed, _ = worst_rows(scored, None, 1000, lambda line: None)
    rows = [{**row, "id": f"{row['id']}/{copy}"} for copy in range(182) for row in listed][:100_000]
    path = tmp_path_factory.mktemp("many") / "report.html"
    run = ReportedRun("a run", metrics, {}, {})
    path.write_text(make_page("A title", [run], rows, (), "today"), encoding="utf-8")
    return path


@in_chromium
def test_a_hundred_thousand_rows_are_there(opened, hundred_thousand):
    page = opened(hundred_thousand)
    assert page.inner_text("#count") == "100000 of 100000 utterances" and len(ids(page)) == 50
    page.fill("#search", "demo-instruct/17")
    assert page.inner_text("#count") == "11 of 100000 utterances"  # 17, 170 to 179
    page.fill("#search", "")
    page.click("th[data-key=rate] button")
    shown = [float(text) for text in column(page, 2)]
    assert shown == sorted(shown, reverse=True)


@in_chromium
@pytest.mark.parametrize("browser", ["--no-opt --no-maglev --no-sparkplug"], indirect=True)
def test_with_a_hundred_thousand_rows_little_is_done(browser, hundred_thousand):
    page = browser.new_page()
    steps = Steps(page, hundred_thousand)
    # A letter typed looks at each row, and does not sort.
    typed = steps.of(lambda: page.fill("#search", "x"))
    assert 100_000 < typed < 15 * 100_000
    page.fill("#search", "")
    # Sorting compares a row about once for each doubling of their number, and reads what it compares once.
    ordered = steps.of(lambda: page.click("th[data-key=rate] button"))
    assert 100_000 < ordered < 80 * 100_000
    assert 50 < steps.of(lambda: page.click("#after")) < 20_000  # the rows on the next page alone


def hours(row_id: str, number: int, wrong: int) -> dict:
    words = [f"w{at}" for at in range(number)]
    said = [word if at % (number // wrong) else f"{word}x" for at, word in enumerate(words)]
    return {"id": row_id, "text": " ".join(words), "pred_text": " ".join(said)}


@in_chromium
def test_of_a_long_utterance_the_errors_are_shown(opened, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [hours("a", 20_000, 5)])
    page = opened(made(path, tmp_path / "report.html", normalizer="none"))
    page.click("tr.row")
    shown = page.inner_text(".more .aligned")
    assert page.locator(".more .sub del").all_inner_texts() == ["w0", "w4000", "w8000", "w12000", "w16000"]
    assert shown.startswith("w0 w0x w1 w2") and "w12 … w3988" in shown and shown.endswith("w16012 …")
    assert "more characters]" in page.inner_text(".more") and (tmp_path / "report.html").stat().st_size < 60_000


def test_the_page_is_bounded_however_long_rows_are(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [hours(f"r{at:02}", 3000, 100 + at) for at in range(14)])
    _, scored = score_runs([path], ScoreOptions(resamples=10, normalizer="none"), lambda line: None)
    listing = scored, tmp_path, 100, lambda line: None
    everything, _ = worst_rows(*listing)
    assert len(everything) == 14 and all(len(json.dumps(row)) < 30_000 for row in everything)
    some, _ = worst_rows(*listing, most_bytes=100_000)
    assert 2 < len(some) < 14 and some == everything[: len(some)]
    assert worst_rows(*listing, most_bytes=1)[0] == everything[:1]


def test_of_a_long_prediction_as_many_words_are_shown_as_text(tmp_path):
    row = hours("a", 3000, 100)
    words = [{"word": f" {word}", "start": 0.1 * at, "probability": 0.5} for at, word in enumerate(row["text"].split())]
    path = write_jsonl(tmp_path / "rows.jsonl", [{**row, "segments": [{"start": 0, "end": 1, "words": words}]}])
    _, scored = score_runs([path], ScoreOptions(resamples=10, normalizer="none"), lambda line: None)
    [listed], _ = worst_rows(scored, tmp_path, 100, lambda line: None)
    assert 1900 < len("".join(listed["runs"][0]["words"][::3])) <= 2001 and listed["runs"][0]["words"][1::3][:3] == [
        0,
        0.1,
        0.2,
    ]


UNITS = st.lists(st.sampled_from("abc"), max_size=60)


@relaxed
@given(reference=UNITS, hypothesis=UNITS, most=st.sampled_from([1, 10, 40, 1000]))
def test_an_excerpt_has_what_its_pieces_say(reference, hypothesis, most):
    pieces = alignment(" ".join(reference), " ".join(hypothesis), in_words=True, with_compounds=False)
    found = excerpt(reference, hypothesis, pieces, most)
    shown = [piece for piece in found.pieces if piece[0] != "gap"]
    assert sum(wanted for _, wanted, _ in shown) == len(found.reference)
    assert sum(said for *_, said in shown) == len(found.hypothesis)
    assert len(found.places) == len(found.pieces)
    if len(reference) + len(hypothesis) <= most:
        assert shown == found.pieces and (found.reference, found.hypothesis) == (reference, hypothesis)
    at = at_said = 0
    for (kind, wanted, said), place in zip(found.pieces, found.places, strict=True):
        if kind != "gap":
            assert found.hypothesis[at_said : at_said + said] == hypothesis[place : place + said]
            same = found.reference[at : at + wanted] == found.hypothesis[at_said : at_said + said]
            assert same == (kind == "equal")
            at, at_said = at + wanted, at_said + said
    assert len(found.reference) + len(found.hypothesis) <= most + 200


class Outline(HTMLParser):
    """The elements of a page and the text outside of scripts and styles."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self._inside = [], [], None

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text.append(data)


def test_the_page_needs_nothing_but_itself(tmp_path):
    outline = Outline()
    text = made(DATA, tmp_path / "report.html").read_text(encoding="utf-8")
    outline.feed(text)
    loading = {"src", "href", "data", "action", "poster", "srcset"}
    assert not [attributes for _, attributes in outline.tags if loading & attributes.keys()]
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttpRequest|innerHTML|eval\(", text)


def test_figures_stand_on_the_page_with_what_they_mean(tmp_path):
    timing = {"read": 0.1, "generate": 1.0, "total": 4.0}
    rows = [
        {**row, "id": f"r{at}", "status": "ok", "voice": f"v{at % 2}", "audio_s": 5.0, "timing": timing}
        for at, row in enumerate(PAIRS[:100])
    ]
    path = write_jsonl(tmp_path / "out.jsonl", rows)
    mark = {
        "rows": 100,
        "statuses": {"ok": 100},
        "sha256": "0",
        "rtfx_engine": 7.9,
        "rtfx_end_to_end": 7.37,
        "wall_s": 67.8,
    }
    (tmp_path / "out.done.json").write_text(json.dumps(mark))
    outline = Outline()
    [figures] = make_report(
        [path], tmp_path / "r.html", ScoreOptions(resamples=50, by=("voice",)), title="t", most_rows=9
    )
    outline.feed((tmp_path / "r.html").read_text(encoding="utf-8"))
    text = " ".join(outline.text)
    for definition in (SPEEDS["rtfx_engine"], SPEEDS["rtfx_end_to_end"], STAGES_ARE):
        assert "".join(definition.split(": ", 1)[-1].replace("`", "").split()) in "".join(text.split())
    assert "7.90" in text and "7.37" in text and "0.20" in text  # 1 s in `generate` for 5 s of audio
    for value, group in figures["by"]["voice"]["groups"].items():
        assert f"{value}" in text and f"{group['wer_percent']:.2f} ({group['rows']:,} rows)" in text
    titles = list(plotted(tmp_path / "r.html"))
    wanted = [
        "WER by voice",
        "CER by voice",
        "WER by duration",
        "CER by duration",
        "utterances by their",
        "utterances by voice",
        "utterances by dur",
        "RTFx",
    ]
    wanted += [
        "seconds in <code>generate</code> for a second of audio, by voice",
        "seconds in <code>generate</code> for a second of audio, by dur",
    ]
    wanted += [
        "seconds a row took, by stage, p50",
        "seconds a row took, by stage, p95",
        "seconds a row took, by stage, max",
    ]
    assert [title[: len(each)] for title, each in zip(titles, wanted, strict=True)] == wanted
    (tmp_path / "out.run.json").write_text(json.dumps({"fingerprint": {}, "total_rows": 101, "sessions": []}))
    page = made(path, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "not complete: 100 of 101 rows are there" in page and "<b>partial</b>" in page


def test_more_rows_than_asked_for_are_the_worst_ones(tmp_path):
    text = made(DATA, tmp_path / "report.html", most_rows=3).read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert [row[0] for row in data["rows"]] == ["demo-instruct", "priv-callee-options", "demo-congrats"]
    assert "the 3 with the most errors of 551" in text


@relaxed
@given(value=st.dictionaries(st.text(), st.lists(st.text() | st.sampled_from(HOSTILE) | st.integers()), max_size=4))
def test_data_cannot_end_its_script(value):
    text = script_json(value)
    assert json.loads(text) == value and text.isascii() and not set("<>&") & set(text)


@relaxed
@given(name=st.text(), label=st.sampled_from(HOSTILE))
def test_names_in_plots_are_text(name, label):
    outline = Outline()
    outline.feed(bars(name, [Bar(name, label, 1.0, (0.5, 2.0))]))
    assert {tag for tag, _ in outline.tags} == {"figure", "figcaption", "div", "span", "svg", "rect", "line"}


def test_what_stands_there_is_replaced_when_asked_and_another_file_never(cli, cli_here, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", PAIRS[:5])
    done = cli("report", path)
    assert done.returncode == EXIT_COMPLETE and done.stdout.strip() == str(tmp_path / "rows.report.html"), done.stderr
    page = tmp_path / "rows.report.html"
    before = page.read_text()
    refused = cli_here("report", path, "--title", "Anew")
    assert refused.returncode == EXIT_ERROR and page.read_text() == before
    assert "exists already; choose another --to, or --overwrite to replace it" in refused.stderr
    assert cli_here("report", path, "--title", "Anew", "--overwrite").returncode == EXIT_COMPLETE
    assert "<title>Anew</title>" in page.read_text()
    (tmp_path / "notes.html").write_text("<p>mine")
    refused = cli_here("report", path, "--to", tmp_path / "notes.html", "--overwrite")
    assert refused.returncode == EXIT_ERROR and "exists already and is not a report" in refused.stderr
    assert (tmp_path / "notes.html").read_text() == "<p>mine"
    with pytest.raises(UsageError, match="is a folder, not a file"):
        made(path, tmp_path)
    assert cli_here("report", DATA, "--to", tmp_path / "all.html").returncode == EXIT_ROWS_FAILED
    assert cli_here("report", "-").returncode == EXIT_USAGE


RECORD = json.loads((REPO / "tests/data/before_moves/complete.run.json").read_text())


def with_record(folder: Path, name: str, rows: list[dict], language: str | None = "en") -> Path:
    """A rows file of a real run's record, of these rows."""
    fingerprint = {**RECORD["fingerprint"], "language": language, "num_rows": len(rows)}
    record = {**RECORD, "fingerprint": fingerprint, "total_rows": len(rows)}
    record["model"] = {**RECORD["model"], "name": f"openai/whisper-{name}"}
    (folder / f"{name}.run.json").write_text(json.dumps(record))
    return write_jsonl(folder / f"{name}.jsonl", rows)


def facts_of(page: Path) -> dict[str, list[str]]:
    """The table of runs, by the heads of its lines."""
    table = re.search(r'<table class="facts">(.*?)</table>', page.read_text(), re.S)[1]
    lines = re.findall(r"<tr><th.*?>(.*?)</th>(.*?)</tr>", table.partition("<tbody>")[2])
    return {
        head: [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", cells)] for head, cells in lines
    }


def test_the_record_says_model_settings_and_date_and_without_it_they_are_unknown(tmp_path):
    facts = facts_of(made(with_record(tmp_path, "tiny", PAIRS[:20]), tmp_path / "r.html"))
    assert facts["model"] == ["openai/whisper-tiny (SHA-256 2ae0cb544a53…)"]
    assert facts["settings"] == [
        "transcribe, language en, windows energy, at most 30.0 s, dtype float32, temperature 0.0, max tokens 444, "
        "seed 0, timestamps"
    ]
    assert facts["date"] == ["2026-11-29 17:17 to 17:19 UTC"] and facts["device"] == ["AMD EPYC, 2 cores"]
    assert facts["software"] == ["asrbatch 0.1.0, vllm 0.32.0, torch 2.13.0+cpu"]
    assert facts["manifest"] == ["/data/asr/m.jsonl"]
    # A run that was told no language: what its rows say, if they all say the same.
    heard = [{**row, "language": "en", "lang": None} for row in PAIRS[:20]]
    facts = facts_of(made(with_record(tmp_path, "small", heard, language=None), tmp_path / "r.html"))
    assert facts["settings"][0].startswith("transcribe, language en in all rows, ") and "small" in facts["file"][0]
    heard[3]["language"] = "de"
    facts = facts_of(made(with_record(tmp_path, "small", heard, language=None), tmp_path / "r.html", language="en"))
    assert facts["settings"][0].startswith("transcribe, language detected, or as rows say, ")
    # Edited records hide no rows.
    for edited in ([], {"model": 3, "sessions": [1, {"started": 5, "engine": []}], "fingerprint": {"windows": "x"}}):
        (tmp_path / "tiny.run.json").write_text(json.dumps({**RECORD, **dict(edited), "total_rows": 20}))
        made(tmp_path / "tiny.jsonl", tmp_path / "r.html")
    (tmp_path / "tiny.run.json").unlink()
    facts = facts_of(made(tmp_path / "tiny.jsonl", tmp_path / "r.html"))
    assert all("no run record" in facts[name][0] for name in ("model", "settings", "date"))
    assert "page made 20" in (tmp_path / "r.html").read_text()


@in_chromium
def test_runs_stand_side_by_side(opened, tmp_path):
    a = [{"id": f"r{at}", "text": "one two three", "pred_text": "one two three"} for at in range(12)]
    b = [{**row, "pred_text": "one too three" if at % 3 else "one too"} for at, row in enumerate(a)]
    c = [{**row, "flags": ["loop"]} if at == 4 else row for at, row in enumerate(a)]
    c[5] = {**c[5], "pred_text": None, "status": "failed", "error": {"kind": "too_long", "message": ""}}
    paths = [with_record(tmp_path, name, rows) for name, rows in (("tiny", a), ("base", b), ("small", c))]
    path = made(*paths, tmp_path / "r.html", normalizer="none")
    facts, page = facts_of(path), opened(path)
    assert [text.split(" %")[0] for text in facts["WER"]] == ["0.00", "44.44", "8.33"]
    assert facts["errors in 36 words"] == ["0 sub, 0 del, 0 ins", "12 sub, 4 del, 0 ins", "0 sub, 3 del, 0 ins"]
    assert [model.split(" ")[0] for model in facts["model"]] == [
        f"openai/whisper-{n}" for n in ("tiny", "base", "small")
    ]
    assert len(facts["date"]) == 1  # that of all
    assert page.locator(".facts td.all").first.evaluate("each => getComputedStyle(each).textAlign") == "center"
    assert "<b>" not in path.read_text().partition('class="facts"')[2].partition("</table>")[0]
    worse, alike = facts["difference to tiny"][1:]
    assert worse.startswith("+") and worse.endswith(", significant") and "p = 0.0" in worse
    assert alike.endswith("p = 1, may be chance"), "one row alone is worse"
    assert page.locator(".facts thead th").all_inner_texts() == ["tiny", "base", "small"]
    assert ids(page)[0] == "r5" and page.locator("tr.row >> nth=0").locator("td.said").all_inner_texts() == [
        "0 errors\none two three", "1 error\none two too three", "3 errors too_long\n(none)"
    ]  # fmt: skip
    assert page.locator("tr.row >> nth=0").locator("td.said ins").all_inner_texts() == ["too"]
    page.click("th[data-key=run1] button")
    assert ids(page)[:4] == ["r0", "r3", "r6", "r9"]
    page.click("th[data-key=spread] button")
    assert ids(page)[0] == "r5" and column(page, 3)[:2] == ["3", "2"]
    page.select_option("#flag", label="loop")
    assert ids(page) == ["r4"]
    page.select_option("#flag", "")
    page.select_option("#status", label="too_long")
    assert ids(page) == ["r5"]
    page.click("tr.row")
    assert page.locator(".more h3").all_inner_texts() == ["tiny", "base", "small"]
    assert page.locator(".more .aligned").all_inner_texts()[1:] == ["one two too three", "one two three"]
    page.fill("#search", "too three")
    assert ids(page) == ["r5"]  # what any run said
    for width in (390, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = page.locator(".list th button").evaluate_all("all => all.map(each => each.getBoundingClientRect())")
        assert all(
            a["right"] <= b["left"] or a["bottom"] <= b["top"]
            for a, b in pairwise(box for box in boxes if box["width"])
        )
    assert page.locator(".plots rect.run2").count() > 2
    # Where the list has no columns, a prediction has the colour of its run; and filters can be read.
    page.set_viewport_size({"width": 390, "height": 900})
    border = (
        "each => { const of = getComputedStyle(each, '::before'); return [of.borderLeftColor, of.borderLeftWidth] }"
    )
    predictions = page.locator("tr.row >> nth=0").locator("td.said").all()
    colours = [each.evaluate(border) for each in predictions]
    assert len({colour for colour, _ in colours}) == 3 and all(width != "0px" for _, width in colours)
    assert page.locator("#status").bounding_box()["width"] > 130


def test_of_runs_each_rate_is_that_of_score_and_other_rows_are_refused(cli_here, tmp_path):
    spoiled = [{**row, "pred_text": (row["pred_text"] or "").replace("the ", "a ")} for row in PAIRS]
    a, b = write_jsonl(tmp_path / "a.jsonl", PAIRS), write_jsonl(tmp_path / "b.jsonl", spoiled)
    few = ScoreOptions(resamples=20)
    metrics = make_report([a, b, DATA], tmp_path / "r.html", few)
    assert [of["total"] for of in metrics] == [score(each, few)["total"] for each in (a, b, DATA)]
    data = page_data(tmp_path / "r.html")
    assert data["names"] == ["a", "b", "prompts.tiny-en"] and len(data["rows"]) == 551
    assert "<title>a, b, prompts.tiny-en</title>" in (tmp_path / "r.html").read_text()
    done = cli_here("report", a, b, "--max-rows", 1, "--resamples", 1)
    assert (done.returncode, done.stdout) == (EXIT_ROWS_FAILED, f"{tmp_path / 'a+b.report.html'}\n"), done.stderr
    part = write_jsonl(tmp_path / "part.jsonl", PAIRS[:100])
    with pytest.raises(UsageError, match="do not have the same rows.*--common compares the rows that all have"):
        made(a, b, part, tmp_path / "r.html")
    assert len(page_data(made(a, b, part, tmp_path / "r.html", common=True))["rows"]) == 100
    with pytest.raises(UsageError, match=r"a\.jsonl: is given twice"):
        made(a, b, a, tmp_path / "r.html")
    for path, text in ((a, "one"), (b, "two")):
        write_jsonl(path, [{"id": "x", "text": text, "pred_text": text}])
    with pytest.raises(OutputError, match="id x: references .*the files have different ones"):
        made(a, b, tmp_path / "r.html")


def test_without_references_the_first_run_takes_their_place(tmp_path):
    a, b = (write_jsonl(tmp_path / f"{text}.jsonl", [{"id": "x", "pred_text": f"one {text}"}]) for text in ("a", "b"))
    page = made(a, b, tmp_path / "r.html", normalizer="none")
    assert "no references: the predictions of a are taken for them" in page.read_text()
    [row] = page_data(page)["rows"]
    assert [run[page_data(page)["run_fields"].index("errors")] for run in row[-1]] == [0, 1]


def test_names_of_fields_stand_as_code_and_one_row_is_one(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"id": "x", "text": "one", "pred_text": "one", "duration": 1.0}])
    text = made(path, tmp_path / "r.html").read_text().partition("<script")[0]
    assert "1 row does not say its <code>lang</code>" in text and "`" not in text
    assert "(1 row)" in text and "1 rows" not in text


def page_data(path: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1])


def plotted(path: Path) -> dict[str, list[str]]:
    """The texts of each plot, by its title."""
    figures = re.findall(r"<figure><figcaption>(.*?)</figcaption><div", path.read_text(), re.S)
    bodies = re.findall(r"<figure>(.*?)</figure>", path.read_text(), re.S)
    return {
        name: re.findall(r'<span class="label[^>]*>(.*?)</span>', body)
        for name, body in zip(figures, bodies, strict=True)
    }


MIXED = (
    [{"id": f"e{at}", "lang": "en", "text": "one two three", "pred_text": "one two three"} for at in range(4)]
    + [{"id": f"z{at}", "lang": "zh", "text": "今天好", "pred_text": "今天" if at else "天"} for at in range(3)]
)  # fmt: skip


def test_languages_without_spaces_are_in_every_plot(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", MIXED)
    found = plotted(made(path, tmp_path / "r.html", by=("lang",), normalizer="none"))
    # Of so few rows there are no intervals.
    assert found["WER by lang, %"] == ["0.00 (4 rows)"]
    assert found["CER by lang, %"] == ["0.00 (4 rows)", "44.44 (3 rows)"]
    distribution = found["utterances by their error rate (of words, or else of characters)"]
    assert distribution == ["4", "0", "0", "0", "2", "1", "0"]  # no error; 33 % twice; 67 %
    for kept, heads in ((MIXED, ("WER or CER %", "words or characters")), (MIXED[4:], ("CER %", "characters"))):
        page = made(write_jsonl(path, kept), tmp_path / "r.html", normalizer="none").read_text()
        assert all(f"<button>{head}</button>" in page for head in heads)


UNUSABLE = [
    {"id": "none", "pred_text": "said", "flags": ["loop"], "audio_s": 2.0},
    {"id": "empty", "text": " ", "pred_text": "said too", "audio_s": 3.0},
    {"id": "failed", "text": None, "status": "failed", "error": {"kind": "missing", "message": ""}, "pred_text": None},
]


@in_chromium
def test_rows_that_are_not_scored_can_be_looked_at(opened, tmp_path):
    rows = [{"id": "scored", "text": "one", "pred_text": "one"}, *UNUSABLE]
    page = opened(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "r.html"))
    assert ids(page) == ["scored", "empty", "failed", "none"] and column(page, 2) == ["0.0", "–", "–", "–"]
    page.select_option("#flag", label="loop")
    assert ids(page) == ["none"] and page.locator("#rows td.long").all_inner_texts() == ["–", "said"]
    page.click("tr.row")
    assert "not scored: it has no reference" in page.inner_text(".more") and "prediction: said" in page.inner_text(
        ".more"
    )
    page.select_option("#flag", "")
    page.select_option("#scored", label="its reference is empty")
    assert ids(page) == ["empty"]
    page.select_option("#scored", label="scored")
    assert ids(page) == ["scored"]
    page.select_option("#scored", "")
    for key in ("rate", "errors", "units"):
        page.click(f"th[data-key={key}] button")
        assert (
            ids(page)[-1 if page.get_attribute(f"th[data-key={key}]", "aria-sort") == "descending" else 0] != "scored"
        )


def test_predictions_without_references_have_a_page(cli_here, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", UNUSABLE)
    done = cli_here("report", path)
    assert done.returncode == EXIT_COMPLETE, done.stderr
    data = page_data(tmp_path / "rows.report.html")
    assert sorted(row[data["fields"].index("id")] for row in data["rows"]) == ["empty", "failed", "none"]
    text = (tmp_path / "rows.report.html").read_text()
    assert "Error rates" not in text and "2 no_reference" in text and "1 empty_reference" in text
    # What is wrong for another reason stays an error.
    scored = write_jsonl(tmp_path / "scored.jsonl", [{"id": "a", "text": "one", "pred_text": "one"}])
    refused = cli_here("report", scored, "--by", "nowhere")
    assert refused.returncode == EXIT_USAGE and "no row has this field" in refused.stderr
    assert cli_here("report", tmp_path / "gone.jsonl").returncode == EXIT_USAGE
    for option in (("--language", "klingon"), ("--split", "test")):  # also where there are no rates
        assert cli_here("report", path, "--overwrite", *option).returncode == EXIT_USAGE


def test_scored_rows_come_before_others_where_not_all_have_room(tmp_path):
    rows = [*UNUSABLE, {"id": "z", "text": "one", "pred_text": "one"}, {"id": "y", "text": "one", "pred_text": "two"}]
    made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "r.html", most_rows=3, normalizer="none")
    data = page_data(tmp_path / "r.html")
    assert [row[data["fields"].index("id")] for row in data["rows"]] == ["y", "z", "empty"]


def test_only_rows_that_are_shown_are_aligned(tmp_path, monkeypatch):
    from asrbatch.evaluation.report import rows as listed

    aligned = []
    monkeypatch.setattr(listed, "alignment", lambda *texts, **how: aligned.append(texts) or alignment(*texts, **how))
    made(DATA, tmp_path / "r.html", most_rows=3, num_processes=1)
    assert len(aligned) == 3
    made(DATA, tmp_path / "r.html", num_processes=1)
    assert len(aligned) == 3 + len(PAIRS)


@in_chromium
def test_a_narrow_window_is_not_scrolled_sideways(opened, tmp_path):
    rows = [{**row, "id": f"{row['id']}-{'x' * 40}", "flags": ["truncated"], "voice": "v" * 70} for row in PAIRS[:60]]
    page = opened(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "report.html", by=("voice",)))
    page.set_viewport_size({"width": 420, "height": 900})
    page.click("tr.row >> nth=0")
    assert page.evaluate("document.documentElement.scrollWidth") == 420
    assert (
        page.evaluate("document.querySelector('.wide').scrollWidth - document.querySelector('.wide').clientWidth") == 0
    )


def test_of_many_groups_the_largest_are_plotted(tmp_path):
    sizes = [at % 3 + 1 for at in range(120)]
    names = [f"g{at:03}" for at, size in enumerate(sizes) for _ in range(size)]
    rows = [{"id": f"r{at}", "text": "one", "pred_text": "one", "voice": name} for at, name in enumerate(names)]
    found = plotted(made(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "r.html", by=("voice",)))
    shown = found["utterances by voice (the 50 with the most rows of 120)"]
    assert shown.count("3") == 40 and shown.count("2") == 10 and len(shown) == 50
    assert len(found["WER by voice, % (the 50 with the most rows of 120)"]) == 50
