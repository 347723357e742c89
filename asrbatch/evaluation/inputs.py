"""What is scored or compared: files of predictions, the runs that made them, and the references of their rows.

Knows nothing of how a row is counted.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asrbatch.errors import UsageError
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.references import FoundReferences, find_references, join
from asrbatch.evaluation.text_rules import TextRules
from asrbatch.formatting import counted, show
from asrbatch.languages import is_language, primary
from asrbatch.storage.run_files import RunFacts


class EvaluationInputs:
    """One file of predictions that is scored, or several over the same rows, with all that their rows are held against.

    Args:
        paths: absolute; JSON Lines.
        common: of several files the rows that all have, whatever manifests they are of.

    Attributes:
        files, runs: the predictions, and what stands beside each file.
        found: of each file, what it is to be held against.
        references: None where predictions carry their own.
        has_references: otherwise the predictions of the first file take their place.
        told_language: of rows that do not say theirs, as `--language` or the run has it; None where neither does.
        language: of those that were detected in none, too: the one that most rows were, or else English.
        written_language: what translations are written in, whatever language their audio is in; None of transcripts.
        unmatched: of each file, predictions that have no reference row.
        is_partial: rows that a run has not written are not counted.
        join_notes: what a person should know of how predictions found their references.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or files are of different manifests.
        OutputError: a file is damaged.
    """

    def __init__(self, paths: Sequence[Path], options: ScoreOptions, common: bool = False):
        self.rules, self.options, self.common = TextRules(options.normalizer), options, common
        if options.language is not None and not is_language(options.language):
            raise UsageError(
                f"--language {options.language}: is not a language; give a code such as en or yue, or an English name"
            )
        files = [Predictions(path, options.pred_field, options.text_field) for path in paths]
        self.runs = [RunFacts(path) for path in paths]
        if len(files) > 1:
            _refuse_pairs_by_line(files)
            # A row that only one has may be missing from the other: it counts as empty, if both should have it.
            if not common:
                _refuse_different_rows(files, self.runs)
        self.found = self._find_references(files)
        references = next((each.references for each in self.found if each.references is not None), None)
        if options.split is not None and references is None:
            raise UsageError(f"--split {options.split}: needs a manifest; name it with --references")
        folders = [Path(run.audio_base) for run in self.runs]
        self.files, self.references, self.join_notes = join(files, references, folders)
        carries_references = len(files) == 1 or any(file.num_references for file in files)
        self.has_references = references is not None or carries_references
        self.told_language = options.language or self._language_of_runs()
        self.language = self.told_language or self._most_heard() or "en"
        self.written_language = self._written_language()
        self.unmatched = [0 if references is None else len(file.without(self.references.keys)) for file in self.files]
        # With references a torn row is one without a prediction, and counts as that. In common it leaves no gap either.
        self.is_partial = references is None and (
            any(each.is_partial for each in self.found) or (any(file.torn for file in self.files) and not common)
        )

    def notes_of(self, at: int) -> list[str]:
        """What a person should know about one of the files."""
        file = self.files[at]
        return [*self.runs[at].notes(len(file), file.torn, self.found[at].fate), *file.notes()]

    def unmatched_notes(self, at: int) -> list[str]:
        number = self.unmatched[at]
        return (
            [
                counted(
                    number,
                    "prediction",
                    "has no reference row and was left out",
                    "have no reference row and were left out",
                )
            ]
            if number
            else []
        )

    def _find_references(self, files: list[Predictions]) -> list[FoundReferences]:
        """What to hold each file against: a manifest that was given, or that of a run which is not complete."""
        options = self.options
        if options.references is not None:
            return [find_references(options.references, options.split, self.runs[0], len(files[0]))] * len(files)
        # Rows in common need no manifest, what neither or only one of them has is not counted; nor do two files that
        # are held against each other.
        if self.common or (len(files) > 1 and not any(file.num_references for file in files)):
            return [FoundReferences(None, "", False)] * len(files)
        each = zip(self.runs, files, strict=True)
        return [find_references(None, options.split, run, len(file)) for run, file in each]

    def _language_of_runs(self) -> str | None:
        """What the runs were told to take rows for. Raises UsageError where they were told different languages."""
        # A run that was told nothing contradicts nobody.
        told = {file.path: run.language for file, run in zip(self.files, self.runs, strict=True) if run.language}
        if len({primary(language) for language in told.values()}) > 1:
            each = ", ".join(f"{path} was run with language {show(language)}" for path, language in told.items())
            raise UsageError(f"{each}; say which counts for scoring with --language")
        return next(iter(told.values()), None)

    @property
    def is_translated(self) -> bool:
        """What such audio was heard as is not what its texts are written in."""
        return "translate" in (run.task for run in self.runs)

    def _most_heard(self) -> str | None:
        if self.is_translated:
            return None
        heard = sum((file.heard for file in self.files), Counter())
        return min(heard, key=lambda code: (-heard[code], code), default=None)

    def _written_language(self) -> str | None:
        """The language that translations are written in; None of transcripts, and where no record tells.

        Raises:
            UsageError: of two only one was translated, or they into different languages, and `--language` does not
                settle it.
        """
        tasks, into = [run.task for run in self.runs], [run.written_language for run in self.runs]
        if not self.is_translated:
            return None
        # A row's `lang` is the one spoken; what a translation is held against is written in another.
        if self.options.language:
            return self.options.language
        if None not in tasks and len(set(into)) > 1:
            did = [
                f"{file.path} was "
                + ("transcribed" if task != "translate" else f"translated into {show(lang)}" if lang else "translated")
                for file, task, lang in zip(self.files, tasks, into, strict=True)
            ]
            raise UsageError(
                f"{', '.join(did)}: their texts are written in different languages; --language says which one to take "
                "all for"
            )
        return into[0] if len(set(into)) == 1 else None


def _refuse_pairs_by_line(files: list[Predictions]) -> None:
    for file in files:
        if file.num_by_line:
            raise UsageError(
                f"{file.path}: {counted(file.num_by_line, 'row', 'has', 'have')} neither an id nor audio_filepath, and "
                "pairing them by line would be a guess; give them ids"
            )


def _refuse_different_rows(files: list[Predictions], runs: list[RunFacts]) -> None:
    covers = [run.covers for run in runs]
    names = " and ".join(str(file.path) for file in files)
    fix = "--common compares the rows that all have"
    if None not in covers:
        # Over the same rows of one manifest, what one of the runs lacks is known to be missing, and counts as empty.
        if len(set(covers)) > 1:
            raise UsageError(f"{names}: are of different manifests, or of different chunks; {fix}")
        return
    first = files[0]
    for other in files[1:]:
        only = [len(first.without(other.keys)), len(other.without(first.keys))]
        if any(only):
            raise UsageError(
                f"{first.path} and {other.path}: do not have the same rows ({only[0]} only in the first, {only[1]} "
                f"only in the second), and without run records beside all it is unknown whether they should; {fix}"
            )
