"""Which files a command may write: none that it reads, none that has a second name, nothing that is no file.

Files are compared by what they are, device and inode, not by what they are called: a link is what it leads to. Asked
before anything is opened, and by every command that writes.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from asrbatch.errors import UsageError
from asrbatch.storage.files import kind_of
from asrbatch.storage.paths import RunPaths


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
            raise UsageError(f"{_named(output, option)} is {kind} and no file; remove it, or give another name")
        state = _look(output)
        if state is not None and (other := found.setdefault((state.st_dev, state.st_ino), output)) != output:
            fix = "remove one of the two names, or give another"
            raise UsageError(f"{_named(output, option)} is the same file as {other}; {fix}")
    for each in inputs if found else ():
        state = _look(each)
        path = None if state is None else found.get((state.st_dev, state.st_ino))
        if path is not None:
            same = "" if str(each) == str(path) else f" ({each})"
            raise UsageError(f"{_named(path, option)} is what is read{same}; give another name")


def check_run_outputs(paths: RunPaths, inputs: Iterable[str | Path], others: Iterable[Path] = ()) -> None:
    """`check_outputs` of a run that `--output` names.

    Args:
        others: written as well.

    Raises:
        UsageError: the same, or the rows file has several names.
    """
    option = f"--output {paths.output}"
    check_outputs((*paths.written, *others), inputs, option)
    # Where the other names are nobody can tell, and a run by one of them has another lease.
    if (state := _look(paths.rows)) and state.st_nlink > 1:
        raise UsageError(
            f"{option}: {paths.rows} has {state.st_nlink} names (hard links), by each of which it could be written at "
            "the same time; remove the others, or give a copy"
        )
    # What takes a lease could neither read nor replace it.
    if paths.lease.is_symlink():
        raise UsageError(f"{option}: {paths.lease} is a link, and leases are files of their own; remove it")


def _named(path: Path, option: str) -> str:
    """Once, where the option names it."""
    return f"{option}:" if option.endswith(f" {path}") else f"{option}: {path}"


def _look(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
