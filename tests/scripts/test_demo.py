"""`make demo`: what it shows can be repeated by hand. The run itself needs an engine: the README begins with it."""

import importlib.util
import sys

import pytest
from conftest import REPO


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", REPO / "scripts/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_are_shown_as_they_can_be_repeated(demo, capfd):
    assert demo.run(sys.executable, "-c", "print('said')") == "said"
    shown = capfd.readouterr()
    assert shown.err == "$ .venv/bin/python -c 'print('\"'\"'said'\"'\"')'\n" and not shown.out
    assert demo.run(sys.executable, "-c", "print(7)", prints=True) == "" and capfd.readouterr().out == "7\n"
    demo.run(demo.ASRBATCH, "--version")
    assert capfd.readouterr().err == "$ .venv/bin/asrbatch --version\n"
    with pytest.raises(SystemExit, match="exit code 2"):
        demo.run(demo.ASRBATCH, "score", "nowhere.jsonl", ok=(0, 3))


def test_it_ends_with_what_comes_next(demo):
    text = demo.NEXT.format(model="'a model'")
    assert ".venv/bin/asrbatch report demo/out.jsonl" in text and "--model 'a model' --output" in text
    page = (REPO / text.split()[-1]).read_text(encoding="utf-8")
    assert "get_model.py base" in page and "asrbatch compare demo/out.jsonl demo/base.jsonl" in page
