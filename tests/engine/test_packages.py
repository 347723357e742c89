"""What a model lacks, and the command that installs it."""

import importlib.metadata
from itertools import pairwise

import pytest

from asrbatch.engine import packages
from asrbatch.engine.packages import install_packages_line, missing_packages


def caused(*errors: BaseException) -> BaseException:
    """The first, which came of the second, and so on."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (None, []),
        (ValueError("pip install nobody_has"), []),  # says nothing of what is missing here
        (caused(RuntimeError("x"), ModuleNotFoundError("No module", name="nobody_has.part")), ["nobody_has"]),
        (ModuleNotFoundError("No module", name="json.part"), []),
        (ImportError("Run `pip install nobody-has numpy other_one`"), ["nobody-has", "other_one"]),
        (
            ImportError("\nX requires the Nobody library. You can install them with pip:\n`pip install nobody`\n"),
            ["nobody"],
        ),
    ],
)
def test_what_is_missing_is_found_in_what_python_and_transformers_say(error, missing):
    assert missing_packages("X", error) == missing


def test_transformers_names_the_packages_of_torch(monkeypatch):
    monkeypatch.setattr(packages, "_is_installed", lambda name: False)
    said = "GraniteSpeechFeatureExtractor requires the Torchaudio library but it was not found in your environment."
    assert missing_packages("X", ImportError(said)) == ["torchaudio"]
    assert missing_packages("GraniteSpeechForConditionalGeneration") == ["torchaudio"]


@pytest.mark.parametrize(
    ("torch", "uv", "line"),
    [
        ("2.13.0+cpu", "/bin/uv", "uv pip install --torch-backend cpu 'torch==2.13.0+cpu'"),
        ("2.13.0+cu130", None, "pip install uv && uv pip install --torch-backend cu130 'torch==2.13.0+cu130'"),
        ("2.13.0", None, "pip install 'torch==2.13.0'"),
    ],
)
def test_packages_of_torch_are_installed_for_the_torch_that_is_there(torch, uv, line, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: torch)
    monkeypatch.setattr(packages.shutil, "which", lambda name: uv)
    assert install_packages_line(["torchvision", "torchaudio"]) == f"{line} torchaudio torchvision"
    assert install_packages_line(["kaldi_native_fbank"]) == "pip install kaldi-native-fbank"
