"""The main job end to end, on the real engine: real speech in every container, every kind of bad
input, runs repeated.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import jiwer
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import soxr
from conftest import read_jsonl, write_jsonl
from processes import hangs_in_pipe, hold_file

from asrbatch.errors import (
    EXIT_COMPLETE,
    EXIT_ERROR,
    EXIT_ROWS_FAILED,
    ManifestError,
    OutputError,
    RowError,
    UsageError,
)
from asrbatch.pipeline.result import RESULT_FIELDS, TIMING_FIELDS

# What Whisper tiny.en makes of the LibriVox recordings in float32; Hugging Face's `generate` gives the same.
EXPECTED = {
    "sense_and_sensibility_01_austen_64kb-0870": (
        "And Mr. John Dashwood had then leisure to consider how much there might be "
        "prudently in his power to do for them."
    ),
    "sense_and_sensibility_01_austen_64kb-0880": "He was not an old-sposed young man.",
    "sense_and_sensibility_01_austen_64kb-0890": (
        "Unless to be rather coldhearted and rather selfish is to be ill-disposed."
    ),
    "sense_and_sensibility_01_austen_64kb-0920": (
        "Had he married a more amiable woman, he might have been made still more respectable than he was."
    ),
    "sense_and_sensibility_01_austen_64kb-0930": "He might even have been made amiable himself.",
}
WORDS = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.SubstituteRegexes({r"\bmister\b": "mr", "-": " "}),
        jiwer.RemovePunctuation(),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
        jiwer.ReduceToListOfListOfWords(),
    ]
)


def wer(references, hypotheses) -> float:
    return jiwer.wer(references, hypotheses, reference_transform=WORDS, hypothesis_transform=WORDS)


def by_id(path) -> dict[str, dict]:
    return {row["id"]: row for row in read_jsonl(path)}


@pytest.fixture(scope="module")
def reference_run(transcribe, tiny_en, demo_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return transcribe(demo_manifest, tiny_en, folder / "out.jsonl")


def test_real_speech_comes_out_as_expected(reference_run, demo_rows):
    rows = {row["id"]: row for row in reference_run.rows()}
    assert set(rows) == {row["id"] for row in demo_rows}
    assert {i: rows[i]["pred_text"] for i in EXPECTED} == EXPECTED
    done = [row for row in rows.values() if len(row["windows"]) == 1]
    assert len(done) >= 10
    assert wer([row["text"] for row in done], [row["pred_text"] for row in done]) < 0.05


def test_audio_longer_than_the_window_is_cut_and_nothing_is_lost(reference_run, demo_rows):
    long = {row["id"] for row in demo_rows if row["duration"] > 30}
    rows = {row["id"]: row for row in reference_run.rows() if len(row["windows"]) > 1}
    assert long and set(rows) == long
    assert all(wer([row["text"]], [row["pred_text"]]) < 0.25 for row in rows.values())  # "2" for "two"
    assert reference_run.exit_code == EXIT_COMPLETE


def test_a_row_has_the_documented_fields_in_order(reference_run, demo_rows):
    manifest_fields = [name for name in demo_rows[0] if name != "id"]
    for row in reference_run.rows():
        assert list(row) == ["id", "index", *manifest_fields, *RESULT_FIELDS]
        assert list(row["timing"]) == list(TIMING_FIELDS)
    row = next(row for row in reference_run.rows() if row["status"] == "ok")
    assert row["windows"][0]["start"] == 0 and row["windows"][0]["end"] == pytest.approx(row["audio_s"])
    assert " ".join(s["text"] for s in row["segments"]) == row["pred_text"]
    timing = row["timing"]
    assert timing["total"] >= timing["generate"] > 0 and timing["read"] > 0 and timing["prepare"] > 0


def test_the_files_of_a_run(reference_run, tiny_en, demo_rows):
    paths = reference_run.paths
    record, mark = json.loads(paths.record.read_text()), json.loads(paths.done.read_text())
    rows = read_jsonl(paths.rows)
    assert mark["rows"] == len(rows) == record["total_rows"] == len(demo_rows)
    assert mark["statuses"] == {"ok": len(rows)} and mark["errors"] == {}
    assert mark["audio_s"] == pytest.approx(sum(row["audio_s"] or 0 for row in rows), abs=0.01)
    assert mark["rtfx_engine"] == pytest.approx(mark["audio_s"] / mark["stages_s"]["engine"], rel=0.05)
    (session,) = record["sessions"]
    assert session["outcome"] == "complete" and session["engine"]["vllm"] and session["rows"] == len(rows)
    assert record["fingerprint"]["dtype"] == "float32" and record["fingerprint"]["sampling"]["temperature"] == 0
    assert not paths.lease.exists() and not paths.in_flight.exists()


def encode(samples, rate, path: Path, **options) -> str:
    soundfile.write(path, samples, rate, **options)
    return str(path)


def encode_with_av(samples, path: Path, codec: str, rate=16000) -> str:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.format = stream.codec.audio_formats[0]
        frame = av.AudioFrame.from_ndarray(samples[None, :].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.codec_context.frame_size or 0)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return str(path)


@pytest.fixture(scope="module")
def encoded(speech_wav, tmp_path_factory) -> list[dict]:
    """One sentence in every container, rate, width and layout; rows of a manifest."""
    folder = tmp_path_factory.mktemp("encoded")
    samples, rate = soundfile.read(speech_wav, dtype="float32")
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32) * 0.3
    long = np.concatenate([noise, samples, noise])
    start = len(noise) / rate
    length = len(samples) / rate
    data = Path(encode(samples, rate, folder / "embedded.flac")).read_bytes()
    return [
        {"id": "8k", "audio_filepath": encode(soxr.resample(samples, rate, 8000), 8000, folder / "8k.wav")},
        {"id": "44k", "audio_filepath": encode(soxr.resample(samples, rate, 44100), 44100, folder / "44k.flac")},
        {"id": "24bit", "audio_filepath": encode(samples, rate, folder / "24.wav", subtype="PCM_24")},
        {"id": "both", "audio_filepath": encode(np.stack([samples, samples], 1), rate, folder / "both.wav")},
        {
            "id": "right",
            "audio_filepath": encode(np.stack([noise, samples], 1), rate, folder / "right.wav"),
            "channel": 1,
        },
        {"id": "mp3", "audio_filepath": encode(samples, rate, folder / "a.mp3")},
        {"id": "ogg", "audio_filepath": encode(samples, rate, folder / "a.ogg")},
        {"id": "opus", "audio_filepath": encode(samples, rate, folder / "a.opus", format="OGG", subtype="OPUS")},
        {"id": "m4a", "audio_filepath": encode_with_av(samples, folder / "a.m4a", "aac")},
        {"id": "g722", "audio_filepath": encode_with_av(samples, folder / "a.g722", "g722")},
        {
            "id": "middle",
            "audio_filepath": encode(long, rate, folder / "long.wav"),
            "offset": round(start, 3),
            "duration": round(length, 3),
        },
        {"id": "relative", "audio_filepath": "24.wav"},
        {"id": "data", "audio_filepath": "data:audio/flac;base64," + base64.b64encode(data).decode()},
    ]


def test_every_container_rate_and_layout_says_the_same(transcribe, tiny_en, encoded, tmp_path):
    folder = Path(encoded[0]["audio_filepath"]).parent
    summary = transcribe(write_jsonl(folder / "manifest.jsonl", encoded), tiny_en, tmp_path / "out.jsonl")
    assert summary.exit_code == EXIT_COMPLETE, [row["error"] for row in summary.rows() if row["error"]]
    text = EXPECTED["sense_and_sensibility_01_austen_64kb-0870"]
    rows = by_id(summary.paths.rows)
    lossless = {"44k", "24bit", "both", "right", "middle", "relative", "data"}
    assert {i: rows[i]["pred_text"] for i in lossless} == dict.fromkeys(lossless, text)
    for row in rows.values():
        assert wer([text], [row["pred_text"]]) <= 0.1, (row["id"], row["pred_text"])
        assert row["audio_s"] == pytest.approx(7.1, abs=0.1)
        assert row["flags"] == []
    assert rows["data"]["audio_filepath"].startswith("data:audio/flac;base64,sha256=")


def test_data_sets_say_the_same(transcribe, tiny_en, demo_rows, tmp_path):
    import datasets

    short = [row for row in demo_rows if row["duration"] < 8][:3]
    content = {
        "audio": [{"bytes": Path(r["audio_filepath"]).read_bytes(), "path": None} for r in short],
        "text": [r["text"] for r in short],
        "speaker": ["austen"] * len(short),
    }
    pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / "train.parquet", row_group_size=2)
    saved = datasets.Dataset.from_dict(content).cast_column("audio", datasets.Audio(decode=False))
    datasets.DatasetDict({"test": saved}).save_to_disk(str(tmp_path / "saved"))
    jsonl = write_jsonl(
        tmp_path / "m.jsonl", [{"audio_filepath": r["audio_filepath"], "text": r["text"]} for r in short]
    )
    runs = {
        name: transcribe(source, tiny_en, tmp_path / f"{name}.jsonl")
        for name, source in {"jsonl": jsonl, "parquet": tmp_path / "train.parquet", "saved": tmp_path / "saved"}.items()
    }
    texts = {name: {row["index"]: row["pred_text"] for row in run.rows()} for name, run in runs.items()}
    assert texts["parquet"] == texts["saved"] == texts["jsonl"] and len(texts["jsonl"]) == 3
    row = next(row for row in runs["saved"].rows() if row["index"] == 2)
    assert row["id"] == "test/2" and row["speaker"] == "austen" and "audio" not in row


@pytest.fixture
def bad_rows(speech_wav, tmp_path) -> list[dict]:
    samples, rate = soundfile.read(speech_wav, dtype="float32")
    broken = samples.copy()
    broken[1000:1010] = np.nan
    text = tmp_path / "text.wav"
    text.write_text("RIFF is what this file does not start with\n" * 20)
    cut = tmp_path / "cut.flac"
    soundfile.write(tmp_path / "whole.flac", samples, rate)
    cut.write_bytes((tmp_path / "whole.flac").read_bytes()[:30000])
    good = str(speech_wav)
    return [
        {"id": "good 1", "audio_filepath": good},
        {"id": "missing", "audio_filepath": "nowhere.wav"},
        {"id": "unreadable text", "audio_filepath": str(text)},
        {"id": "unreadable cut", "audio_filepath": str(cut)},
        {"id": "unreadable folder", "audio_filepath": str(tmp_path)},
        {"id": "empty_audio file", "audio_filepath": encode(samples[:0], rate, tmp_path / "empty.wav")},
        {"id": "empty_audio past", "audio_filepath": good, "offset": 1000},
        {"id": "non_finite", "audio_filepath": encode(broken, rate, tmp_path / "nan.wav", subtype="FLOAT")},
        {"id": "too_short", "audio_filepath": encode(samples[:100], rate, tmp_path / "short.wav")},
        {"id": "too_long", "audio_filepath": encode(np.tile(samples, 5), rate, tmp_path / "long.wav")},
        {"id": "bad_row channel", "audio_filepath": good, "channel": 3},
        {"id": "good 2", "audio_filepath": good, "duration": 9.9},
        {"id": "good 3", "audio_filepath": encode(samples * 0, rate, tmp_path / "silence.wav")},
        {"id": "good 4", "audio_filepath": good},
    ]


def test_bad_audio_fails_its_own_row_alone(transcribe, tiny_en, bad_rows, tmp_path):
    summary = transcribe(write_jsonl(tmp_path / "m.jsonl", bad_rows), tiny_en, tmp_path / "out.jsonl", windows="none")
    rows = by_id(summary.paths.rows)
    assert len(rows) == len(bad_rows) and summary.exit_code == EXIT_ROWS_FAILED
    for name, row in rows.items():
        kind = name.split()[0]
        assert (row["status"], row["error"] and row["error"]["kind"]) == (
            ("ok", None) if kind == "good" else ("failed", kind)
        ), row
        assert row["error"] is None or "\n" not in row["error"]["message"]
    assert rows["good 1"]["pred_text"] == rows["good 2"]["pred_text"] == rows["good 4"]["pred_text"]
    assert rows["good 2"]["flags"] == ["duration_mismatch"]
    silent = rows["good 3"]
    assert (silent["pred_text"], silent["windows"], silent["flags"]) == ("", [], ["no_speech", "empty"])
    assert silent["skips"] == [{"start": 0.0, "end": silent["audio_s"]}]


def test_a_decoder_that_hangs_is_killed_and_the_run_goes_on(transcribe, tiny_en, speech_wav, tmp_path):
    hold_file(tmp_path / "hang.wav")
    rows = [{"audio_filepath": "hang.wav"}, {"audio_filepath": str(speech_wav)}]
    summary = transcribe(write_jsonl(tmp_path / "m.jsonl", rows), tiny_en, tmp_path / "out.jsonl", decode_timeout_s=1.5)
    kinds = {row["index"]: row["error"] and row["error"]["kind"] for row in summary.rows()}
    assert kinds == {0: "decode_timeout", 1: None}


def test_a_decoder_that_crashes_takes_only_its_row_along(transcribe, tiny_en, speech_wav, tmp_path):
    hold_file(tmp_path / "crash.wav")  # holds the decoder until it is shot
    good = {"audio_filepath": str(speech_wav)}
    rows = [good, {"audio_filepath": "crash.wav"}, {**good, "id": "last"}]
    shot = []

    def shoot():
        out = tmp_path / "out.jsonl"
        while len(shot) < 2:
            time.sleep(0.05)
            for path in (
                Path("/proc").glob("[0-9]*/cmdline") if out.exists() and out.read_bytes().count(b"\n") == 1 else ()
            ):
                with contextlib.suppress(OSError):
                    arguments = path.read_bytes().split(b"\0")
                    pid = int(path.parent.name)
                    is_ours = b"asrbatch.audio.decoder_process" in arguments and str(os.getpid()).encode() in arguments
                    if is_ours and pid not in shot and hangs_in_pipe(pid):  # it is up, and at the file
                        os.kill(pid, signal.SIGSEGV)
                        shot.append(pid)

    sniper = threading.Thread(target=shoot, daemon=True)
    sniper.start()
    summary = transcribe(write_jsonl(tmp_path / "m.jsonl", rows), tiny_en, tmp_path / "out.jsonl", workers=1)
    sniper.join(10)
    kinds = {row["index"]: row["error"] and row["error"]["kind"] for row in summary.rows()}
    assert kinds == {0: None, 1: "decode_crash", 2: None} and len(shot) == 2


def test_a_complete_run_is_not_run_again(transcribe, tiny_en, demo_rows, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", demo_rows[1:3])
    first = transcribe(manifest, tiny_en, tmp_path / "out.jsonl")
    content = first.paths.rows.read_bytes()
    again = transcribe(manifest, tiny_en, tmp_path / "out.jsonl")
    assert (first.outcome, again.outcome, again.exit_code) == ("complete", "already_complete", EXIT_COMPLETE)
    assert first.paths.rows.read_bytes() == content
    first.paths.rows.write_bytes(content.replace(b"young", b"older"))
    with pytest.raises(OutputError, match="changed after the run completed"):
        transcribe(manifest, tiny_en, tmp_path / "out.jsonl")
    assert transcribe(manifest, tiny_en, tmp_path / "out.jsonl", overwrite=True).outcome == "complete"
    assert by_id(first.paths.rows).keys() == {row["id"] for row in demo_rows[1:3]}


def test_another_run_is_refused_and_every_difference_named(transcribe, tiny_en, demo_rows, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", demo_rows[1:2])
    transcribe(manifest, tiny_en, tmp_path / "out.jsonl")
    write_jsonl(tmp_path / "m.jsonl", demo_rows[1:3])
    with pytest.raises(OutputError) as refused:
        transcribe(manifest, tiny_en, tmp_path / "out.jsonl", language="en", prompt="Sense and Sensibility")
    message = str(refused.value)
    for part in (
        "manifest: was",
        "num_rows: was 1, now 2",
        'language: was null, now "en"',
        "prompt: was null",
        "--overwrite",
    ):
        assert part in message
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 1


def test_failed_rows_are_run_again_when_asked(transcribe, tiny_en, speech_wav, tmp_path):
    rows = [{"id": "a", "audio_filepath": "later.wav"}, {"id": "b", "audio_filepath": str(speech_wav)}]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    first = transcribe(manifest, tiny_en, tmp_path / "out.jsonl")
    assert by_id(first.paths.rows)["a"]["error"]["kind"] == "missing"
    (tmp_path / "later.wav").write_bytes(speech_wav.read_bytes())
    assert transcribe(manifest, tiny_en, tmp_path / "out.jsonl").outcome == "already_complete", (
        "failed rows count as finished"
    )
    again = transcribe(manifest, tiny_en, tmp_path / "out.jsonl", retry_failed=True)
    assert again.exit_code == EXIT_COMPLETE and len(read_jsonl(again.paths.rows)) == 2
    assert by_id(again.paths.rows)["a"]["pred_text"] == by_id(again.paths.rows)["b"]["pred_text"]


def test_rows_the_model_cannot_do_are_refused_together_before_the_engine(transcribe, tiny_en, demo_rows, tmp_path):
    asks = [{"lang": "fr"}, {}, {"target_lang": "de"}, {"temperature": 0.7}]
    rows = [{**row, **ask} for row, ask in zip(demo_rows, asks, strict=False)]
    with pytest.raises(ManifestError) as refused:
        transcribe(write_jsonl(tmp_path / "m.jsonl", rows), tiny_en, tmp_path / "out.jsonl")
    message = str(refused.value)
    assert "m.jsonl:1" in message and "English-only" in message
    assert "m.jsonl:3" in message and "target_lang" in message
    assert "m.jsonl:4" in message and "temperature" in message
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "fr"}, "English-only"),
        ({"task": "translate"}, "English-only"),
        ({"task": "summarise"}, "must be one of transcribe, translate"),
        ({"dtype": "int8"}, "--dtype int8: must be one of"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"grace_s": -1}, "--grace -1: must be at least 0"),
        ({"overwrite": True, "retry_failed": True}, "--overwrite and --retry-failed"),
        ({"args": ("model=other",)}, "use --model"),
        ({"mode": "thread", "args": ("tensor_parallel_size=2",)}, "need --engine-mode process"),
    ],
)
def test_options_that_cannot_be_honoured(transcribe, tiny_en, demo_manifest, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        transcribe(demo_manifest, tiny_en, tmp_path / "out.jsonl", **options)


def test_output_names(transcribe, tiny_en, demo_manifest, tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.jsonl"):
        transcribe(demo_manifest, tiny_en, tmp_path / "out.txt")
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    with pytest.raises(UsageError, match="is the input; give another name"):
        transcribe(manifest, tiny_en, manifest)
    (tmp_path / "other.jsonl").write_text('{"not": "ours"}\n')
    with pytest.raises(OutputError, match="it is unknown which run made it"):
        transcribe(manifest, tiny_en, tmp_path / "other.jsonl")


def test_an_engine_that_cannot_start_shows_the_end_of_its_log(cli, tiny_en, demo_manifest, tmp_path):
    damaged = shutil.copytree(tiny_en, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    done = cli("transcribe", demo_manifest, "-m", damaged, "-o", tmp_path / "out.jsonl")
    lines = done.stderr.splitlines()
    assert done.returncode == EXIT_ERROR and not done.stdout and "Traceback" not in done.stderr
    assert lines[-1].startswith("asrbatch: the engine did not start: Safetensor")
    assert lines[-2] == f"the whole log: {tmp_path / 'out.log'}"
    log = (tmp_path / "out.log").read_text()
    assert len(lines) < 22 and all(line in log for line in lines[1:-2]) and "INFO" in log
    assert json.loads((tmp_path / "out.run.json").read_text())["sessions"][-1]["outcome"] == "error"


def test_an_error_kind_outside_the_documented_list_is_a_defect():
    with pytest.raises(ValueError, match="unknown row error kind"):
        RowError("oops", "x")
