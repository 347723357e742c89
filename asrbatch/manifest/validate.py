"""Everything that a run would find wrong with a manifest, found without one: its rows, and the audio they name.

Judges rows as `manifest_scan.py` does and audio as `probe.py` does, and adds them up; knows nothing of how either is
done, and shows nothing. Imports neither torch nor vllm."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asrbatch.audio.windows import WindowConfig
from asrbatch.config import SourceOptions
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, ROW_ERROR_KINDS, UsageError
from asrbatch.manifest.manifest import Manifest
from asrbatch.manifest.probe import FIXES, AudioProbe
from asrbatch.manifest.scan import Check, Observe, OnIssue
from asrbatch.manifest.survey import ManifestStats
from asrbatch.manifest.writer import has_place, line_fields, new_manifest, place_from
from asrbatch.storage.files import json_bytes
from asrbatch.types import Issue, Utterance


class Validation:
    """The rows of one manifest, judged; then, with `judge_audio`, their audio.

    Attributes:
        manifest: opened; rows that are bad in themselves among it.
        num_bad: such rows.
        probe: what their audio was found to be; None until it was judged.
        clean: where the rows that pass were written, and how many; None until then.
        report: where all problems were listed, and how many; None where they were not.

    Args:
        sources: several are one manifest.
        reading: how to read them.
        check: what a model's run asks of a row; None asks nothing.
        for_lines: rows that pass are to be written; refuse at once a source whose rows have no line.
        strict: rows that would be flagged for what the audio is do not pass.
        note: told of every problem of the rows, then of their audio, from any thread.
        observe: told of how far the reading is; see `scan_rows`.

    Raises:
        ManifestError: it cannot be read at all.
        UsageError: a row cannot be written.
    """

    def __init__(
        self,
        sources: Sequence[str],
        reading: SourceOptions,
        *,
        check: Check | None = None,
        for_lines: bool = False,
        strict: bool = False,
        note: OnIssue | None = None,
        observe: Observe | None = None,
    ):
        self._refuses = reading.on_bad_row == "refuse"
        self._check, self._strict, self._tell = check, strict, note
        self._without_place = array("Q")
        keeping = replace(reading, on_bad_row="fail")
        self._survey = ManifestStats(
            sources, with_files=True, reading=keeping, check=self._ask, note=note, observe=observe
        )
        self.manifest: Manifest = self._survey.manifest
        self.num_bad = self.manifest.num_bad
        self.probe: AudioProbe | None = None
        self.clean: tuple[Path, int] | None = None
        self.report: tuple[Path, int] | None = None
        for index in self._without_place if for_lines else ():
            if self.manifest.line(index) is None:
                raise UsageError(f"--write-clean: {without_place(self.manifest.where(index))}")

    def __len__(self) -> int:
        return len(self.manifest)

    def judge_audio(
        self,
        *,
        decode: str,
        num_workers: int,
        timeout_s: float,
        rules: WindowConfig | None,
        observe: Callable[[int, int], None],
    ) -> None:
        """Looks at the audio of every good row; arguments and errors are those of `AudioProbe`."""
        self.probe = AudioProbe(
            self.manifest, self._survey.files, num_workers=num_workers, timeout_s=timeout_s, rules=rules, decode=decode,
            judge_bad=False, observe=observe, note=self._note_audio,
        )  # fmt: skip

    def passes(self, index: int) -> bool:
        if self.manifest.is_bad(index):
            return False
        kind = self.probe and self.probe.kind_of(index)
        return kind is None or (kind not in ROW_ERROR_KINDS and not self._strict)

    @property
    def num_failing(self) -> int:
        """Good rows whose audio would make them failed rows, or flagged ones when that counts."""
        if self.probe is None:
            return 0
        return self.probe.num_found if self._strict else self.probe.findings.num_failing

    @property
    def exit_code(self) -> int:
        """What a run would end with: 2 where it would refuse the manifest, 3 where rows would fail."""
        if self.num_bad and self._refuses:
            return EXIT_USAGE
        return EXIT_ROWS_FAILED if self.num_bad or self.num_failing else EXIT_COMPLETE

    def write_clean(self, path: Path) -> None:
        """Writes the rows that pass, in order: lines of JSON Lines as they are, all others as new lines.

        A line whose relative path means another file from there is written again with an absolute one.

        Raises:
            UsageError: no row passes, or one cannot be a line.
            OutputError: the disk refused.
            ManifestError: the manifest changed meanwhile.
        """
        passing = [index for index in range(len(self)) if self.passes(index)]
        if not passing:
            raise UsageError(
                f"--write-clean {path}: no row passes, and a manifest without rows is none; nothing was written"
            )
        folder = str(path.parent)
        # A file of cuts, or of fields under other names, holds them in all lines or in none.
        keeps_lines = self.manifest.has_plain_lines or all(self._line(index, folder) is not None for index in passing)
        with new_manifest(path) as file:
            for index in passing:
                line = self._line(index, folder) if keeps_lines else None
                file.write(line or self._new_line(index, folder))
        self.clean = (path, len(passing))

    def _line(self, index: int, folder: str) -> bytes | None:
        """The line of a row, where it has one that means the same in a manifest in `folder`."""
        line = self.manifest.line(index)
        if line is None:
            return None
        row = self.manifest.read(index)
        return line if not has_place(row) or place_from(row, folder) == row.fields["audio_filepath"] else None

    def _new_line(self, index: int, folder: str) -> bytes:
        row = self.manifest.read(index)
        if not has_place(row):  # its line says so only where all lines are kept
            raise UsageError(f"--write-clean: {without_place(self.manifest.where(index))}")
        return json_bytes(line_fields(row, folder)) + b"\n"

    def _note_audio(self, row: Utterance, kind: str, text: str) -> None:
        if self._tell is not None:
            self._tell(Issue(row.index, self.manifest.where(row.index), row.id, "audio", kind, text))

    def _ask(self, row: Utterance) -> str | None:
        if not has_place(row):
            self._without_place.append(row.index)
        return None if self._check is None else self._check(row)


def without_place(where: str) -> str:
    """Why a row cannot be a line."""
    fix = "give the source itself to transcribe, which reads it where it is"
    return f"{where}: its audio is bytes inside the source, which no line of JSON can name; {fix}"


def figures(found: Validation) -> dict[str, Any]:
    """What `asrbatch validate --json` prints; docs/commands.md lists the fields, and renaming one breaks scripts."""
    scan, probe = found.manifest.scan, found.probe
    problems = [
        _problem(found.manifest, "rows", kind, rows, scan.examples[kind]) for kind, rows in scan.problems.most_common()
    ]
    if probe is not None:
        kinds = [kind for kind in FIXES if probe.findings.counts[kind]]
        counts, examples = probe.findings.counts, probe.findings.examples
        problems += [_problem(found.manifest, "audio", kind, counts[kind], examples[kind]) for kind in kinds]
    return {
        "manifest": {"source": found.manifest.source, "rows": len(found), "digest": scan.digest},
        "rows_refused": found.num_bad,
        "rows_failing": found.num_failing,
        "rows_passing": len(found) - found.num_bad - found.num_failing,
        "problems": problems,
        "audio": probe and {
            "decoded": probe.decodes_all,
            "files": probe.findings.num_files,
            "measured_h": round(probe.findings.audio_s / 3600, 6),
            "rows_guessed": probe.findings.num_guessed,
            "rows_unknown": probe.findings.num_unknown,
            "containers": dict(probe.findings.containers.most_common()),
            "sample_rates_hz": dict(probe.findings.sample_rates.most_common()),
        },
        "clean": found.clean and {"path": str(found.clean[0]), "rows": found.clean[1]},
        "report": found.report and {"path": str(found.report[0]), "problems": found.report[1]},
        "exit_code": found.exit_code,
    }  # fmt: skip


def _problem(manifest: Manifest, of: str, kind: str, rows: int, examples: list[tuple[int, str]]) -> dict[str, Any]:
    """Problems of rows carry their fix at the end of each example."""
    return {
        "of": of,
        "kind": kind,
        "rows": rows,
        "fix": FIXES[kind] if of == "audio" else None,
        "examples": [{"row": row, "where": manifest.where(row), "text": text} for row, text in examples],
    }
