"""Imports point one way, heavy libraries have one home each, and the light commands stay light."""

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "asrbatch"

# From the bottom up: a module imports from layers before its own, or from its own package's same line.
LAYERS = [
    ["errors", "types", "clocks", "choices", "languages", "file_heads", "speeds", "row_seeds", "sums", "__init__"],
    ["groups", "spoken", "subtitle_lines", "export_names", "cuts", "voice", "long_alignment"],
    ["remote_http"],
    ["remote", "source_options", "audio_names", "hub_names"],
    ["leaderboard", "alignment", "bootstrap", "row_swapping", "json_lines", "parallel", "report.plots", "report.excerpt"],
    ["tasks", "ahead", "loudness", "subtitles", "normalizers"],
    ["silences"],
    ["silence"],
    ["windows", "guards", "room", "audio_part", "checkpoint", "sharding", "rows", "findings", "fetch", "timestamps"],
    ["reasoning", "answer_language"],
    ["output.files", "output.figures"],
    ["output.problems"],
    [
        "manifest_files",
        "manifest_problems",
        "manifest_sources",
        "manifest_shards",
        "pipes",
        "columns",
        "audio_cells",
        "output.spool",
    ],
    ["manifest_text", "source_file", "speech"],
    ["audio_header", "audio_rules", "attempts", "segments", "sequential", "scored_texts", "scored_rows"],
    ["scored_languages"],
    ["error_rates"],
    ["paired_counts"],
    ["audio_ffmpeg", "audio_sndfile", "fingerprint", "slurm", "slurm_submit", "output.paths"],
    ["audio", "slurm_scripts"],
    ["decoding_child"],
    ["config", "decoding", "prompts", "manifest_scan", "output.lease", "output.journal", "output.inflight"],
    ["output.rows", "output.record", "logs", "manifest_parquet", "manifest_dataset", "engine.token_rules"],
    ["manifest_jsonl", "manifest_arrow", "manifest_heads", "manifest_hub", "manifest_lhotse"],
    ["manifest_joined", "manifest_csv", "manifest_folder", "manifest_kaldi", "manifest_tar"],
    ["formats_text", "folder_contents"],
    ["formats_tar"],
    ["formats_table"],
    ["manifest_formats"],
    ["output.new_manifest", "manifest_lines"],
    ["predictions"],
    ["output.heartbeat", "output.merged", "manifest", "engine.base", "engine.environment", "engine.vllm_api"],
    ["engine.template_names", "engine.quantised"],
    ["engine.vllm_models"],
    ["engine.vllm_frontends", "engine.asker", "engine.honoured", "engine.plugins", "engine.look"],
    ["engine.look_list", "engine.asking"],
    ["engine.settings", "engine.look_child", "engine.ask_whisper", "engine.ask_generative", "engine.owned"],
    [
        "engine.logits",
        "engine.thread",
        "engine.process",
        "engine.waiting",
        "engine.devices",
        "engine.plan",
        "feed",
        "chunk_files",
        "chunk_rows",
    ],
    ["run_facts"],
    ["scored_references"],
    ["scored_join"],
    ["export_formats"],
    ["export_files"],
    ["export_results"],
    ["status_files"],
    ["status", "survey"],
    ["scoring"],
    ["pairing"],
    ["engine.start", "merge", "export", "score"],
    ["engine.__init__", "compare", "report.rows", "report.page"],
    ["report.make"],
    ["preparation", "blame", "limits"],
    ["adapters"],
    ["model_choice", "stdin_manifest"],
    ["plan", "work", "probe"],
    ["pipeline"],
    ["progress", "precheck", "plan_figures", "validation"],
    ["manifest_making"],
    ["session", "worker", "display", "display_tables", "display_checks"],
    ["display_changes", "display_bars"],
    ["display_scores"],
    ["local", "fleet_worker", "fleet_todo"],
    ["fleet"],
    ["job"],
    ["commands.common", "commands.option_list"],
    ["commands.options"],
    ["commands.scoring_options"],
    [
        "commands.compare",
        "commands.export",
        "commands.merge_shards",
        "commands.models",
        "commands.plan",
        "commands.report",
        "commands.score",
        "commands.status",
        "commands.submit",
        "commands.transcribe",
    ],
    ["commands.validate"],
    ["commands.make_manifest"],
    ["cli"],
    ["__main__"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}

# Library to the modules that may import it.
HOMES = {
    "vllm": {"engine.vllm_api", "engine.vllm_frontends", "engine.vllm_models"},
    "torch": {"engine.vllm_api", "engine.logits", "engine.token_rules"},
    "datasets": {"manifest_dataset", "manifest_hub"},
    "soundfile": {"audio_sndfile"},
    "soxr": {"audio"},
    "av": {"audio_ffmpeg"},
    "onnxruntime": {"voice"},
    "typer": {
        "cli", "commands.common", "commands.compare", "commands.export", "commands.merge_shards", "commands.models",
        "commands.option_list", "commands.options", "commands.plan", "commands.report", "commands.score",
        "commands.scoring_options", "commands.status", "commands.submit", "commands.transcribe",
        "commands.validate", "commands.make_manifest",
    },
    "rich": {"display", "display_bars", "display_changes", "display_checks", "display_scores", "display_tables"},
    "jiwer": {"alignment"},
    "kaldialign": {"alignment"},
    "whisper_normalizer": {"leaderboard", "normalizers"},
    "huggingface_hub": {"checkpoint", "manifest_hub"},
    "lhotse": {"manifest_lhotse"},
    "fsspec": {"remote"},
    "zstandard": {"manifest_text"},
}  # fmt: skip


@functools.cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name not in ("output.__init__", "commands.__init__", "report.__init__"):
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, tree: ast.Module):
    """`(library, None)` for a foreign import, `(None, module of ours)` for one of ours; those for type checkers are left out."""
    checking = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if node in checking:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], None
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], None
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)]
            target = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                full = ".".join([*target, alias.name])
                yield None, full if full in RANK else ".".join(target)


def test_every_module_has_its_layer():
    assert set(modules()) == set(RANK)


def test_imports_point_one_way():
    wrong = []
    for name, tree in modules().items():
        if name == "__init__":  # the door of the Python API opens upwards, when it is called
            continue
        for _, ours in imports(name, tree):
            if ours is None:
                continue
            target = ours if ours in RANK else f"{ours}.__init__" if f"{ours}.__init__" in RANK else "__init__"
            if RANK[target] >= RANK[name] and target != "__init__":
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_each_library_has_one_home():
    foreign = {name: {library for library, _ in imports(name, tree)} for name, tree in modules().items()}
    for library, homes in HOMES.items():
        users = {name for name, libraries in foreign.items() if library in libraries}
        assert users == homes, library


def loaded_after(code: str) -> set[str]:
    program = f"{code}\nimport sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


RUN = "from asrbatch.cli import app\ntry: app()\nexcept SystemExit: pass"
COMMANDS = (
    "",
    "transcribe",
    "merge-shards",
    "plan",
    "status",
    "submit",
    "export",
    "score",
    "compare",
    "report",
    "validate",
    "make-manifest",
    "models",
)


@pytest.mark.parametrize(
    "command",
    ["", "--version", *(f"{command} --help" for command in COMMANDS)],
)
def test_help_needs_none_of_the_heavy_libraries(command):
    arguments = command.split()
    code = f"import sys; sys.argv = ['asrbatch', *{arguments}]\n{RUN}"
    assert not loaded_after(code) & {"torch", "vllm", "transformers", "datasets", "numpy", "soundfile", "pyarrow", "onnxruntime"}


def test_a_run_is_planned_without_torch_and_vllm():
    assert not loaded_after("import asrbatch.job") & {"torch", "vllm", "transformers", "datasets", "pyarrow", "onnxruntime"}


def test_scoring_needs_neither_torch_nor_vllm(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "two", "pred_text": "too"}\n')
    arguments = [str(tmp_path / "rows.jsonl"), "--normalizer", "leaderboard"]
    code = f"import sys; sys.argv = ['asrbatch', 'score', *{arguments}]\n{RUN}"
    assert not loaded_after(code) & {"torch", "vllm", "transformers", "datasets", "soundfile", "pyarrow", "onnxruntime"}
