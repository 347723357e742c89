"""The Dockerfiles, which nobody could build here: linted, and held against what they copy and install."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPO

from asrbatch.cluster.kubernetes import _GROUP

DOCKERFILES = sorted((REPO / "scripts/docker").glob("*.Dockerfile"))


def test_there_is_one_for_gpus_and_one_without():
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_linter_finds_nothing(path):
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_and_installed_exists(path):
    text = path.read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*)", text, flags=re.M) for name in line.split()[:-1]]
    ignored = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    for name in copied:
        assert (REPO / name).exists() and f"!{name.partition('/')[0]}" in ignored, name
        # What is copied for the build, pins above all, is used in it.
        assert not name.startswith("requirements/") or text.count(name) == 2, name
    (extras,) = re.findall(r"\.\[([\w,]+)\]", text)
    known = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    assert f"--uid {_GROUP} --gid {_GROUP}" in text
    assert text.rindex(f"USER {_GROUP}:{_GROUP}") > text.rindex("RUN "), "it runs without rights"
    assert "VOLUME /cache" in text and "not built" in text


def test_torch_and_vllm_are_those_that_are_meant():
    """Nothing that is installed beside them brings others along."""
    cpu, gpu = (path.read_text().replace("\\\n", "") for path in DOCKERFILES)
    (install,) = re.findall(r"uv pip install .*", cpu)
    assert "--torch-backend cpu" in install and "--overrides requirements/cpu-overrides.txt" in install
    (kept,) = re.findall(r"pip list --format=freeze --exclude-editable > (\S+)", gpu)
    assert re.search(rf"pip install .*--constraint {kept} ", gpu)
