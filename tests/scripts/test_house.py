"""scripts/house.py: what counts as code, on a small package whose lines are counted by hand."""

import subprocess
import sys

import pytest
from conftest import REPO

MODULE = '''"""About it.

Two blank lines in a docstring.

"""

# why
URL = "# no comment"  # nor is this a line of its own


class Shape:
    """One."""

    def area(self):
        """Docstrings count
        as such."""

        # why
        return """
# text, not a comment
"""
'''


@pytest.fixture
def house(tmp_path):
    (tmp_path / "pkg" / "inner").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text('"""A package."""\n')
    (tmp_path / "pkg" / "shapes.py").write_text(MODULE)
    (tmp_path / "pkg" / "inner" / "more.py").write_text(f"class Shape:\n    pass\n\n\nx = '{'x' * 120}'\n")

    def call(*arguments) -> list[str]:
        command = [sys.executable, REPO / "scripts" / "house.py", "pkg", *arguments]
        return subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()

    return call


def test_lines_are_counted_once_and_by_what_they_hold(house):
    rows = {line.split()[0]: line.split()[1:-2] for line in house()[1:4]}
    assert rows["pkg"] == ["2", "2", "22", "6", "9", "2"]  # entries, files, lines, code, docstrings, comments
    assert rows["pkg/inner"] == ["1", "1", "5", "3", "0", "0"]
    assert rows["total"] == ["3", "27", "9", "9", "2"]


def test_what_should_not_be_there_is_named(house):
    rest = house()[4:]
    assert rest[0] == "code: 9; as counted in the plan: 4"  # two blank lines in a docstring, and three files
    assert rest[1].startswith(
        "functions: 1; lines: median 8, p90 8, longest 8 (pkg/shapes.py:14 area); over 60 lines: 0"
    )
    assert rest[2:] == ["class names used twice: Shape", "lines over 120 characters: 1"]


def test_a_revision_is_compared(house, tmp_path):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    (tmp_path / "pkg" / "inner" / "more.py").write_text("x = 1\n")
    lines = house("--compare", "HEAD")
    assert lines[0] == "HEAD:" and "now:" in lines
    before, now = (lines[n] for n in (lines.index("now:") - 5, -4))
    assert before.startswith("code: 9;") and now.startswith("code: 7;")
