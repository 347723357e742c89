"""Imports point one way, heavy libraries have one home each, and the light commands stay light."""

import ast
import functools
import graphlib
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from asrbatch.models.capabilities import MODELS_SUPPORTING

PACKAGE = Path(__file__).resolve().parent.parent / "asrbatch"

# From the bottom up: a package imports from itself and from those before it; "" are the root modules.
ORDER = (
    "",
    "storage",
    "audio",
    "manifest",
    "models",
    "engine",
    "pipeline",
    "runs",
    "cluster",
    "evaluation",
    "export",
    "cli",
)
UPWARD = {("__init__", "cli"), ("__main__", "cli"), ("config", "storage")}  # the doors, and options that name files
# Library to the places that may import it: folders, or modules. One that is not named here is imported nowhere,
# but for numpy, which is everywhere.
HOMES = {
    "vllm": {"engine.vllm"},
    "torch": {"engine.vllm"},
    "transformers": {"engine.vllm.loading", "engine.vllm.log_mel"},
    "datasets": {"manifest.readers.hub"},
    "soundfile": {"audio.sndfile"},
    "soxr": {"audio.load"},
    "av": {"audio.ffmpeg", "audio.tracks"},
    "onnxruntime": {"audio.vad"},
    "silero_vad": {"audio.vad"},
    "pyarrow": {"manifest.readers"},
    "tokenizers": {"models.whisper"},
    "jinja2": {"engine.vllm.frontends"},
    "aiohttp": {"storage.remote"},
    "typer": {"cli"},
    "rich": {"cli.display"},
    "IPython": {"cli.display.notebook"},
    "jiwer": {"evaluation.alignment"},
    "kaldialign": {"evaluation.alignment"},
    "whisper_normalizer": {"evaluation"},
    "huggingface_hub": {"models.checkpoint", "manifest.readers.hub"},
    "lhotse": {"manifest.readers.lhotse"},
    "fsspec": {"storage.remote"},
    "zstandard": {"manifest.readers.text"},
    "yaml": {"cluster.kubernetes"},
}


@functools.cache
def imports() -> dict[str, tuple[set[str], set[str]]]:
    """Each module of ours to its modules of ours and its foreign libraries; what is for type checkers is left out."""
    trees = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    found = {}
    for name, path in trees.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checking = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
        skipped = {node for branch in checking for node in ast.walk(branch)}
        ours, foreign = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("find_spec", "import_module"):
                foreign |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
            if node in skipped or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            assert not getattr(node, "level", 0), f"{name}: imports of ours begin with asrbatch"
            base = node.module if isinstance(node, ast.ImportFrom) else ""
            for full in (f"{base}.{alias.name}".strip(".") for alias in node.names):
                library, _, inside = full.partition(".")
                if library != "asrbatch":
                    foreign.add(library)
                else:  # a module, or a name in one
                    names = inside, f"{inside}.__init__", inside.rpartition(".")[0] or "__init__"
                    ours.add(next(module for module in names if module in trees))
        found[name] = ours, foreign
    return found


def package_of(module: str) -> str:
    return module.partition(".")[0] if "." in module else ""


def test_packages_import_one_way():
    wrong = {
        f"{name} imports {other}"
        for name, (ours, _) in imports().items()
        for other in ours
        if ORDER.index(package_of(other)) > ORDER.index(package_of(name)) and (name, package_of(other)) not in UPWARD
    }
    assert not wrong


def test_modules_import_in_no_circle():
    graph = {name: ours - {name} for name, (ours, _) in imports().items() if name != "__init__"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_each_package_says_where_to_begin_and_what_it_may_import():
    for path in PACKAGE.glob("*/**/__init__.py"):
        folder, text = ".".join(path.parent.relative_to(PACKAGE).parts), path.read_text(encoding="utf-8")
        inside = [ours for name, (ours, _) in imports().items() if name.startswith(f"{folder}.")]
        real = {package_of(other) for other in set().union(*inside) if not other.startswith(f"{folder}.")}
        said = re.search(r"May\s+import\s([^.;]+?)\s*[.;]", text)
        assert "Begin with `" in text and said and re.search(r"the\sroot\s+modules", said[1]), folder
        assert set(re.findall(r"`(\w+)`", said[1])) == real - {""}, folder


def test_each_library_has_its_home():
    found = set().union(*(foreign for _, foreign in imports().values()))
    assert found - sys.stdlib_module_names - {"numpy"} == set(HOMES)
    for library, homes in HOMES.items():
        users = {name for name, (_, foreign) in imports().items() if library in foreign}
        strangers = {name for name in users if not any(f"{name}.".startswith(f"{home}.") for home in homes)}
        assert users and not strangers, library


def test_no_test_imports_a_test():
    """What tests share stands in helper modules beside this file."""
    pattern = re.compile(r"^\s*(?:from|import) test_\w+", re.MULTILINE)
    for path in Path(__file__).parent.rglob("*.py"):
        assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_vllm_is_known_to_the_engine_alone():
    """Its versions are compared, and its architectures are named, nowhere else; `models` may name architectures.

    "vllm" is written elsewhere as the part of a record whose change is warned of, to show it, and to see it loaded."""
    (vllm,) = importlib.util.find_spec("vllm").submodule_search_locations
    registry = Path(vllm, "model_executor/models/registry.py").read_text(encoding="utf-8")
    architectures = {"WHISPER", *re.findall(r'^ {4}"(\w+)":', registry, re.MULTILINE)}
    architectures |= set(re.findall(r"\b[A-Z]\w+", " ".join(MODELS_SUPPORTING.values()))) - {"Whisper", "English"}
    homes = {
        rf"\b(\w+For(ConditionalGeneration|CausalLM)|{'|'.join(architectures)})\b": ("engine/", "models/"),
        r"vllm_version|vllm\.__version__|\bVersion\(": ("engine/",),
        r"[\"']vllm[\"']": ("engine/", "storage/metrics.py", "cli/commands/models.py", "cli/app.py"),
    }
    for path in PACKAGE.rglob("*.py"):
        name, text = path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")
        for pattern, places in homes.items():
            found = None if name.startswith(places) else re.search(pattern, text)
            assert not found, (name, found[0])


def test_values_in_messages_are_shown_by_formatting():
    """On one line, short and safe for a terminal, by `show`, `one_line` or `shorten`: not as `!r`, nor cut by hand."""
    for_programmers = {"errors.py", "pipeline/loop.py", "runs/workers/pool.py"}  # of what never happens
    no_messages = {"manifest/row.py"}  # the numbers in a key
    exceptions = {r"!r\}": for_programmers | no_messages, r"\[[-:](?:[2-9]\d|\d{3,}):?\]": {"formatting.py"}}
    for pattern, allowed in exceptions.items():
        texts = {
            path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")
        }
        assert {name for name, text in texts.items() if re.search(pattern, text)} == allowed


# Who prints; all others hand their text to these, which make it safe for a terminal.
PRINTERS = {
    "cli/common.py",
    "cli/process.py",
    "cli/display/tables.py",
    "cli/display/progress.py",
    "cli/display/notebook.py",
}


def test_foreign_text_is_printed_in_one_place():
    """By `printable`: through `log` and `print_line`, `plain` in tables, `html_text` in a page. What stands in a bare
    `Text` is a constant."""
    printing = (
        r"\bprint\(|\becho\((?!f\"asrbatch \{__version__)|std(out|err)\.write\(|console\.print\(|\bprint_exception\("
    )
    homes = {
        printing: PRINTERS,
        r"\bText\((?!\"[^\"]*\"\)|overflow=|\))": {"cli/display/tables.py"},
        r"\bfrom html import\b": {"evaluation/report/plots.py", "export/formats.py"},  # subtitles have line breaks
    }
    for path in PACKAGE.rglob("*.py"):
        name, text = path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")
        text = re.sub(r"```python\n.*?```", "", text, flags=re.S)  # examples in docstrings
        for pattern, places in homes.items():
            assert name in places or not re.search(pattern, text), (name, re.search(pattern, text)[0])


def test_no_class_name_is_used_twice():
    defined = Counter(
        node.name
        for folder in ("asrbatch", "scripts", "tests")
        for path in (PACKAGE.parent / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert not {name for name, times in defined.items() if times > 1}


def test_folders_are_small():
    for folder in (PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__")):
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        packages = [path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"]
        assert len(modules) <= (10 if folder == PACKAGE else 15) and len(packages) <= 12, folder
        assert len((folder / "__init__.py").read_text(encoding="utf-8").splitlines()) >= 1


def loaded_after(code: str) -> set[str]:
    program = f"{code}\nimport sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


RUN = "from asrbatch.cli.app import app\ntry: app()\nexcept SystemExit: pass"
COMMANDS = [path.stem.replace("_", "-") for path in PACKAGE.glob("cli/commands/*.py") if path.stem != "__init__"]


@pytest.mark.parametrize(
    "command",
    ["", "--version", "--help", *(f"{command} --help" for command in sorted(COMMANDS))],
)
def test_help_needs_none_of_the_heavy_libraries(command):
    arguments = command.split()
    code = f"import sys; sys.argv = ['asrbatch', *{arguments}]\n{RUN}"
    assert not loaded_after(code) & {
        "torch",
        "vllm",
        "transformers",
        "datasets",
        "numpy",
        "soundfile",
        "pyarrow",
        "onnxruntime",
    }


def test_a_run_is_planned_without_torch_and_vllm():
    assert not loaded_after("import asrbatch.runs.runner") & {
        "torch",
        "vllm",
        "transformers",
        "datasets",
        "pyarrow",
        "onnxruntime",
    }


def test_scoring_needs_neither_torch_nor_vllm(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "two", "pred_text": "too"}\n')
    arguments = [str(tmp_path / "rows.jsonl"), "--normalizer", "leaderboard"]
    code = f"import sys; sys.argv = ['asrbatch', 'score', *{arguments}]\n{RUN}"
    assert not loaded_after(code) & {"torch", "vllm", "transformers", "datasets", "soundfile", "pyarrow", "onnxruntime"}
