"""The names of a run's files, all derived from the output path, finding the chunks of a run by name, and which files a
command may write: none that it reads, none that has a second name, nothing that is no file.

Files are compared by what they are, device and inode, not by what they are called: a link is what it leads to. Asked
before anything is opened, and by every command that writes.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.storage.filenames import is_too_long
from asrbatch.storage.files import explained, kind_of

# Five digits or more: names then sort as numbers up to 100,000 chunks, and no run has a limit.
_CHUNK = re.compile(r"\.chunk-(\d{5,})-of-(\d{5,})")
# A chunk counts as there by any of its three lasting files: a record without rows is a chunk that has begun.
_CHUNK_FILE = re.compile(rf"(.*){_CHUNK.pattern}\.(jsonl|run\.json|done\.json)", re.DOTALL)
# Bytes by which the longest name beside an output is longer than its stem: `.X.lease.`, a token, `.new`.
_MOST_MORE = 44
_MOST_OF_MODEL = 100


def _stem(rows: Path) -> str:
    return rows.name.removesuffix(".jsonl")


def _beside(ending: str, meaning: str) -> Any:
    """A property: the file `X.ending` beside the rows file `X.jsonl`."""

    def path(self: "RunPaths") -> Path:
        return self.rows.with_name(f"{_stem(self.rows)}.{ending}")

    return property(path, doc=meaning)


@dataclass(frozen=True)
class RunPaths:
    """The files of one output.

    Args:
        output: the output path, `X.jsonl`. A link stands for the file that it leads to: two names of one file are then
            one output, with one lease and one record.
    """

    output: Path

    @cached_property
    def rows(self) -> Path:
        """The rows file itself, which the others stand beside."""
        return Path(os.path.realpath(self.output)) if self.output.is_symlink() else self.output

    record = _beside("run.json", "What the run is, and who worked on it when.")
    done = _beside("done.json", "The completion mark.")
    spool = _beside(
        "manifest.jsonl", "The manifest, where it came on standard input; all chunks share that of the run."
    )
    lease = _beside("lease", "Who may write.")
    in_flight = _beside("inflight", "Rows that are in the engine.")
    problems = _beside(
        "problems", "Why the manifest was refused, a JSON line each; of the run, whichever chunk found them."
    )
    log = _beside("log", "What vLLM and the decoders print.")

    @property
    def written(self) -> tuple[Path, ...]:
        """What a run writes, replaces or removes: all but `spool`, which may be given as a manifest too."""
        return self.rows, self.record, self.done, self.lease, self.in_flight, self.problems, self.log


def chunk_path(output: Path, chunk_id: int, num_chunks: int) -> Path:
    """The rows file of one chunk of the run that is called `output`: `X.chunk-00003-of-00016.jsonl`. Of a link it
    stands beside what that leads to, as the files of a run in one piece do."""
    output = RunPaths(output).rows
    return output.with_name(f"{_stem(output)}.chunk-{chunk_id:05}-of-{num_chunks:05}.jsonl")


def check_output(path: Path) -> Path:
    """The path, if a run can be called so.

    Raises:
        UsageError: it does not end in .jsonl, or is the name of one chunk's file, or a link to one.
    """
    if not path.name.endswith(".jsonl"):
        raise UsageError(f"--output {path}: must end in .jsonl; the run's other files are named after it")
    rows = RunPaths(path).rows
    if match := _CHUNK.search(rows.name):
        run = rows.with_name(rows.name.replace(match[0], ""))
        raise UsageError(f"--output {path}: is the name of one chunk's file; give the run's own, {run.name}")
    return path


@contextmanager
def in_current_folder() -> Iterator[None]:
    """Raises UsageError where a relative path was met inside and the current folder is gone; `os.getcwd` says so
    without a name."""
    try:
        yield
    except FileNotFoundError as e:
        if e.filename is not None:
            raise
        try:
            os.getcwd()
        except FileNotFoundError:
            raise UsageError(
                "the current folder is gone (removed, or another has its name now): change to one that is there, or "
                "give absolute paths, --output too"
            ) from e
        raise


def short_path(path: Path) -> str:
    """A path as a person would write it here: relative, where it is below the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or there is no current folder any more
        return str(path)


def check_length(rows: Path) -> None:
    """Raises UsageError: the names of the files beside these rows would be too long."""
    if is_too_long(_stem(rows), _MOST_MORE):
        raise UsageError(f"--output {rows}: is too long a name for the run's other files; choose a shorter one")


def default_output(manifest: str, model: str) -> Path:
    """What a run is called that was given no name: `<manifest stem>.<last part of the model>.jsonl`, in this folder.
    Of a very long name the end is left out."""
    last = os.path.basename(os.path.normpath(manifest))
    # `.`, `..` and `~` are names of a folder that has one of its own.
    last = os.path.basename(os.path.abspath(os.path.expanduser(manifest))) if last in (".", "..", "~") else last
    name = re.sub(r"[*?{}\[\],:]+", "-", last).strip("-")
    stem = re.sub(r"\.jsonl?(\.gz|\.zst)?$", "", name) or "manifest"
    last = os.path.basename(os.path.normpath(os.path.expanduser(model)))
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")[:_MOST_OF_MODEL] or "model"
    while is_too_long(f"{stem}.{model}.chunk-00000-of-00000", _MOST_MORE):
        stem = stem[:-1]
    return Path(f"{stem}.{model}.jsonl").absolute()


def find_chunks(output: Path) -> dict[int, dict[int, RunPaths]]:
    """Chunks of the run `output` that have left a file: by number of chunks, then by chunk id, both ascending.

    Raises:
        OutputError: the folder cannot be read.
    """
    rows, found = RunPaths(output).rows, dict[int, dict[int, RunPaths]]()
    if rows != output and not rows.parent.is_dir():
        return found
    stem = _stem(rows)
    with explained(rows.parent):
        names = os.listdir(rows.parent)
    for name in names:
        match = _CHUNK_FILE.fullmatch(name)
        if match and match[1] == stem:
            chunk_id, num_chunks = int(match[2]), int(match[3])
            found.setdefault(num_chunks, {})[chunk_id] = RunPaths(chunk_path(rows, chunk_id, num_chunks))
    return {num_chunks: dict(sorted(chunks.items())) for num_chunks, chunks in sorted(found.items())}


def check_outputs(outputs: Iterable[Path], inputs: Iterable[str | Path], option: str) -> None:
    """Says early what cannot be written.

    Args:
        outputs: files that will be written, replaced or removed, where they are there.
        inputs: what is read; what is not there, or lies behind a URL, is nobody's output.
        option: that names the outputs, with its value, for messages.

    Raises:
        UsageError: an output is no regular file, an input, or the same file as another output.
    """
    found: dict[tuple[int, int], Path] = {}
    for output in outputs:
        if kind := kind_of(output):
            raise UsageError(f"{_named(output, option)} is {kind}, not a file; remove it, or give another name")
        state = _look(output)
        if state is not None and (other := found.setdefault((state.st_dev, state.st_ino), output)) != output:
            fix = "remove one of the two names, or give another"
            raise UsageError(f"{_named(output, option)} is the same file as {other}; {fix}")
    for each in inputs if found else ():
        state = _look(each)
        path = None if state is None else found.get((state.st_dev, state.st_ino))
        if path is not None:
            same = "" if str(each) == str(path) else f" ({each})"
            raise UsageError(f"{_named(path, option)} is the input{same}; give another name")


def check_run_outputs(paths: RunPaths, inputs: Iterable[str | Path], others: Iterable[Path] = ()) -> None:
    """`check_outputs` of a run that `--output` names.

    Args:
        others: written as well.

    Raises:
        UsageError: the same, or the rows file has several names.
    """
    option = f"--output {paths.output}"
    check_outputs((*paths.written, *others), inputs, option)
    # Of the folders above, some may still be to be made.
    above = next((folder for folder in paths.rows.parents if os.path.lexists(folder)), None)
    if above is not None and not above.is_dir():
        raise UsageError(f"{option}: {above} is a file, not a folder; choose another --output")
    # Where the other names are nobody can tell, and a run by one of them has another lease.
    if (state := _look(paths.rows)) and state.st_nlink > 1:
        raise UsageError(
            f"{option}: {paths.rows} has {state.st_nlink} names (hard links), by each of which it could be written at "
            "the same time; remove the others, or give a copy"
        )
    # What takes a lease could neither read nor replace it.
    if paths.lease.is_symlink():
        raise UsageError(f"{option}: {paths.lease} is a link; remove it")


def _named(path: Path, option: str) -> str:
    """Once, where the option names it."""
    return f"{option}:" if option.endswith(f" {path}") else f"{option}: {path}"


def _look(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
