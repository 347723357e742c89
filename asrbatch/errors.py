"""The exceptions a user can see, and the exit code each of them ends the command with.

Knows nothing about what raises them. A `RowError` is a row's own fault: it becomes a `failed` output row and the run
goes on. Everything else is an `AsrbatchError`: it stops the command, is printed in one or two lines that name the
file, the row, the value and the fix, and chooses the exit code.
"""

from asrbatch.formatting import printable

# Job scripts decide by these whether to requeue (`cluster/`), so that a number never changes its meaning.
EXIT_COMPLETE = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_ROWS_FAILED = 3
EXIT_INTERRUPTED = 4
EXIT_WORKER_DIED = 5
EXIT_HELD = 6

# The kinds of `error.kind` in an output row, with what each means. docs/troubleshooting.md lists them (tested).
ROW_ERROR_KINDS = {
    "missing": "the audio file does not exist",
    "unreadable": "no decoder could read it: corrupt, not audio, no permission",
    "empty_audio": "0 samples: an empty file, or an offset at or past its end",
    "non_finite": "NaN, infinite or absurdly large samples, which would damage other rows inside the engine",
    "too_short": "fewer samples than the model needs for one feature frame",
    "too_long": "with `--windows none`: more audio than fits the model's window",
    "bad_row": "the row asks for something impossible, such as a channel the file lacks",
    "decode_timeout": "decoding took longer than `--decode-timeout`, twice",
    "decode_crash": "the decoder process died on it, twice",
    "rejected": "the engine refused the request",
    "engine_crash": (
        "the engine died three times with this row in it, the last time with this row alone "
        "(`--devices`: alone on two devices)"
    ),
    "killed": "asrbatch itself was killed three times while only this row was in the engine; who killed it is unknown",
}


class RowError(Exception):
    """One row cannot be transcribed; the run goes on.

    Args:
        kind: a key of `ROW_ERROR_KINDS`.
        message: one line that names the value and, where there is one, the fix.
        has_fix: it ends with what to do about this row, so that nothing general needs to be added.

    Raises:
        ValueError: the kind is not in the documented list.
    """

    def __init__(self, kind: str, message: str, has_fix: bool = False):
        # Rows are counted and filtered by kind, so one that no document names would be a bug that nobody sees.
        if kind not in ROW_ERROR_KINDS:
            raise ValueError(f"unknown row error kind {kind!r}; the documented ones are {', '.join(ROW_ERROR_KINDS)}")
        super().__init__(kind, message, has_fix)  # all, so that it survives pickling between processes
        self.kind = kind
        self.message = message
        self.has_fix = has_fix

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class AsrbatchError(Exception):
    """Something that stops the command. `exit_code` is what the process ends with.

    Its arguments are the lines of its message. What they quote is safe for a terminal, and makes no line of its own.
    """

    exit_code = EXIT_ERROR

    def __str__(self) -> str:
        return "\n".join(printable(str(line)) for line in self.args)


class UsageError(AsrbatchError):
    """An option or argument that is wrong, or that nothing here supports."""

    exit_code = EXIT_USAGE


class ManifestError(AsrbatchError):
    """The manifest cannot be read, or holds rows that cannot be run; all of them are named together."""

    exit_code = EXIT_USAGE


class OutputError(AsrbatchError):
    """The files of a run are damaged, belong to another run, or cannot be written."""


class RefusedOutputError(OutputError):
    """They belong to another run or are damaged: whoever tries the same command again is refused again."""

    exit_code = EXIT_USAGE


class LeaseError(OutputError):
    """Another process writes the same output."""

    exit_code = EXIT_HELD


class LeaseRemovedError(LeaseError):
    """The lease is gone, and nobody has taken it over: the folder was moved or removed."""

    exit_code = EXIT_ERROR


class EngineStartError(AsrbatchError):
    """The engine did not start. Carries the end of its log and the likely fix."""


class RefusedEngineArgsError(EngineStartError):
    """vLLM takes no such values: whoever tries the same command again is refused again."""

    exit_code = EXIT_USAGE


class EngineDiedError(AsrbatchError):
    """The engine died during the run. Written rows are kept; the same command resumes."""
