"""What our code uses of a library is found in its source, and what no longer fits is reported.

That nothing is reported for vLLM itself: `make test-conformance`."""

import importlib
import sys

import pytest
from conftest import REPO

# A library whose things are known by annotations alone, some of them behind TYPE_CHECKING or only assigned.
LIBRARY = """
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from library.parts import Part

T = TypeVar("T", bound="Output")
LIMIT = 3


@dataclasses.dataclass
class Output:
    text: str
    parts: "list[Part] | None" = None


class Engine:
    def __init__(self, name: str):
        self.name, self.output = name, Output("")

    @classmethod
    def start(cls, name: str, *, fast: bool = False) -> "Engine":
        return cls(name)

    def step(self, most: int = 1) -> list[Output]: ...

    async def generate(self) -> AsyncGenerator[Output, None]: ...


class Rules(ABC):
    def __init__(self, device): ...

    @abstractmethod
    def apply(self, scores, mask): ...

    @classmethod
    def check(cls, values): ...
"""
PARTS = "class Part:\n    size: int = 0\n"

FITS = '''
from typing import TYPE_CHECKING, Any

import library
from library import Engine, Rules

if TYPE_CHECKING:
    from library import Output


class Ours(Rules):
    def apply(self, scores, mask):
        return scores


class Started:
    engine: "Engine"

    def __init__(self, engine: Any):
        self.engine = engine

    async def run(self) -> int:
        async for output in self.engine.generate():
            output.text
        return sum(part.size for output in self.engine.step(most=2) for part in output.parts)


def start(**options: Any) -> Engine:
    """Optional: not every version has one."""
    getattr(library, "warm_up", None)
    return Engine.start("a", **options)


def first(engine: "Engine") -> str:
    (output,) = engine.step()
    Ours("cpu").apply(1, 2)
    return output.parts[0].size + engine.output.text + start(fast=True).name
'''


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Problems of a source that uses the library above, or another version of that."""
    monkeypatch.syspath_prepend(REPO / "scripts")
    names = importlib.import_module("conformance_names")

    def call(source: str, library: str = LIBRARY) -> list[str]:
        for path, text in {
            "library/__init__.py": library, "library/parts.py": PARTS, "ours/__init__.py": "", "ours/use.py": source
        }.items():  # fmt: skip
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        try:
            return names.check_folder(tmp_path / "ours", "library", "ours").problems
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] in ("library", "ours")]:
                del sys.modules[name]

    return call


def test_what_fits_is_not_reported(check):
    assert check(FITS) == []


@pytest.mark.parametrize(
    ("before", "now", "problem"),
    [
        ("class Rules(ABC)", "class OtherRules(ABC)", "library has no Rules"),
        ("def start(cls, name: str, *, fast", "def start(cls, name: str, *, quick", "Engine.start"),
        ("def start(", "def begin(", "use.py:31: library.Engine has no start"),
        ("def step(self, most", "def step(self, count", "use.py:25: library.Engine.step(): got an unexpected keyword"),
        ("def generate(self)", "def generate(self, seed)", "missing a required argument: 'seed'"),
        ("async def generate", "async def stream", "library.Engine has no generate"),
        ("text: str", "words: str", "library.Output has no text"),
        ("parts: ", "pieces: ", "library.Output has no parts"),
        ("self.name, self.output", "self.title, self.output", "library.Engine has no name"),
        ("def apply(self, scores, mask)", "def apply(self, scores, mask, step)", "Ours.apply as library.Rules calls"),
        ("def apply(self", "def modify(self", "Ours lacks modify"),
        ("def __init__(self, device)", "def __init__(self, device, pinned)", "'pinned'"),
    ],
)
def test_what_another_version_lacks_is_reported(check, before, now, problem):
    assert before in LIBRARY
    # Only calls whose arguments are all named can be said to lack one.
    source = FITS.replace(", **options)", ", fast=True)") if "quick" in now else FITS
    problems = check(source, LIBRARY.replace(before, now))
    assert any(problem in each for each in problems), problems
