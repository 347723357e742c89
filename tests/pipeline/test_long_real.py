"""Long real recordings through the real engine: words, seams, times, attempts. Real windows of 30 s; fp32."""

import itertools
import json
import os
import signal
import time

import jiwer
import numpy as np
import pytest
import soundfile
from conftest import read_jsonl, write_jsonl
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED

RATE = 16000
normalized = EnglishTextNormalizer({})
MODES = ["energy", "fixed", "silence", "sequential"]


def wer(reference: str, hypothesis: str) -> float:
    return jiwer.wer(normalized(reference), normalized(hypothesis))


def read_audio(row: dict) -> np.ndarray:
    samples, rate = soundfile.read(row["audio_filepath"], dtype="float32")
    assert rate in (8000, RATE)
    return (
        samples
        if rate == RATE
        else np.interp(np.arange(len(samples) * 2) / 2, np.arange(len(samples)), samples).astype("float32")
    )


class TimedSpeech:
    """Real utterances one after another, at known times."""

    def __init__(self, path, rows: list[dict], pauses_s: list[float], seed: int = 0):
        noise = np.random.default_rng(seed)
        pieces, self.spans, at = [], [], 0
        for row, pause_s in zip(itertools.cycle(rows), pauses_s, strict=False):
            pause = noise.normal(0, 2e-4, round(pause_s * RATE)).astype(np.float32)
            speech = read_audio(row)
            at += len(pause)
            self.spans.append((at / RATE, (at + len(speech)) / RATE, row["text"]))
            at += len(speech)
            pieces += [pause, speech]
        soundfile.write(path, np.concatenate(pieces), RATE, subtype="PCM_16")
        self.row = {
            "id": path.stem,
            "audio_filepath": str(path),
            "duration": at / RATE,
            "text": " ".join(t for *_, t in self.spans),
        }


@pytest.fixture(scope="module")
def book(demo_rows) -> list[dict]:
    """Five sentences of a novel, read aloud, in their order: 24.7 s."""
    return [row for row in demo_rows if "austen" in row["audio_filepath"]]


@pytest.fixture(scope="module")
def recordings(book, demo_rows, tmp_path_factory):
    """60 s of a novel, and a prompt of 73 s."""
    folder = tmp_path_factory.mktemp("long")
    novel = TimedSpeech(folder / "novel.flac", book, [0.4, 0.7, 0.5, 0.6] * 3)
    prompt = next(row for row in demo_rows if row["duration"] > 60)
    return write_jsonl(folder / "long.jsonl", [novel.row, {**prompt, "id": "prompt"}]), novel


@pytest.fixture(scope="module")
def runs(transcribe, tiny_en, recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def run(mode: str):
        if mode not in done:
            # Both recordings by default; the run that is killed, below, has the second one in `sequential`.
            rows = read_jsonl(recordings[0])[: 2 if mode == "energy" else 1]
            manifest = write_jsonl(folder / f"{mode}.manifest.jsonl", rows)
            done[mode] = transcribe(manifest, tiny_en, folder / f"{mode}.jsonl", windows=mode)
        return {row["id"]: row for row in done[mode].rows()}

    done = {}
    return run


@pytest.mark.parametrize("mode", MODES)
def test_every_word_of_a_long_recording_is_there_once(runs, mode):
    for row in runs(mode).values():
        assert row["status"] == "ok" and len(row["windows"]) >= 3
        # Sentence by sentence tiny.en makes 3 to 6 % of errors here; a window lost would be 25 %.
        assert wer(row["text"], row["pred_text"]) < 0.12, row["pred_text"]
        assert row["pred_text"] == " ".join(s["text"] for s in row["segments"])


@pytest.mark.parametrize("mode", MODES)
def test_windows_cover_the_recording_and_none_is_too_long(runs, mode):
    for row in runs(mode).values():
        pieces = sorted(
            [(w["start"], w["kept_until"]) for w in row["windows"]] + [(s["start"], s["end"]) for s in row["skips"]]
        )
        assert pieces[0][0] == 0 and pieces[-1][1] == row["audio_s"]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(pieces))
        assert all(w["end"] - w["start"] <= 30.0 + 1e-6 for w in row["windows"])


@pytest.mark.parametrize("mode", MODES)
def test_segments_have_times_that_ascend_inside_the_audio(runs, mode):
    for row in runs(mode).values():
        times = [time for s in row["segments"] for time in (s["start"], s["end"])]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= row["audio_s"]
        assert len(row["segments"]) > len(row["windows"]), "the model's timestamps, not the windows"


@pytest.mark.parametrize("mode", ["energy", "sequential", "silence"])
def test_segments_begin_where_sentences_do(runs, recordings, mode):
    row = runs(mode)["novel"]
    starts = np.array([s["start"] for s in row["segments"]])
    late = np.array([np.abs(starts - start).min() for start, *_ in recordings[1].spans])
    # Whisper closes a segment at most sentence ends, not at all: most are found, and those to some tenths of a second.
    assert np.median(late) < 0.5


def test_without_timestamps_segments_are_windows(transcribe, tiny_en, recordings, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", read_jsonl(recordings[0])[:1])
    summary = transcribe(manifest, tiny_en, tmp_path / "out.jsonl", timestamps=False)
    for row in summary.rows():
        assert [(s["start"], s["end"]) for s in row["segments"]] == [(w["start"], w["end"]) for w in row["windows"]]
        assert wer(row["text"], row["pred_text"]) < 0.15


PAUSES_S = [30.0, 400.0, 500.0, 600.0, 450.0, 550.0, 300.0, 700.0]


@pytest.fixture(scope="module", params=["silence", "sequential"])
def mostly_silent(request, book, transcribe, tiny_en, tmp_path_factory):
    """12 minutes (of the second way 6) with eight sentences in them, spread over them, and the row they give."""
    folder, times = tmp_path_factory.mktemp("hour"), 0.2 if request.param == "silence" else 0.1
    told = TimedSpeech(folder / "hour.flac", book, [pause_s * times for pause_s in PAUSES_S])
    assert told.row["duration"] > 3500 * times
    summary = transcribe(
        write_jsonl(folder / "hour.jsonl", [told.row]),
        tiny_en,
        folder / "out.jsonl",
        windows=request.param,
        vad_filter=request.param == "sequential",
    )
    (row,) = summary.rows()
    return told, row


def test_long_silences_are_skipped_and_nothing_is_said_about_them(mostly_silent):
    told, row = mostly_silent
    assert wer(row["text"], row["pred_text"]) < 0.1
    assert sum(s["end"] - s["start"] for s in row["skips"]) > 0.96 * (
        row["audio_s"] - sum(end - start for start, end, _ in told.spans)
    )
    for start, end, _ in told.spans:
        assert not any(s["start"] < end and start < s["end"] for s in row["skips"]), "no speech is skipped"
    pieces = sorted(
        [(w["start"], w["kept_until"]) for w in row["windows"]] + [(s["start"], s["end"]) for s in row["skips"]]
    )
    assert [pieces[0][0], *(end for _, end in pieces)] == [*(start for start, _ in pieces), row["audio_s"]]
    for segment in row["segments"]:
        assert any(segment["start"] < end + 1 and start - 1 < segment["end"] for start, end, _ in told.spans)


def test_times_do_not_drift_over_long_silences(mostly_silent):
    told, row = mostly_silent
    starts = np.array([s["start"] for s in row["segments"]])
    late = np.array([starts[np.abs(starts - start).argmin()] - start for start, *_ in told.spans])
    assert np.abs(late).max() < 0.6
    assert abs(np.median(late[-4:]) - np.median(late[:4])) < 0.3


def test_fallback_asks_again_where_the_text_is_wrong_and_nowhere_else(transcribe, tiny_en, book, tmp_path):
    """Speech at a sixth of its rate is noise to the model, and what it says about it is not to be believed."""
    samples = read_audio(book[0])
    slow = np.interp(np.arange(len(samples) * 3) / 6, np.arange(len(samples)), samples).astype(np.float32)
    soundfile.write(tmp_path / "slow.wav", slow, RATE)
    rows = [{**book[0], "id": "good"}, {"id": "bad", "audio_filepath": str(tmp_path / "slow.wav")}]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    # Enough for the sentence; of the other, each attempt would go on to the decoder's end.
    options = {"max_tokens": 60}
    plain = {r["id"]: r for r in transcribe(manifest, tiny_en, tmp_path / "plain.jsonl", **options).rows()}
    again = {r["id"]: r for r in transcribe(manifest, tiny_en, tmp_path / "a.jsonl", fallback=True, **options).rows()}
    assert not {"low_confidence", "loop", "truncated"}.isdisjoint(plain["bad"]["flags"]), plain["bad"]
    assert again["good"]["windows"][0]["attempts"] == [] and again["good"]["pred_text"] == plain["good"]["pred_text"]
    (window,) = again["bad"]["windows"]
    attempts = window["attempts"]
    assert len(attempts) > 1 and attempts[0]["text"] == plain["bad"]["pred_text"] and attempts[0]["faults"]
    assert [a["temperature"] for a in attempts] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0][: len(attempts)]
    (chosen,) = [a for a in attempts if a["chosen"]]
    assert (
        window["text"] == chosen["text"] and window["temperature"] == chosen["temperature"] and window["chosen_because"]
    )


def test_fallback_is_part_of_the_fingerprint(transcribe, tiny_en, book, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [book[2]])
    summary = transcribe(manifest, tiny_en, tmp_path / "out.jsonl", fallback=True)
    recorded = json.loads(summary.paths.record.read_text())
    fallback = recorded["fingerprint"]["sampling"]["fallback"]
    assert fallback["temperatures"] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert (fallback["compression_ratio"], fallback["avg_logprob"], fallback["no_speech_prob"]) == (2.4, -1.0, 0.6)


def test_a_long_run_that_is_killed_goes_on_with_whole_rows(start_cli, transcribe, tiny_en, recordings, book, tmp_path):
    """The shorter of two ends first; the other is then in the middle."""
    shorter = TimedSpeech(tmp_path / "two.flac", book[:3], [0.4, 0.7, 0.5] * 3)
    rows = [shorter.row, read_jsonl(recordings[0])[1]]
    manifest, out = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out.jsonl"
    options = ("--windows", "sequential", "--fallback", "--dtype", "float32")
    process = start_cli("transcribe", manifest, "-m", tiny_en, "-o", out, *options)
    while not (out.exists() and out.read_bytes().count(b"\n") >= 1):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = read_jsonl(out)
    again = transcribe(manifest, tiny_en, out, windows="sequential", fallback=True)
    assert again.exit_code == EXIT_COMPLETE
    done = read_jsonl(out)
    assert sorted(row["index"] for row in done) == list(range(len(rows))) and done[: len(finished)] == finished
    assert all(wer(row["text"], row["pred_text"]) < 0.12 for row in done)


def test_none_refuses_what_is_too_long(transcribe, tiny_en, recordings, tmp_path):
    summary = transcribe(recordings[0], tiny_en, tmp_path / "out.jsonl", windows="none")
    assert summary.exit_code == EXIT_ROWS_FAILED
    assert {row["error"]["kind"] for row in summary.rows()} == {"too_long"}
