"""What is wrong with the rows of a manifest, added up: all counted, the first of each kind kept, and told in a few lines.

Knows nothing of how problems are found.
"""

from collections import Counter
from collections.abc import Callable

from .types import Problem

Note = Callable[[Problem], None]

SHOWN_PROBLEMS = 20
_SHOWN_KINDS, _MOST_KINDS = 10, 1000


class Problems:
    """What the pass finds wrong: all is counted and told to `note`; the first of each kind are kept.

    Attributes:
        number: of all problems.
        kinds: problems by kind.
        examples: (row, problem) of the first of each kind.

    Args:
        source: what the manifest is called.
        where: file and line, or row, of a row.
        note: called with every problem.
    """

    def __init__(self, source: str, where: Callable[[int], str], note: Note | None):
        self._source, self._where, self._tell = source, where, note
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[int, str]]] = {}
        self.number = 0

    def add(self, index: int, row_id: str | None, kind: str, problem: str) -> None:
        self.number += 1
        if kind not in self.kinds and len(self.kinds) == _MOST_KINDS:
            kind = "of yet another kind"
        self.kinds[kind] += 1
        if len(kept := self.examples.setdefault(kind, [])) < SHOWN_PROBLEMS:
            kept.append((index, problem))
        if self._tell is not None:
            self._tell(Problem(index, self._where(index), row_id, "rows", kind, problem))

    def report(self, num_rows: int) -> str:
        """Why nothing was run: the first problems, in the order of rows, and how many there are of each kind."""
        first = sorted(problem for kept in self.examples.values() for problem in kept)[:SHOWN_PROBLEMS]
        lines = [f"{self._where(index)}: {problem}" for index, problem in first]
        if more := self.number - len(lines):
            hint = "" if self._tell is not None else "; `asrbatch validate --report FILE` writes all of them"
            lines.append(f"… and {more} more{hint}")
            counts = [f"{number} × {kind}" for kind, number in self.kinds.most_common(_SHOWN_KINDS)]
            others = len(self.kinds) - len(counts)
            lines.append(f"by kind: {', '.join(counts)}" + (f", and {others} kinds more" if others else ""))
        rows = "1 row" if num_rows == 1 else f"{num_rows} rows"
        bad = "1 problem" if self.number == 1 else f"{self.number} problems"
        return "\n".join((f"{self._source}: {bad} in {rows}; nothing was run", *lines))
