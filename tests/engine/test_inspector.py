"""A folder that is another between two questions is looked at again: the inspector's answers are kept by content."""

import json
from pathlib import Path

import pytest

from asrbatch.engine import inspector


class ReadsFoldersOnce(inspector._InspectorProcess):
    """In place of vLLM, which keeps what it read by the name of a folder: reads one file, and keeps that so."""

    def __init__(self):
        self._contents, self._read = {}, {}

    def respond(self, request, contents):
        self._contents |= dict(contents)
        folder = json.loads(request)["folder"]
        self._read.setdefault(folder, Path(folder, "adapter_config.json").read_text())
        return json.dumps({"found": json.loads(self._read[folder])})

    def close(self):
        pass


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer.json", "modeling.py", "chat_template.jinja"])
def test_a_changed_folder_is_inspected_again(tmp_path, monkeypatch, name):
    """Before, the second answer was the first: kept by the folder's name."""
    monkeypatch.setattr(inspector, "_InspectorProcess", ReadsFoldersOnce)
    monkeypatch.setattr(inspector, "_processes", {})
    inspector._respond.cache_clear()
    asked = inspector.Inspector(None, "cpu")

    def problem(says: str) -> str:
        (tmp_path / name).write_text(says)
        (tmp_path / "adapter_config.json").write_text(json.dumps({"problem": says}))
        return asked.adapter_problem(str(tmp_path), 8)

    assert problem("first") == "first"
    (process,) = inspector._processes.values()
    assert problem("first") == "first" and inspector._processes[asked] is process
    assert problem("other") == "other" and inspector._processes[asked] is not process
    inspector._respond.cache_clear()
