"""What keeps the chunks of a run from being its result, and what to do about it.

Collects what is wrong, and words a bounded number of lines of each kind however many rows are concerned. Knows nothing
of how it is found.
"""

from collections import Counter
from collections.abc import Iterable

SHOWN_LINES = 20

# In the order they are reported. `missing` is the one kind that --allow-incomplete accepts.
KINDS = {
    "leftover": "left-over files",
    "other_run": "chunks of another run",
    "damaged": "edited or damaged chunks",
    "doubled": "doubled rows",
    "foreign": "foreign rows",
    "missing": "missing rows",
}


class MergeReport:
    """What is wrong with the chunks of one run.

    Attributes:
        counts: how many by kind; rows, chunks or files, as the kind's title says.
        again: chunks to run again with the same command.
        overwrite: chunks to run again with --overwrite.
        running: chunks that seem to be written now, and so are not to be run again.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.again: set[int] = set()
        self.overwrite: set[int] = set()
        self.running: set[int] = set()
        # Bounded: a wrong manifest makes every row of a run a finding.
        self._lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self._num_unshown: Counter[str] = Counter()

    def add(self, kind: str, line: str, count: int = 1) -> None:
        """One line about `count` rows, chunks or files."""
        self.counts[kind] += count
        if len(self._lines[kind]) < SHOWN_LINES:
            self._lines[kind].append(line)
        else:
            self._num_unshown[kind] += 1

    def add_rows(self, kind: str, lines: list[str], count: int) -> None:
        """`count` rows; `lines` say something about the first of them, a line a row."""
        for line in lines:
            self.add(kind, line)
        if more := count - len(lines):
            self.counts[kind] += more
            self._num_unshown[kind] += more

    @property
    def complete(self) -> bool:
        """Every chunk is there as it should be."""
        return not (self.counts.total() or self.again or self.overwrite or self.running)

    @property
    def only_missing(self) -> bool:
        """Nothing is wrong with the rows that are there."""
        # A chunk that needs --overwrite has rows that cannot be believed, whatever its findings are called.
        return not self.overwrite and not any(count for kind, count in self.counts.items() if kind != "missing")

    @property
    def run_again(self) -> list[int]:
        """Chunk ids, ascending; those that need --overwrite as well."""
        return sorted(self.again | self.overwrite)

    def summary(self) -> str:
        """What is wrong, in one short line."""
        parts = [f"{self.counts[kind]} {title}" for kind, title in KINDS.items() if self.counts[kind]]
        if self.running:
            parts.append(f"chunks {ranges(self.running)} still run")
        if self.run_again:
            parts.append(f"chunks to run again {ranges(self.run_again)}")
        return ", ".join(parts)

    def lines(self) -> list[str]:
        """The report: each kind with its lines, then which chunks to run again and how."""
        lines = []
        for kind, title in KINDS.items():
            if self._lines[kind]:
                lines += [f"{title}: {self.counts[kind]}", *(f"  {line}" for line in self._lines[kind])]
            if self._num_unshown[kind]:
                lines.append(f"  … and {self._num_unshown[kind]} more")
        for title, chunks in (
            ("running, or killed just now: merge again when they have ended", self.running),
            # A chunk that needs --overwrite for one reason needs it, however many others would do without.
            ("run the same command again for", self.again - self.overwrite),
            ("run again with --overwrite", self.overwrite),
            ("chunks to run again", self.run_again),
        ):
            if chunks:
                lines.append(f"{title}: {ranges(chunks)}")
        return lines


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as `sbatch --array` takes them: `3,7,9-12`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
