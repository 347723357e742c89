"""The batch scripts of a run under SLURM, made from the templates beside this module.

The templates know what SLURM does with a task (their comments say so; all of it was seen on a real cluster) and what
asrbatch's exit codes mean. Knows nothing of the options of a run.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template

from asrbatch.cluster.merge_report import ranges
from asrbatch.cluster.slurm import Array, Directives, SlurmOptions, array_directives, merge_directives
from asrbatch.errors import EXIT_COMPLETE, EXIT_HELD, EXIT_ROWS_FAILED, EXIT_USAGE, EXIT_WORKER_DIED
from asrbatch.storage.paths import RunPaths


class BashTemplate(Template):
    """A script with placeholders such as `%%offset`: bash has another use for `$`."""

    delimiter = "%%"


def _template(name: str) -> BashTemplate:
    # Beside this module, where the wheel has them too.
    return BashTemplate(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def array_script(
    array: Array,
    options: SlurmOptions,
    arguments: Sequence[str],
    *,
    path: Path,
    output: Path,
    num_chunks: int,
    overwrite: bool,
) -> str:
    """The script of one array.

    Args:
        arguments: of `asrbatch`, beginning with the command, without the chunk and --overwrite.
        path: where the script will stand.
        output, num_chunks: of the run.
        overwrite: start the chunks anew, once.
    """
    words = _command(options, [*arguments, "--chunk-offset", str(array.offset)])
    return _template("array.sbatch").substitute(
        directives=_directives(array_directives(options, array.tasks, array.max_running), options.sbatch),
        what=f"chunks {ranges(array.chunks)} of {num_chunks}",
        again=_again(path),
        setup=_setup(options),
        offset=array.offset,
        stem=shlex.quote(str(RunPaths(output).rows).removesuffix(".jsonl")),
        num_chunks=num_chunks,
        cache_root=shlex.quote(options.cache_dir) if options.cache_dir else "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}",
        overwrite=_template("array_overwrite.sbatch").template if overwrite else "",
        command=f'{words} "${{overwrite[@]}}"' if overwrite else words,
        stagger=options.stagger_s + 1,
        requeue=options.requeue,
        complete=f"{EXIT_COMPLETE} | {EXIT_ROWS_FAILED} | {EXIT_WORKER_DIED}",
        rows_failed=EXIT_ROWS_FAILED,
        worker_died=EXIT_WORKER_DIED,
        usage=EXIT_USAGE,
        held=EXIT_HELD,
    )


def merge_script(options: SlurmOptions, arguments: Sequence[str], *, path: Path) -> str:
    """The script of the merge job.

    Args:
        arguments: of `asrbatch`, beginning with the command.
        path: where the script will stand.
    """
    return _template("merge.sbatch").substitute(
        directives=_directives(merge_directives(options), options.merge_sbatch),
        again=_again(path),
        setup=_setup(options),
        command=_command(options, arguments),
        rows_failed=EXIT_ROWS_FAILED,
    )


def _directives(ours: Directives, extra: Sequence[str]) -> str:
    return "\n".join([*map(_directive, ours), *(f"#SBATCH {line}" for line in extra)])


def _directive(directive: tuple[str, str | None]) -> str:
    name, value = directive
    if value is None:
        return f"#SBATCH {name}"
    if re.search(r"[^\w:=@%,./+-]", value):
        # sbatch is no shell: within double quotes a backslash takes the next character as it is, and nothing expands.
        value = '"{}"'.format(re.sub(r'(["\\])', r"\\\1", value))
    return f"#SBATCH {name}={value}"


def _again(path: Path) -> str:
    return f"sbatch {shlex.quote(str(path))}"


def _setup(options: SlurmOptions) -> str:
    return "\n".join(options.setup) or ": # none"


def _command(options: SlurmOptions, arguments: Sequence[str]) -> str:
    container = shlex.split(options.container) if options.container else []
    return shlex.join([*container, *options.python, "-m", "asrbatch", *arguments])
