"""Everything that a run would find wrong with a manifest, found without one: its rows, and the audio they name.

Judges rows as `scan.py` does and audio as `probe.py` does, and adds them up; knows nothing of how either is
done, and shows nothing. Imports neither torch nor vllm."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asrbatch.audio.windows import WindowConfig
from asrbatch.config import SourceOptions
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, ROW_ERROR_KINDS, UsageError
from asrbatch.manifest.issues import OnIssue
from asrbatch.manifest.manifest import Manifest
from asrbatch.manifest.probe import AudioProbe
from asrbatch.manifest.scan import Check, Observe
from asrbatch.manifest.survey import ManifestStats
from asrbatch.manifest.writer import has_place, line_fields, new_manifest, place_from
from asrbatch.storage.files import json_bytes


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
        check: what a run with a model requires of a row; None requires nothing.
        for_lines: rows that pass are to be written; refuse at once a source whose rows have no line.
        strict: rows that would be flagged for what the audio is do not pass.
        on_issue: called with every problem of the rows, then of their audio, from any thread.
        observe: called with how far the reading is; see `scan_rows`.

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
        on_issue: OnIssue | None = None,
        observe: Observe | None = None,
    ):
        self._refuses = reading.on_bad_row == "refuse"
        self._strict, self._on_issue = strict, on_issue
        # Bad rows are kept, to be listed and to have their audio left out, whatever a run would do with them.
        keeping = replace(reading, on_bad_row="fail")
        self._stats = ManifestStats(sources, reading=keeping, check=check, on_issue=on_issue, observe=observe)
        self.manifest: Manifest = self._stats.manifest
        self.refuse_audio = self._stats.refuse_audio
        self.num_bad = self.manifest.num_bad
        self.probe: AudioProbe | None = None
        self.clean: tuple[Path, int] | None = None
        self.report: tuple[Path, int] | None = None
        # At once, before hours of decoding: a row whose audio is inside its source cannot be written.
        for index in self._stats.without_place if for_lines else ():
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
        config: WindowConfig | None,
        track: int | None = None,
        observe: Callable[[int, int], None],
    ) -> None:
        """Probes the audio of every good row; arguments and errors are those of `AudioProbe`."""
        self.probe = AudioProbe(
            self.manifest, self._stats.files, num_workers=num_workers, timeout_s=timeout_s, config=config, track=track,
            decode=decode, judge_bad=False, observe=observe, on_issue=self._on_issue,
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
        return self.probe.num_found if self._strict else self.probe.results.num_failing

    @property
    def exit_code(self) -> int:
        """What a run would end with: 2 where it would refuse the manifest, 3 where rows would fail."""
        # A run refuses a manifest with bad rows before it does anything; rows with bad audio fail one by one.
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
            problem = "no row is OK"
            raise UsageError(f"--write-clean {path}: {problem}; nothing was written")
        # Relative paths mean another file from another folder.
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

    def as_dict(self) -> dict[str, Any]:
        """What `validate --json` prints; docs/checking.md lists the fields, and renaming one breaks scripts."""
        probe = self.probe
        return {
            "manifest": self.manifest.figures(),
            "rows_refused": self.num_bad,
            "rows_failing": self.num_failing,
            "rows_passing": len(self) - self.num_bad - self.num_failing,
            "problems": self._issues(),
            "audio": probe and {"decoded": probe.decodes_all, **probe.results.audio_dict()},
            "clean": self.clean and {"path": str(self.clean[0]), "rows": self.clean[1]},
            "report": self.report and {"path": str(self.report[0]), "problems": self.report[1]},
            "exit_code": self.exit_code,
        }

    def _issues(self) -> list[dict[str, Any]]:
        manifest, scan = self.manifest, self.manifest.scan
        # Issues of rows carry their fix at the end of each example.
        of_rows = [
            {"kind": kind, "rows": rows, "fix": None, "examples": manifest.examples(scan.examples[kind])}
            for kind, rows in scan.problems.most_common()
        ]
        of_audio = self.probe.results.issues(manifest) if self.probe else []
        return [{"of": "rows", **issue} for issue in of_rows] + [{"of": "audio", **issue} for issue in of_audio]


def without_place(where: str) -> str:
    """Why a row cannot be a line."""
    fix = "give the source itself to transcribe, which reads it where it is"
    return f"{where}: its audio is bytes inside the source, which no line of JSON can name; {fix}"
