"""`asrbatch plan`: its figures are sums of the manifest's rows, its command lines run, and its exit codes say what was
found.
"""

import json
import shlex
import signal
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import typer
from conftest import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import children, hangs_in_pipe, hold_file, wait_until

from asrbatch.config import STRATEGIES, EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_INTERRUPTED, EXIT_ROWS_FAILED, EXIT_USAGE, UsageError
from asrbatch.manifest.survey import SHOWN_DUPLICATES, ManifestStats, estimate
from asrbatch.models.checkpoint import WHISPER
from asrbatch.runs import preflight

pytest_plugins = "command_line"

# The documented fields, and those of the objects in them.
FIELDS = {
    "manifest": {"source", "rows", "digest"},
    "audio": {"stated_h", "rows_without_duration", "min_s", "median_s", "p95_s", "max_s", "rows_over_30_s"},
    "languages": None,
    "duplicates": {"rows", "pieces", "examples"},
    "chunks": {
        "num_chunks", "strategy_asked", "strategy", "rows_dealt_in_turn", "rows_min", "rows_mean", "rows_max",
        "audio_min_h",
        "audio_mean_h", "audio_max_h", "longest_to_mean", "slowest_chunk", "empty_chunks", "rows", "audio_h",
    },
    "estimate": {
        "audio_h", "rtfx_per_device", "rtfx_from", "devices_per_process", "startup_s", "wall_h", "gpu_h",
        "rows_not_counted", "price_per_hour", "cost", "cost_per_1000_audio_h",
    },
    "cores_per_gpu": {"h200", "h100", "a100", "l4"},
    "model": {"model", "refused", "not_checked"},
    "probe": {
        "rows", "files", "rows_failing", "counts", "fixes", "examples", "measured_h", "rows_guessed", "rows_unknown",
        "containers", "sample_rates_hz",
    },
    "commands": {"one_process", "chunk", "submit", "merge", "status"},
    "notes": None,
    "exit_code": None,
}  # fmt: skip

rows_of_a_manifest = st.lists(
    st.fixed_dictionaries(
        {
            "audio_filepath": st.sampled_from(
                ["a.wav", "./a.wav", "b.wav", "data:audio/wav;base64,AAAA", "data:audio/wav;base64,AAAB"]
            )
        },
        optional={
            "duration": st.sampled_from([0.5, 1, 2.25, 40.0, 3600.0]),
            "offset": st.sampled_from([0, 0.0, 1.5]),
            "channel": st.sampled_from([0, 1]),
            "lang": st.sampled_from(["en", "de"]),
        },
    ),
    min_size=1,
    max_size=60,
)


def piece(row: dict) -> tuple:
    return row["audio_filepath"].removeprefix("./"), row.get("offset") or 0, row.get("duration"), row.get("channel")


@settings(max_examples=60, deadline=None)
@given(rows=rows_of_a_manifest, num_chunks=st.integers(1, 70), strategy=st.sampled_from(STRATEGIES))
def test_figures_are_sums_over_rows_for_any_number_of_chunks(tmp_path_factory, rows, num_chunks, strategy):
    survey = ManifestStats(str(write_jsonl(tmp_path_factory.mktemp("m") / "m.jsonl", rows)))
    stated = [row["duration"] for row in rows if "duration" in row]
    durations = survey.durations()
    assert durations.rows_without_duration == len(rows) - len(stated)
    assert durations.stated_h == pytest.approx(sum(stated) / 3600, abs=1e-6)
    assert durations.rows_over_30_s == sum(s > 30 for s in stated)
    if stated:
        assert (durations.min_s, durations.max_s) == pytest.approx((min(stated), max(stated)), abs=1e-3)
        assert durations.median_s == pytest.approx(float(np.median(stated)), abs=1e-3)
        assert durations.min_s <= durations.median_s <= durations.p95_s <= durations.max_s
    assert survey.languages == Counter(row.get("lang") for row in rows)

    balance = survey.balance(num_chunks, strategy)
    assert balance.num_chunks == num_chunks == len(balance.audio_s)
    assert balance.num_rows.sum() == len(rows)
    assert balance.audio_s.sum() == pytest.approx(sum(stated))
    assert balance.num_unknown.sum() == durations.rows_without_duration
    assert balance.num_empty == max(0, (balance.num_rows == 0).sum()) >= num_chunks - len(rows)
    if stated:
        assert balance.longest_to_mean == pytest.approx(max(balance.audio_s) / (sum(stated) / num_chunks))
        assert balance.audio_s[balance.slowest] == max(balance.audio_s)
    used = int((balance.num_rows > 0).sum())
    time = estimate(balance, 50.0, "--rtfx", num_devices=2, startup_s=10.0)
    assert time.wall_h * 3600 == pytest.approx(max(balance.audio_s) / 100 + 10, abs=0.01)
    assert time.gpu_h * 3600 == pytest.approx(sum(stated) / 50 + 2 * 10 * used, abs=0.01)
    assert time.rows_not_counted == durations.rows_without_duration

    pieces = Counter(map(piece, rows))
    duplicates = survey.duplicates()
    assert duplicates.rows == len(rows) - len(pieces)
    assert duplicates.pieces == sum(number > 1 for number in pieces.values())
    repeats = [(i, next(j for j, r in enumerate(rows) if piece(r) == piece(row))) for i, row in enumerate(rows)]
    expected = [(i, first) for i, first in repeats if first < i][:SHOWN_DUPLICATES]
    assert [(each["row"], each["first_row"]) for each in duplicates.examples] == expected


def test_measured_seconds_take_the_place_of_stated_ones_but_not_in_dealing_out(tmp_path):
    rows = [{"audio_filepath": f"{i}.wav", "duration": 1.0 + i} for i in range(10)]
    survey = ManifestStats(str(write_jsonl(tmp_path / "m.jsonl", rows)))
    measured_s = np.full(10, 2.0, np.float32)
    measured_s[3] = np.nan  # then what it states counts: 4 s
    stated, measured = survey.balance(4, "balanced"), survey.balance(4, "balanced", measured_s)
    assert measured.num_rows.tolist() == stated.num_rows.tolist()
    assert measured.audio_s.sum() == 9 * 2.0 + 4.0 and stated.audio_s.sum() == 55.0


def test_a_survey_keeps_few_bytes_a_row(tmp_path):
    num_rows = 10_000
    path = write_jsonl(
        tmp_path / "m.jsonl", [{"audio_filepath": f"a/{i}.wav", "duration": 1 + i % 7} for i in range(num_rows)]
    )
    tracemalloc.start()
    survey = ManifestStats(str(path))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    duplicates = survey.duplicates()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert duplicates.rows == 0 and len(survey.files) == num_rows
    assert kept / num_rows < 45 and (peak - kept) / num_rows < 35


def folder_of_audio(folder, num_good: int = 4):
    """Rows of good files, and one that is missing."""
    for number in range(num_good):
        sf.write(folder / f"{number}.wav", np.full(16000 * (1 + number), 0.1), 16000)
    return [{"audio_filepath": f"{i}.wav", "duration": 1.0 + i, "lang": "en"} for i in range(num_good)]


def test_json_has_the_documented_fields_and_stdout_nothing_else(cli, tiny_en, tmp_path):
    rows = [
        *folder_of_audio(tmp_path),
        {"audio_filepath": "gone.wav"},
        {"audio_filepath": "0.wav", "duration": 1.0, "offset": 0},
    ]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    done = cli("plan", manifest, "-m", tiny_en, "--num-chunks", 3, "--probe", "--rtfx", 100, "--startup", 36, "--json")
    assert done.returncode == EXIT_ROWS_FAILED, done.stderr
    figures = json.loads(done.stdout)
    assert {name: set(figures[name]) if fields else None for name, fields in FIELDS.items()} == FIELDS
    assert set(figures) == set(FIELDS) and figures["exit_code"] == EXIT_ROWS_FAILED
    assert figures["manifest"] | {"digest": ""} == {"source": str(manifest), "rows": 6, "digest": ""}
    assert figures["audio"]["rows_without_duration"] == 1 and figures["audio"]["stated_h"] == round(11 / 3600, 6)
    assert figures["languages"] == {"en": 4, "": 2}
    again = {"row": 5, "first_row": 0, "audio_filepath": "0.wav"}
    assert figures["duplicates"] == {"rows": 1, "pieces": 1, "examples": [again]}
    assert sum(figures["chunks"]["rows"]) == 6 and figures["chunks"]["num_chunks"] == 3
    assert sum(figures["chunks"]["audio_h"]) == pytest.approx(11 / 3600, abs=3e-6)
    assert figures["estimate"]["gpu_h"] == pytest.approx((11 / 100 + 3 * 36) / 3600, abs=1e-6)
    assert figures["model"] == {"model": tiny_en, "refused": None, "not_checked": None}
    assert figures["probe"]["counts"] == {"missing": 1} and figures["probe"]["files"] == 5
    (example,) = figures["probe"]["examples"]["missing"]
    assert example == {"row": 4, "where": f"{manifest}:5", "text": "gone.wav: no such file"}
    assert figures["probe"]["containers"] == {"wav pcm_16": 4} and figures["probe"]["sample_rates_hz"] == {"16000": 4}


def test_tables_say_the_same_on_standard_output(cli_here, tiny_en, tmp_path):
    rows = [*folder_of_audio(tmp_path), {"audio_filepath": "gone.wav"}]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    done = cli_here("plan", manifest, "-m", tiny_en, "--num-chunks", 2, "--probe", "--rtfx", 100)
    assert done.returncode == EXIT_ROWS_FAILED
    for text in (
        "5, of which 1 have no duration",
        "min 1.00 s  median 2.50 s  p95 3.85 s  max 4.00 s",
        "2 chunks, balanced",
        f"missing: {manifest}:5: gone.wav: no such file",
        "nothing that transcribe would refuse",
        f"asrbatch merge-shards m.whisper-tiny.en.jsonl --manifest {manifest}",
        "chunks are not balanced by audio: 1 of 5 rows have no duration; those are split in turn (strided)",
    ):
        assert text in done.stdout, done.stdout
    assert "Traceback" not in done.stderr and "no such file" not in done.stderr


def test_without_what_it_needs_nothing_is_made_up(cli_here, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", folder_of_audio(tmp_path))
    done = cli_here("plan", manifest)
    assert done.returncode == EXIT_COMPLETE and "GPU-hours" not in done.stdout
    assert "no --model was given: model and languages were not checked, and it stands as MODEL above" in done.stdout
    assert "no time is estimated without --rtfx" in done.stdout and "--num-chunks N shows how even" in done.stdout
    figures = json.loads(cli_here("plan", manifest, "--json").stdout)
    assert [figures[name] for name in ("chunks", "estimate", "model", "probe")] == [None] * 4
    assert set(figures["commands"]) == {"one_process", "status"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: does not exist"),
        (["m.jsonl", "--rtfx", "0"], "--rtfx 0: must be above 0"),
        (["m.jsonl", "--rtfx", "fast"], "--rtfx fast: is neither a number nor the output of an earlier run, X.jsonl"),
        (["m.jsonl", "--rtfx", "gone.jsonl"], "gone.jsonl: no run is there"),
        (["m.jsonl", "--startup", "30"], "--startup 30: is a part of an estimate; give --rtfx as well"),
        (["m.jsonl", "--price-per-hour", "0"], "--price-per-hour 0: must be above 0"),
        (["m.jsonl", "--price-per-hour", "-2"], "--price-per-hour -2: must be above 0"),
        (["m.jsonl", "--price-per-hour", "nan"], "--price-per-hour nan: must be above 0"),
        (["m.jsonl", "--price-per-hour", "inf"], "--price-per-hour inf: must be above 0"),
        (["m.jsonl", "--num-chunks", "0"], "--num-chunks 0: must be at least 1"),
        (["m.jsonl", "--strategy", "strided"], "--strategy strided: is for chunks; give --num-chunks as well"),
        (["m.jsonl", "--chunk-id", "3"], "No such option"),
        (["m.jsonl", "-m", "./nowhere"], "--model ./nowhere: no such folder"),
        (["m.jsonl", "-o", "out.txt"], "must end in .jsonl"),
        (["m.jsonl", "--probe", "--probe-workers", "0"], "--probe-workers"),
    ],
)
def test_what_cannot_be_used_exits_2(cli_here, tmp_path, arguments, message):
    write_jsonl(tmp_path / "m.jsonl", folder_of_audio(tmp_path))
    done = cli_here("plan", *arguments)
    assert done.returncode == EXIT_USAGE and message in done.stderr and "Traceback" not in done.stderr


def test_a_run_that_transcribe_would_refuse_is_refused_after_the_figures(cli_here, tiny_en, tmp_path):
    rows = folder_of_audio(tmp_path)
    rows[2]["lang"] = "de"
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    done = cli_here("plan", manifest, "-m", tiny_en)
    assert done.returncode == EXIT_USAGE and "durations" in done.stdout
    assert f'{manifest}:3: lang "de"' in done.stderr, "the same words as transcribe's"
    assert "\\n" not in done.stderr, "and the same lines"
    refused = json.loads(cli_here("plan", manifest, "-m", tiny_en, "--json").stdout)
    assert refused["exit_code"] == EXIT_USAGE and "is English-only" in refused["model"]["refused"]


def run_config(manifest, model: str, **options) -> RunConfig:
    return RunConfig(manifest=str(manifest), engine=EngineConfig(model=model), **options)


def test_a_machine_without_vllm_checks_model_and_languages(tiny_en, tmp_path, monkeypatch):
    def no_vllm():
        raise UsageError("vLLM is not installed")

    monkeypatch.setattr(preflight, "detect_device", no_vllm)
    manifest = write_jsonl(tmp_path / "m.jsonl", folder_of_audio(tmp_path))
    verdict = preflight.check_run(run_config(manifest, tiny_en, devices="0,1"), ["en"])
    assert verdict.refused is None and verdict.window_config.window_s == 30.0
    assert verdict.not_checked == "engine options and the rows' tasks: vLLM is not installed"
    assert "is English-only" in preflight.check_run(run_config(manifest, tiny_en, language="de"), []).refused
    assert "is English-only" in preflight.check_run(run_config(manifest, tiny_en), ["en", "fr"]).refused
    assert "is English-only" in preflight.check_run(run_config(manifest, tiny_en, task="translate"), []).refused
    # tokenizers comes with vLLM: hotwords ended in "a defect: No module named 'tokenizers'".
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for hotwords, refused in (
        ("Norland", None),
        ("<|startoftranscript|>", "holds the control token"),
        ("word " * 1000, None),
    ):
        verdict = preflight.check_run(run_config(manifest, tiny_en, hotwords=hotwords), ["en"])
        assert (refused or "") in (verdict.refused or "") and bool(refused) == bool(verdict.refused), verdict
        assert verdict.not_checked.startswith(
            "engine options and the rows' tasks, and whether --hotwords fit the prompt: vLLM is not installed"
        )


def test_what_the_engine_is_told_to_take_the_model_for_is_what_it_is_checked_as(tiny_en, tmp_path, monkeypatch):
    def no_vllm():
        raise UsageError("vLLM is not installed")

    def check(model, overrides: str) -> preflight.PreflightResult:
        engine = EngineConfig(model=str(model), args=(f"hf_overrides={overrides}",))
        return preflight.check_run(RunConfig(manifest=str(manifest), engine=engine), ["de"])

    monkeypatch.setattr(preflight, "detect_device", no_vllm)
    manifest = write_jsonl(tmp_path / "m.jsonl", folder_of_audio(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    for path in Path(tiny_en).iterdir():
        (other / path.name).symlink_to(path)
    config = (other / "config.json").read_text().replace(WHISPER, "OtherForConditionalGeneration")
    (other / "config.json").unlink()
    (other / "config.json").write_text(config)
    unknown = "the model and the rows' languages: vLLM is not installed"
    assert check(other, "{}").not_checked == unknown
    assert check(tiny_en, '{"architectures": ["OtherForConditionalGeneration"]}').not_checked == unknown
    assert "is English-only" in check(other, f'{{"architectures": ["{WHISPER}"]}}').refused
    assert "hf_overrides=3: must be a JSON object" in check(tiny_en, "3").refused


def test_a_model_that_is_not_here_is_not_downloaded(cli, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", folder_of_audio(tmp_path))
    done = cli("plan", manifest, "-m", "some-one/some-model", env={"HF_HOME": str(tmp_path / "hub")})
    assert done.returncode == EXIT_COMPLETE, done.stderr
    assert "not checked: the model: it is not fully in this machine's cache; plan downloads nothing" in done.stdout
    assert "--model some-one/some-model" in done.stdout


def test_devices_of_another_machine_are_counted_not_looked_for(cli_here, tiny_en, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", folder_of_audio(tmp_path))
    done = cli_here(
        "plan", manifest, "-m", tiny_en, "--devices", "0,1,2,3", "--rtfx", "10", "--startup", "60", "--json"
    )
    time = json.loads(done.stdout)["estimate"]
    assert time["devices_per_process"] == 4
    assert (time["wall_h"], time["gpu_h"]) == pytest.approx(((10 / 40 + 60) / 3600, (1 + 4 * 60) / 3600), abs=1e-6)
    spread = ("--rtfx", "10", "--engine-arg", "tensor_parallel_size=4", "--json")
    assert json.loads(cli_here("plan", manifest, *spread).stdout)["estimate"]["devices_per_process"] == 4
    done = cli_here("plan", manifest, "-m", tiny_en, "--devices", "all", "--rtfx", "10")
    assert "--devices all: the time is that of one device per process; divide it by their number" in done.stdout


def test_the_command_lines_say_what_was_asked_and_can_be_run(cli_here, tmp_path):
    from asrbatch.cli.app import app

    manifest = write_jsonl(tmp_path / "my manifest.jsonl", folder_of_audio(tmp_path))
    given = [
        "-m",
        "./my model",
        "-o",
        "out dir/out.jsonl",
        "--prompt",
        "it's -x",
        "--keep-no-speech",
        "--engine-arg",
        "max_num_seqs=1",
        "--engine-arg",
        "max_model_len=2",
    ]
    done = cli_here("plan", manifest, *given, "--num-chunks", 5, "--strategy", "contiguous", "--overwrite", "--json")
    lines = json.loads(done.stdout)["commands"]
    commands = typer.main.get_command(app).commands
    parsed = {}
    for what, line in lines.items():
        program, name, *words = shlex.split(line)
        assert program == "asrbatch"
        parsed[what] = commands[name].make_context(name, words).params
    run = {"manifest": [str(manifest)], "model": "./my model", "output": "out dir/out.jsonl", "prompt": "it's -x"}
    for what in ("one_process", "chunk", "submit"):
        assert parsed[what]["drop_no_speech"] is False
        assert run.items() <= parsed[what].items() and parsed[what]["args"] == given[-3::2], what
    assert (parsed["one_process"]["num_chunks"], parsed["chunk"]["num_chunks"], parsed["submit"]["num_chunks"]) == (
        None,
        5,
        5,
    )
    assert (
        parsed["chunk"]["chunk_id"] == 0 and parsed["chunk"]["strategy"] == parsed["submit"]["strategy"] == "contiguous"
    )
    assert str(parsed["status"]["output"]) == str(parsed["merge"]["output"]) == "out dir/out.jsonl"
    assert parsed["merge"]["manifest"] == [str(manifest)]


def test_ctrl_c_ends_a_probe_at_once(start_cli, tmp_path):
    hold_file(tmp_path / "hangs.wav")
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "hangs.wav"}])
    process = start_cli("plan", manifest, "--probe")
    wait_until(lambda: any(map(hangs_in_pipe, children(process.pid))))
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED and time.monotonic() - started < 25
    assert stdout == "" and "Traceback" not in stderr
