"""Exports of rows whose words have times: real times in a CTM, Whisper's `words`, subtitles cut at words."""

import json
from itertools import pairwise

import pytest
from conftest import write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.errors import OutputError, UsageError
from asrbatch.export.cues import cues
from asrbatch.export.exporter import export
from asrbatch.export.formats import FORMATS
from asrbatch.export.options import CueLimits
from asrbatch.export.transcript import spans_ms, transcript_of


def word(text: str, start: float, end: float, probability: float = 0.5) -> dict:
    return {"word": text, "start": start, "end": end, "probability": probability}


SAID = [word(" A", 0.5, 0.7, 0.9), word(" he", 0.7, 1.0, 0.8), word("-man,", 1.0, 1.25), word(" said", 4.0, 4.5, 0.25)]


def row_of(words: list[dict] | None, *, language: str = "en", **fields) -> dict:
    """A row with one segment of 5 s."""
    text = "A he-man, said" if words is None else "".join(each["word"] for each in words).strip()
    segment = {"start": 0.0, "end": 5.0, "text": text, **({} if words is None else {"words": words})}
    of_row = {
        "id": "a",
        "index": 0,
        "status": "ok",
        "error": None,
        "flags": [],
        "pred_text": text,
        "audio_s": 5.0,
        "language": language,
    }
    return {**of_row, "windows": [], "segments": [segment] if text else [], **fields}


def written(name: str, row: dict, *, words: bool = False, **options) -> str:
    return FORMATS[name].write(transcript_of(row, **options), CueLimits(words=words))


def test_a_ctm_has_the_times_and_probabilities_of_the_words():
    assert written("ctm", row_of(SAID)) == (
        "a 1 0.500 0.200 A 0.900\na 1 0.700 0.550 he-man, 0.800\na 1 4.000 0.500 said 0.250\n"
    )
    # Without spaces, a word is what has times of its own.
    chinese = row_of([word("你", 0.0, 0.5), word("好。", 0.5, 1.0, 0.75)], language="zh", channel=1)
    assert written("ctm", chinese) == "a 2 0.000 0.500 你 0.500\na 2 0.500 0.500 好。 0.750\n"
    late = row_of(SAID, offset=10.0, audio_filepath="talk.wav")
    assert written("ctm", late, from_file_start=True).splitlines()[0] == "talk.wav 1 10.500 0.200 A 0.900"


@pytest.mark.parametrize("per_run", [False, True])
def test_a_ctm_says_that_times_are_estimates_only_where_some_are(tmp_path, per_run):
    def head(*rows) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        rows = [{**row, "id": f"u{index}", "index": index} for index, row in enumerate(rows)]
        paths = export(write_jsonl(folder / "out.jsonl", rows), ["ctm"], per_run=per_run).folder.glob("*.ctm")
        return ["estimates" in path.read_text() for path in sorted(paths)]

    assert head(row_of(SAID)) == [False]
    assert head(row_of(SAID), row_of([])) == ([False] if per_run else [False, False])
    assert head(row_of(SAID), row_of(None)) == ([True] if per_run else [False, True])


def test_json_has_words_as_whisper_writes_them():
    (segment,) = json.loads(written("json", row_of(SAID, offset=10.0), from_file_start=True))["segments"]
    assert segment["words"] == [{**w, "start": w["start"] + 10, "end": w["end"] + 10} for w in SAID]
    (segment,) = json.loads(written("json", row_of(None)))["segments"]
    assert "words" not in segment


def test_subtitles_begin_and_end_with_their_words():
    found = cues(transcript_of(row_of(SAID)).segments, 5000, CueLimits(max_line_chars=20, max_chars_per_s=100))
    assert [(cue.start_ms, cue.lines) for cue in found] == [(500, ("A he-man,",)), (4000, ("said",))]
    assert found[0].end_ms < 2000, "it does not stand through the silence"
    assert [cue.start_ms for cue in cues(transcript_of(row_of(None)).segments, 5000, CueLimits())] == [0]


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_one_subtitle_for_each_word(name):
    text = written(name, row_of(SAID), words=True)
    comma = "," if name == "srt" else "."
    times = [line.replace(comma, ".") for line in text.splitlines() if "-->" in line]
    assert times == [
        "00:00:00.500 --> 00:00:00.700",
        "00:00:00.700 --> 00:00:01.250",
        "00:00:04.000 --> 00:00:04.500",
    ]
    thai = row_of([word("สวัส", 0.0, 0.5), word("ดี", 0.5, 1.0)], language="th")
    assert written(name, thai, words=True).count("-->") == 2


def test_words_that_have_no_times_are_refused_and_so_are_those_of_another_text(tmp_path):
    path = write_jsonl(tmp_path / "out.jsonl", [row_of(None)])
    with pytest.raises(UsageError, match=r"--words: .*out.jsonl:1: its words have no times; .*--word-timestamps"):
        export(path, ["srt"], limits=CueLimits(words=True))
    edited = row_of(SAID)
    edited["segments"][0]["text"] = "A woman said"
    path = write_jsonl(tmp_path / "edited.jsonl", [edited])
    with pytest.raises(OutputError, match=r"edited.jsonl:1: .*the words of a segment are not those of its text"):
        export(path, ["txt"])


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=5), st.floats(0, 9), st.floats(0, 9)), max_size=8), st.booleans()
)
def test_any_words_are_in_order_and_inside(words, has_spaces):
    said = [word(text, start, end) for text, start, end in words]
    row = row_of(said, language="en" if has_spaces else "ja")
    segments = transcript_of(row).segments
    for segment in segments:
        parts = segment.parts
        assert "".join(parts) == "".join("".join(part.split()) for part in parts)
        times = [at for span in spans_ms(segment, parts, [*map(len, parts)], 0, 5000) for at in span]
        assert all(a <= b for a, b in pairwise([0, *times, 5000]))
    for limits in (CueLimits(), CueLimits(words=True)):
        found = cues(segments, 5000, limits)
        assert all(a.end_ms <= b.start_ms for a, b in pairwise(found)) and all(c.start_ms < c.end_ms for c in found)
