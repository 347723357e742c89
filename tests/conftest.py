"""What the tests share: real checkpoints, real speech, and one running engine for each model."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Whoever runs the tests in the background of a shell (a CI runner, nohup) hands this on, and Ctrl-C would reach
    # nobody.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared machine", deadline=None)  # other work may slow any example
settings.load_profile("shared machine")

# Processes share the tests file by file (`make test`), and the machine's cores: teams of OpenMP threads on the
# same cores wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    )

# Many tests start Python: let the first of them keep what it has compiled of asrbatch.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Three processes share the tests (`make test`). Each begins with one group of the files that use engines, so that each
# engine is started in one process; the third's are those of commands that are killed, and mostly wait.
ENGINE_GROUPS = (
    ("test_long_real", "test_transcribe", "test_sources_real", "test_status", "test_accounts", "test_output_in_source",
     "test_export", "test_chunks"),
    ("test_answers", "test_engine", "test_align", "test_word_timestamps", "test_languages", "test_models_engine",
     "test_before_moves"),
    ("test_resume", "test_devices"),
)  # fmt: skip
# Files that take more than some seconds, longest first: so that no process is left with one at the end. `make check`
# (--quick) leaves all of them out, and tests that start an engine or a command by one of the fixtures.
SLOW_FILES = (
    *ENGINE_GROUPS[0], *ENGINE_GROUPS[1], *ENGINE_GROUPS[2], "test_slurm", "test_safety",
    "test_lease", "test_merge", "test_streaming",
    "test_models_plugin", "test_kubernetes", "test_models_nemo", "test_submit", "test_process", "test_functions",
    "test_timeouts", "test_refusals", "test_last_chunk", "test_loading", "test_long",
    "test_sources_hub", "test_source_file", "test_models_facts", "test_vad", "test_logits",
    "test_outputs", "test_leftovers", "test_subtitles", "test_score", "test_report", "test_compare", "test_alignment",
    "test_decoding", "test_foreign_text", "test_sources_remote", "test_sources_properties", "test_manifest_dataset",
    "test_get_model", "test_names", "test_manifest", "test_make_manifest", "test_probe", "test_validate",
    "test_json_arrays",
)  # fmt: skip
SLOW_FIXTURES = {"engines", "cli", "start_cli"}


def pytest_configure(config):
    # Not when this is imported: commands of the tests do that, and leave alone what was ignored, as nohup does.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process for all files of an engine group, one after the other; file by file for the rest."""
    from xdist.scheduler import LoadFileScheduling

    class EngineScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next((repr(group) for group in ENGINE_GROUPS if Path(file).stem in group), file)

    return EngineScheduling(config, log)


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="leave out SLOW_FILES and what uses SLOW_FIXTURES")


def pytest_ignore_collect(collection_path, config):
    return True if config.getoption("quick") and collection_path.stem in SLOW_FILES else None


def pytest_collection_modifyitems(config, items):
    if config.getoption("quick"):
        items[:] = [item for item in items if not SLOW_FIXTURES & set(item.fixturenames)]
    items.sort(key=lambda item: SLOW_FILES.index(item.path.stem) if item.path.stem in SLOW_FILES else len(SLOW_FILES))


# NeMo's plugin has an environment of its own: `make test-nemo`.
collect_ignore = [] if importlib.util.find_spec("nemo") else ["test_models_nemo.py"]

REPO = Path(__file__).resolve().parent.parent
PYTHON = sys.executable


def script_output(*command: str) -> str:
    """What a script of this repository prints; its messages go to the test's standard error."""
    done = subprocess.run([PYTHON, *command], cwd=REPO, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def read_jsonl(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_en() -> str:
    """Folder of Whisper tiny.en, converted from its package."""
    return script_output("scripts/get_model.py", "tiny.en")


@pytest.fixture(scope="session")
def base() -> str:
    """Folder of multilingual Whisper base, converted from its packages."""
    return script_output("scripts/get_model.py", "base")


@pytest.fixture(scope="session")
def demo_manifest() -> Path:
    """About a dozen short recordings of real speech, with transcripts."""
    return Path(script_output("scripts/get_speech.py", "demo"))


@pytest.fixture(scope="session")
def demo_rows(demo_manifest) -> list[dict]:
    return read_jsonl(demo_manifest)


@pytest.fixture(scope="session")
def two_windows(demo_rows) -> dict:
    """The first 40 s of a long recording, without its text."""
    row = next(row for row in demo_rows if row["duration"] > 60)
    return {"id": "two windows", "audio_filepath": row["audio_filepath"], "offset": 0.0, "duration": 40.0}


@pytest.fixture(scope="session")
def speech_wav(demo_rows) -> Path:
    """One real sentence: 16 kHz, mono, about 5 s."""
    return Path(next(r["audio_filepath"] for r in demo_rows if "0870" in r["audio_filepath"]))


class _Kept:
    """An engine that outlives the run it was started for."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def close(self, timeout_s: float = 0.0) -> None:
        pass


class Engines:
    """Starts each engine once. `start` has the signature of `asrbatch.engine.start_engine`."""

    def __init__(self):
        self._running, self._specs = {}, {}

    def that(self, wanted):
        """The one running engine of which `wanted(spec)` is true."""
        (key,) = (key for key, spec in self._specs.items() if wanted(spec))
        return self._running[key]

    def start(self, spec, deliver, on_step=lambda step: None):
        from asrbatch.engine.engine import start_engine

        options = spec.model_options
        if spec.capabilities.is_whisper:  # its words and windows travel with each request
            options = options.engine_settings, options.plugins, spec.word_timestamps, spec.aligns
        same = (spec.dtype, spec.mode, spec.task, spec.max_tokens, spec.seed, spec.engine_args, options)
        key = (spec.checkpoint.folder, repr(same))
        if key not in self._running:
            self._running[key], self._specs[key] = start_engine(spec, deliver, on_step), spec
        self._running[key].deliver = deliver
        return _Kept(self._running[key])

    def close(self):
        for engine in self._running.values():
            engine.close()


@pytest.fixture(scope="session", autouse=True)
def one_inspector():
    """A run ends the process in which vLLM says what models are, for its memory; 8 s of processor time each."""
    from asrbatch.engine import inspector

    close, inspector.close = inspector.close, lambda: None
    yield
    inspector.close = close
    close()


@pytest.fixture(scope="session")
def engines():
    running = Engines()
    yield running
    running.close()


@pytest.fixture(scope="session")
def transcribe(engines):
    """`asrbatch.transcribe` on an engine that stays up between tests; fp32, a few sequences at a time."""
    from asrbatch.config import EngineConfig, RunConfig
    from asrbatch.runs.runner import run

    def call(
        manifest, model, output, *, dtype="float32", mode="thread", args=("max_num_seqs=4",), max_tokens=None,
        observer=None, **options
    ):  # fmt: skip
        engine = EngineConfig(model=str(model), dtype=dtype, mode=mode, args=args, max_tokens=max_tokens)
        config = RunConfig(manifest=str(manifest), engine=engine, output=str(output), **options)
        return run(config, observer=observer, start=engines.start)

    return call


@pytest.fixture
def cli(tmp_path):
    """Runs the real command in an empty folder; returns the finished process."""

    def call(*arguments, cwd=tmp_path, env=None, timeout=600):
        command = [PYTHON, "-m", "asrbatch", *map(str, arguments)]
        env = {**os.environ, **(env or {})}
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=env)

    return call


@pytest.fixture
def start_cli(tmp_path):
    """Starts the real command in a process group of its own; whatever is left of it at the end is killed."""
    started = []

    def call(*arguments, cwd=tmp_path, env=None):
        command = [PYTHON, "-m", "asrbatch", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        started.append(process)
        return process

    yield call
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
