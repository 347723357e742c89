"""Long recordings through the loop: nothing lost at the seams, each window asked as it should be, times that can be
trusted.

The engine is `BeepEngine`, which hears tone bursts and says when each begins and ends, in windows
of 3 s; decoding, cutting, waiting and writing are the real ones. With a real model: test_long_real.py."""

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from beep_engine import RATE, BeepEngine, beep_answer
from beep_pipeline import Asks, Limits, Run

from asrbatch.audio.windows import WindowConfig
from asrbatch.errors import RowError
from asrbatch.types import AudioRef, Utterance

WINDOW_S = 3.0


def rules(windows: str, **more) -> WindowConfig:
    return WindowConfig(RATE, WINDOW_S, 160, windows, search_s=1.0, min_tail_s=0.2, **more)


class Recording:
    """Bursts of 0.1 to 0.6 s with pauses of 0.1 to 0.5 s, of known times."""

    def __init__(self, folder, index: int, seconds: float):
        random = np.random.default_rng(index)
        pieces, self.bursts, at = [np.zeros(1600, np.float32)], [], 0.1
        while at < seconds:
            length, pause = random.integers(5, 30) * 0.02, random.integers(5, 25) * 0.02
            pieces.append(np.sin(np.arange(round(length * RATE)) * 0.3).astype(np.float32) * 0.5)
            pieces.append(np.zeros(round(pause * RATE), np.float32))
            self.bursts.append((round(at, 2), round(at + length, 2)))
            at += length + pause
        path = folder / f"{index}.wav"
        soundfile.write(path, np.concatenate(pieces), RATE)
        self.utterance = Utterance(index, f"u{index}", AudioRef(path.name, str(path)))


@pytest.fixture
def recordings(tmp_path):
    """Of 1 to 60 s."""
    return [Recording(tmp_path, index, seconds) for index, seconds in enumerate((60, 1, 25, 2.5, 40, 7, 9, 0.5))]


class SpyEngine(BeepEngine):
    """Also remembers what it was asked."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked = []
        self.threads = set()

    def preprocess(self, samples, prompt, language=None):
        self.threads.add(threading.current_thread().name)
        return super().preprocess(samples, prompt, language)

    def submit(self, key, request, question):
        self.asked.append((key, question))
        super().submit(key, request, question)


def transcribed(recordings, *, engine=SpyEngine, **options):
    with Run(engine=engine, **options) as run:
        run.pipeline.run([r.utterance for r in recordings])
    rows = {row["index"]: row for row in run.rows}
    assert len(run.rows) == len(rows) == len(recordings)
    assert all(row["status"] == "ok" for row in run.rows)
    assert not run.pipeline._in_flight and run.pipeline.budget.has_capacity(), "all room is given back"
    return rows, run


def transcribed_row(path, **options):
    with Run(**options) as run:
        run.pipeline.run([Utterance(0, "u0", AudioRef(path.name, str(path)))])
    (row,) = run.rows
    assert row["status"] == "ok" and run.pipeline.budget.has_capacity()
    return row


def test_sequential_hears_every_burst_once_at_its_time(recordings):
    rows, _ = transcribed(recordings, rules=rules("sequential"))
    for index, recording in enumerate(recordings):
        heard = np.array([(s["start"], s["end"]) for s in rows[index]["segments"]])
        assert heard == pytest.approx(np.array(recording.bursts, float), abs=0.021), (
            "frames of 20 ms, from where windows begin"
        )
        assert rows[index]["pred_text"] == " ".join(["beep"] * len(recording.bursts))


def test_sequential_leaves_no_gap_and_goes_on_where_it_left_off(recordings):
    rows, _ = transcribed(recordings, rules=rules("sequential"))
    resumed = 0
    for row in rows.values():
        windows = row["windows"]
        assert windows[0]["start"] == 0 and windows[-1]["end"] == windows[-1]["kept_until"] == row["audio_s"]
        for before, after in itertools.pairwise(windows):
            assert before["start"] < after["start"] == before["kept_until"] <= before["end"]
            resumed += after["start"] < before["end"]
        assert all(w["end"] - w["start"] <= WINDOW_S + 1e-6 for w in windows)
    assert resumed > 10, "windows did overlap"


class Doubts(BeepEngine):
    """Each window is asked twice."""

    def read(self, samples, question):
        answer = beep_answer(samples, question)
        return replace(answer, avg_logprob=-1.5) if question.temperature == 0 else answer


@pytest.mark.parametrize("windows", ["energy", "fixed", "sequential"])
def test_no_second_is_counted_twice_while_a_recording_goes_on(recordings, windows):
    at_end = {}

    def look(row):
        at_end[row["index"]] = run.pipeline._working[row["index"]].answered_s

    asks, answer_s = Asks(temperatures=(0.0, 0.2)), 0.03 if windows == "sequential" else 0.1
    with Run(engine=Doubts, rules=rules(windows), asks=asks, on_write=look, seconds=lambda key: answer_s) as run:
        run.pipeline.run([r.utterance for r in recordings])
    again = sum(len(window["attempts"]) - 1 for row in run.rows for window in row["windows"])
    assert again > 40 and len(at_end) == len(recordings)
    for row in run.rows:
        # Silence between windows is over, too, when the window behind it is answered.
        assert at_end[row["index"]] == pytest.approx(row["windows"][-1]["end"])
    longest = [told[0] for told in run.answered if 0 in told]
    assert len({answered_s for answered_s, _ in longest}) >= 2
    (length_s,) = (row["audio_s"] for row in run.rows if row["index"] == 0)
    assert all(answered_s <= length_s == pytest.approx(expected_s) for answered_s, expected_s in longest)
    assert run.answered[-1] == {}, "what is written is counted by its row"


@pytest.mark.parametrize("windows", ["energy", "fixed"])
def test_windows_that_do_not_depend_on_each_other_cover_everything(recordings, windows):
    rows, _ = transcribed(recordings, rules=rules(windows))
    for index, recording in enumerate(recordings):
        row = rows[index]
        edges = sorted((piece["start"], piece["end"]) for piece in [*row["windows"], *row["skips"]])
        assert edges[0][0] == 0 and edges[-1][1] == row["audio_s"]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
        cuts = sum(any(start < edge < end for start, end in recording.bursts) for _, edge in edges[:-1])
        assert len(row["segments"]) == len(recording.bursts) + cuts
        times = [time for s in row["segments"] for time in (s["start"], s["end"])]
        assert times == sorted(times) and times[-1] <= row["audio_s"]
        if windows == "energy":
            assert cuts == 0, "there is a pause near every limit"


def test_the_text_before_is_handed_on_where_asked_for(recordings):
    for condition in (True, False):
        _, run = transcribed(recordings, rules=rules("sequential", condition_on_previous=condition))
        first = [q.previous for (_, number), q in run.engine.asked if number == 0]
        later = [q.previous for (_, number), q in run.engine.asked if number > 0]
        assert set(first) == {()}
        assert all(later) if condition else not any(later)


@pytest.mark.parametrize("windows", ["energy", "sequential"])
def test_a_window_knows_how_loud_the_recording_was_before_it(tmp_path, windows):
    """Also where later windows are prepared before earlier ones, and where the rest of one is asked again."""
    random = np.random.default_rng(3)
    bursts = [
        amplitude * np.sin(np.arange(1600) * 0.3)
        for amplitude in np.linspace(0.1, 0.9, 400) * random.uniform(0.5, 1, 400)
    ]
    samples = np.concatenate([np.concatenate([burst, np.zeros(2400)]) for burst in bursts]).astype(np.float32)
    path = tmp_path / "loud.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    peaks, floors = [], {}

    class Clamped(SpyEngine):
        def preprocess(self, samples, prompt, language=None):
            time.sleep(0.02 * (len(self.asked) % 3))  # out of order
            request = replace(super().preprocess(samples, prompt, language), clamp=lambda peak: clamps.append(peak))
            clamps = [request.peak]
            floors[id(samples)] = clamps
            return request

        def submit(self, key, request, question):
            *lower, peak = floors[id(request.engine_input)]
            assert len(lower) < 2 and all(each < peak for each in lower), "only where the recording was louder before"
            peaks.append(peak)
            super().submit(key, request, question)

        def read(self, samples, question):
            answer = super().read(samples, question)
            is_whole = len(samples) < 2 * RATE or windows == "sequential"
            return (
                answer if is_whole else replace(answer, segments=answer.segments[:2], resume_s=answer.segments[1].end_s)
            )

    row = transcribed_row(path, engine=Clamped, rules=rules(windows), workers=4)
    expected = [float(np.abs(samples[: round(window["end"] * RATE)]).max()) for window in row["windows"]]
    assert sorted(peaks) == sorted(expected) and len(set(peaks)) > 10
    if windows == "energy":
        starts = [window["start"] for window in row["windows"]]
        assert len(starts) > len({window["end"] for window in row["windows"]}), "rests were asked again"


def test_a_language_is_detected_once_for_all_windows(recordings):
    class Detects(SpyEngine):
        def read(self, samples, question):
            # Whatever it would take later windows for, the first one decides.
            return replace(super().read(samples, question), language=question.language or "fr", language_prob=0.9)

    rows, run = transcribed(
        recordings, engine=Detects, rules=rules("energy"), asks=Asks(language=None), seconds=lambda key: 0.05
    )
    asked = {(index, number): question.language for (index, number), question in run.engine.asked}
    assert all(language == (None if number == 0 else "fr") for (_, number), language in asked.items())
    assert {row["language"] for row in rows.values()} == {"fr"}


def test_a_window_that_looks_wrong_is_asked_again_and_every_attempt_is_kept(recordings):
    class Unsure(SpyEngine):
        def read(self, samples, question):
            answer = replace(super().read(samples, question), segments=(), text=f" at {question.temperature}")
            return answer if question.temperature >= 0.4 else replace(answer, avg_logprob=-1.5)

    rows, run = transcribed(
        recordings, engine=Unsure, rules=rules("energy"), asks=Asks(temperatures=(0.0, 0.2, 0.4, 0.6))
    )
    for row in rows.values():
        for window in row["windows"]:
            assert [a["temperature"] for a in window["attempts"]] == [0.0, 0.2, 0.4]
            assert [a["chosen"] for a in window["attempts"]] == [False, False, True]
            assert [a["faults"] for a in window["attempts"]] == [["avg_logprob -1.50"]] * 2 + [[]]
            assert window["temperature"] == 0.4 and window["chosen_because"] == "first without faults"
            assert "low_confidence" not in window["flags"] and window["text"] == "at 0.4"
    num_windows = sum(len(row["windows"]) for row in rows.values())
    assert len(run.engine.asked) == 3 * num_windows
    assert sum(row["timing"]["generate"] for row in rows.values()) == pytest.approx(3 * num_windows * 0.002)


@pytest.mark.parametrize("windows", ["energy", "sequential"])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_long_recordings_never_wait_for_each_other(recordings, windows, limit):
    """More recordings and threads than room: a deadlock would hang here."""
    _, run = transcribed(recordings, rules=rules(windows), limits=Limits(limit, 1e9, 10.0), workers=4)
    assert run.engine.most_held <= limit


def test_many_recordings_are_in_the_engine_at_once_though_each_waits_for_its_answers(recordings):
    _, run = transcribed(recordings, rules=rules("sequential"), workers=1, seconds=lambda key: 0.2)
    assert run.engine.most_held >= SpyEngine.max_num_seqs


def test_threads_with_nothing_to_take_help_with_a_long_recording(recordings):
    class Thorough(SpyEngine):
        def preprocess(self, samples, prompt, language=None):
            time.sleep(0.03)
            return super().preprocess(samples, prompt, language)

    _, run = transcribed(recordings[:1], engine=Thorough, rules=rules("energy"), workers=3)
    assert len(run.engine.threads) > 1


@pytest.mark.parametrize("windows", ["energy", "sequential"])
def test_a_refused_window_fails_its_row_and_no_other(recordings, windows):
    def fate(key):
        return RowError("rejected", "refused") if key == (0, 3) else None

    with Run(rules=rules(windows), fate=fate) as run:
        run.pipeline.run([r.utterance for r in recordings])
    assert {row["index"]: row["status"] for row in run.rows} == {0: "failed", **dict.fromkeys(range(1, 8), "ok")}
    assert run.pipeline.budget.has_capacity() and not run.pipeline._in_flight


@pytest.mark.parametrize("windows", ["energy", "sequential"])
def test_a_stop_in_the_middle_of_a_recording_writes_no_half_row(recordings, windows, tmp_path):
    short, long = next(r for r in recordings if len(r.bursts) < 4), Recording(tmp_path, 8, 300.0)

    def stop(row):
        run.pipeline.request_stop()

    seconds = lambda key: 0.1 if key[0] == short.utterance.index else 1.0  # noqa: E731
    with Run(rules=rules(windows), limits=Limits(8, 1e9, 5.0), on_write=stop, seconds=seconds, workers=2) as run:
        run.pipeline.run([long.utterance, short.utterance])
    assert [row["index"] for row in run.rows] == [short.utterance.index]


def test_what_a_closed_answer_says_beyond_its_window_is_clipped(tmp_path):
    class Overshoots(BeepEngine):
        def read(self, samples, question):
            answer = beep_answer(samples, question)
            return replace(
                answer, segments=tuple(replace(s, end_s=s.start_s + 9.0) for s in answer.segments), resume_s=None
            )

    recording = Recording(tmp_path, 0, 8.0)
    with Run(engine=Overshoots, rules=rules("energy")) as run:
        run.pipeline.run([recording.utterance])
    (row,) = run.rows
    times = [time for s in row["segments"] for time in (s["start"], s["end"])]
    assert times == sorted(times) and times[-1] <= row["audio_s"]
    assert len(row["segments"]) == len(recording.bursts), "no text is lost for its times"


class EndsEarly(SpyEngine):
    """Answers for at most two bursts, and expects more when there are more."""

    def read(self, samples, question):
        answer = super().read(samples, question)
        told = answer.segments[:2]
        if len(told) == len(answer.segments) or told[-1].end_s is None:
            return answer
        return replace(answer, segments=told, text="".join(s.text for s in told), resume_s=told[-1].end_s)


@pytest.mark.parametrize("windows", ["energy", "sequential"])
@pytest.mark.parametrize("limit", [1, 2, 8])
def test_what_an_answer_leaves_out_is_asked_again(recordings, windows, limit):
    """Even where the rest of a window waits for a thread, and all threads for the room that it holds."""
    limits = Limits(limit, 1e9, 10.0)
    rows, _ = transcribed(recordings, engine=EndsEarly, rules=rules(windows), limits=limits, workers=2)
    for index, recording in enumerate(recordings):
        heard = np.array([(s["start"], s["end"]) for s in rows[index]["segments"]])
        assert heard == pytest.approx(np.array(recording.bursts, float), abs=0.021), (
            "frames of 20 ms, from where windows begin"
        )
        pieces = [(w["start"], w["kept_until"]) for w in rows[index]["windows"]]
        assert pieces[0][0] == 0 and pieces[-1][1] == rows[index]["audio_s"]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(pieces))


def test_a_model_without_a_notion_of_languages_is_asked_all_windows(recordings):
    class Unlettered(SpyEngine):
        def read(self, samples, question):
            return replace(super().read(samples, question), language=None)

    rows, _ = transcribed(recordings, engine=Unlettered, rules=rules("energy"), asks=Asks(language=None))
    assert all(row["pred_text"].split() == ["beep"] * len(row["segments"]) for row in rows.values())


@pytest.mark.parametrize("windows", ["energy", "sequential"])
def test_a_stop_lets_what_is_in_the_engine_become_rows(tmp_path, windows):
    """Recordings of one window: at the stop nothing is missing but their answers."""
    short = [Recording(tmp_path, index, 1.5) for index in range(8)]
    asked = []

    def stop(key):
        asked.append(key)
        if len(asked) == 4:
            run.pipeline.request_stop()

    with Run(rules=rules(windows), limits=Limits(4, 1e9, 5.0), fate=stop, seconds=lambda key: 0.3, workers=4) as run:
        run.pipeline.run([r.utterance for r in short])
    assert len(run.rows) >= 4 and {row["status"] for row in run.rows} == {"ok"}


def test_a_recording_heard_by_tiny_steps_is_heard_to_its_end(tmp_path):
    """A model that always wants to go on 0.02 s further must neither stop the run nor lose what it does not say."""

    class Stutters(SpyEngine):
        def read(self, samples, question):
            return replace(super().read(samples, question), resume_s=0.02)

    recording = Recording(tmp_path, 0, 20.0)
    rows, run = transcribed([recording], engine=Stutters, rules=rules("sequential"))
    assert len(run.engine.asked) < 80 and rows[0]["windows"][-1]["end"] == rows[0]["audio_s"]


@pytest.mark.parametrize(
    ("windows", "timestamps"),
    [("sequential", True), ("energy", True), ("fixed", True), ("energy", False), ("silence", False)],
)
def test_words_have_their_times_in_the_recording(recordings, windows, timestamps):
    """A row waits for the words of all its windows, tails among them; each window's are counted from its own start."""
    asks = Asks(word_timestamps=True, timestamps=timestamps)
    rows, run = transcribed(recordings, rules=rules(windows), asks=asks)
    plain, _ = transcribed(recordings, rules=rules(windows), asks=Asks(timestamps=timestamps))
    assert not run.pipeline._aligning
    for index, recording in enumerate(recordings):
        heard = []
        for segment in rows[index]["segments"]:
            words = segment.pop("words")
            assert "".join(word["word"] for word in words).strip() == segment["text"]
            times = [at for word in words for at in (word["start"], word["end"])]
            assert times == sorted(times) and segment["start"] <= times[0] and times[-1] <= segment["end"]
            heard += zip(times[::2], times[1::2], strict=True)
        if windows == "sequential":
            assert np.array(heard) == pytest.approx(np.array(recording.bursts, float), abs=0.021)
        for name in ("pred_text", "segments", "windows", "flags"):
            assert rows[index][name] == plain[index][name], "nothing else changes"


def test_what_will_have_no_words_is_discarded(recordings):
    """Windows that fail or are let go, and those without text."""
    refused = RowError("rejected", "refused")
    options = {"fate": lambda key: refused if key[0] == 0 and key[1] > 2 else None}
    with Run(engine=BeepEngine, rules=rules("energy"), asks=Asks(word_timestamps=True), **options) as run:
        aligned = []
        align = run.engine.align
        run.engine.align = lambda window, request, *rest: (aligned.append(request), align(window, request, *rest))
        run.pipeline.run([r.utterance for r in recordings])
        submitted = {id(request) for request in [*aligned, *run.engine.discarded]}
    failed = next(row for row in run.rows if row["index"] == 0)
    assert failed["status"] == "failed" and all(row["status"] == "ok" for row in run.rows if row is not failed)
    assert len(submitted) == len(aligned) + len(run.engine.discarded), "each is aligned or discarded, once"
    assert run.engine.discarded and not run.pipeline._aligning and run.pipeline.budget.has_capacity()
