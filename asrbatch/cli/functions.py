"""What the functions of `asrbatch/__init__.py` share and return: the work of the commands, without what they print."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from asrbatch.cli.keywords import Command, receive
from asrbatch.cli.options import RunOptions
from asrbatch.errors import UsageError
from asrbatch.evaluation.summary import interval_text
from asrbatch.formatting import show
from asrbatch.runs.progress import Observer, Stop, Summary
from asrbatch.storage.paths import in_current_folder

Result = TypeVar("Result")


@dataclass(frozen=True, repr=False)
class Plan:
    """What a run would do.

    For example `Plan(120 rows, 1.234 h of audio, 4 chunks, 2 rows will fail)`.

    Attributes:
        figures: all that `asrbatch plan --json` prints.
    """

    figures: dict[str, Any]

    def __repr__(self) -> str:
        chunks = self.figures["chunks"]
        parts = [f"{self.num_rows} rows", f"{self.figures['audio']['stated_h']:.3f} h of audio"]
        parts += [f"{chunks['num_chunks']} chunks"] if chunks else []
        parts += [f"{self.num_failing} rows will fail"] if self.figures["probe"] else []
        return f"Plan({', '.join(parts)})"

    @property
    def num_rows(self) -> int:
        """Of the manifest."""
        return int(self.figures["manifest"]["rows"])

    @property
    def num_failing(self) -> int:
        """Rows that will fail, as far as `probe=True` saw; 0 without it."""
        return sum((self.figures["probe"] or {}).get("counts", {}).values())

    @property
    def commands(self) -> dict[str, str]:
        """The command lines of this run, by what they do: `one_process`, `chunk`, `submit`, `merge`, `status`."""
        return dict(self.figures["commands"])

    @property
    def notes(self) -> list[str]:
        """What a person should know."""
        return list(self.figures["notes"])


@dataclass(frozen=True, repr=False)
class Score:
    """How right predictions are, in one file or in several.

    For example `Score(WER 4.12 % (3.80 to 4.45), CER 1.90 % (1.71 to 2.10), 120 rows)`; of several files it shows the
    composite.

    Attributes:
        figures: all that `asrbatch score --json` prints.
    """

    figures: dict[str, Any]

    def __repr__(self) -> str:
        total, rates = self.figures["total"], self._rates
        parts = [f"composite of {len(self.files)} files"] if self.files else []
        for rate in ("wer", "cer"):
            if rates[f"{rate}_percent"] is not None:
                interval = interval_text(rates[f"{rate}_percent_interval"])
                shown = f"{rate.upper()} {rates[f'{rate}_percent']:.2f} %"
                parts.append(f"{shown} ({interval})" if interval else shown)
        empty = total["failed"] + total["missing"]
        parts += [f"{total['rows']} rows", *([f"{empty} of them without a prediction"] if empty else [])]
        return f"Score({', '.join(parts)})"

    @property
    def wer_percent(self) -> float | None:
        """The word error rate; of several files the mean of theirs. None where no row has words (Chinese, …)."""
        rate: float | None = self._rates["wer_percent"]
        return rate

    @property
    def cer_percent(self) -> float | None:
        """The character error rate; of several files the mean of theirs."""
        rate: float | None = self._rates["cer_percent"]
        return rate

    @property
    def files(self) -> dict[str, "Score"]:
        """The score of each file by its name, where several were scored; empty for one."""
        return {name: Score(of_file) for name, of_file in self.figures.get("files", {}).items()}

    @property
    def notes(self) -> list[str]:
        """What a person should know."""
        return list(self.figures["notes"])

    def groups(self, field: str) -> list[dict[str, Any]]:
        """The rates of each value of a field that `by` named: `pandas.DataFrame(score.groups("lang"))` is a table.

        Raises:
            UsageError: `by` did not name it.
        """
        if field not in self.figures["by"]:
            raise UsageError(f"groups of {show(field)}: were not made; score with by={show(field)}")
        return [{field: value, **rates} for value, rates in self.figures["by"][field]["groups"].items()]

    @property
    def _rates(self) -> dict[str, Any]:
        """Of all rows; of several files the composite."""
        return dict(self.figures.get("composite") or self.figures["total"])


def run_command(
    command: Command, given: Mapping[str, Any], progress: bool, observer: Observer | None, stop: Stop | None
) -> Summary:
    """Runs what `transcribe` or `align` was given, and merges it where that was asked for."""
    from asrbatch.cli.commands.align import align
    from asrbatch.cli.commands.transcribe import config_of, merge_if_last
    from asrbatch.runs.runner import run

    # Of a run this option makes an alignment, also where it was given to `transcribe`.
    command = align if "text_field" in given else command
    with in_current_folder():
        received = receive(command, given)
    options: RunOptions = received["options"]
    merge: bool = received["merge"]
    # A default that is the command's own, see `commands/align.py`.
    options.values.update({name: received[name] for name in ("text_field",) if name in received})
    config = config_of(options, merge=merge)
    with nullcontext(observer) if observer else shown(progress) as told:
        summary = run(config, told, stop)
        if merge and summary.outcome != "interrupted":
            merge_if_last(options, config, told.log)
    return summary


def make_plan(command: Command, given: Mapping[str, Any], progress: bool) -> Plan:
    """What `plan` was given, worked out. Raises UsageError: the model would refuse the run."""
    from asrbatch.cli.commands.plan import check_refusal, figures_of

    with in_current_folder():
        figures = figures_of(**receive(command, given), progress=progress)
    check_refusal(figures)
    return Plan(figures)


def call(command: Command, given: Mapping[str, Any], work: Callable[..., Result], progress: bool) -> Result:
    """Does a command's work, which tells its `log` how far it is, with what was given by name."""
    with in_current_folder(), shown(progress) as observer:
        return work(**receive(command, given), log=observer.log)


@contextmanager
def shown(progress: bool) -> Iterator[Observer]:
    """Who is told of progress inside the block: the display of the command in a terminal or a notebook, else nobody."""
    from asrbatch.cli.display.progress import default_observer

    display: Any = default_observer() if progress else None
    with display or nullcontext(Observer()) as observer:
        yield observer
