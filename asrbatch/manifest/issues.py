"""Issues of a manifest's rows, added up: all are counted, the first of each kind kept, and reported in a few lines.

Knows nothing of how they are found.
"""

from collections import Counter
from collections.abc import Callable

from asrbatch.formatting import MAX_ERROR_CHARS, shorten
from asrbatch.types import Issue

OnIssue = Callable[[Issue], None]

SHOWN_PROBLEMS = 20
_SHOWN_KINDS, _MOST_KINDS = 10, 1000


class IssueCounts:
    """What the pass finds wrong: all is counted and passed to `on_issue`; the first of each kind are kept.

    Attributes:
        number: of all problems.
        kinds: problems by kind.
        examples: (row, problem) of the first of each kind.

    Args:
        source: what the manifest is called.
        where: file and line, or row, of a row.
        on_issue: called with every problem.
    """

    def __init__(self, source: str, where: Callable[[int], str], on_issue: OnIssue | None):
        self._source, self._where, self._on_issue = source, where, on_issue
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[int, str]]] = {}
        self.number = 0

    def add(self, index: int, row_id: str | None, kind: str, problem: str) -> None:
        self.number += 1
        # A kind holds a field name, which a row may choose: a million different ones must not fill the memory.
        if kind not in self.kinds and len(self.kinds) == _MOST_KINDS:
            kind = "of yet another kind"
        self.kinds[kind] += 1
        if len(kept := self.examples.setdefault(kind, [])) < SHOWN_PROBLEMS:
            kept.append((index, problem))
        if self._on_issue is not None:
            self._on_issue(Issue(index, self._where(index), row_id, "rows", kind, problem))

    def report(self, num_rows: int) -> list[str]:
        """Lines: why nothing was run, the first problems, in the order of rows, and how many there are of each kind."""
        # Some of each kind were kept; of all these the first rows are shown, whatever their kind.
        first = sorted(problem for kept in self.examples.values() for problem in kept)[:SHOWN_PROBLEMS]
        lines = [f"{self._where(index)}: {problem}" for index, problem in first]
        if more := self.number - len(lines):
            hint = "" if self._on_issue is not None else "; `asrbatch validate --report FILE` writes all of them"
            lines.append(f"… and {more} more{hint}")
            counts = [f"{number} × {kind}" for kind, number in self.kinds.most_common(_SHOWN_KINDS)]
            others = len(self.kinds) - len(counts)
            lines.append(f"by kind: {', '.join(counts)}" + (f", and {others} kinds more" if others else ""))
        rows = "1 row" if num_rows == 1 else f"{num_rows} rows"
        bad = "1 problem" if self.number == 1 else f"{self.number} problems"
        return [f"{shorten(self._source, MAX_ERROR_CHARS)}: {bad} in {rows}; nothing was run", *lines]
