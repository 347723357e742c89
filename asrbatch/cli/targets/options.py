"""What `submit` is told of the jobs: the options of all targets, and which of them each one takes."""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from asrbatch.cli.options import OptionGroup, parameters_of
from asrbatch.cluster.jobs import JobOptions
from asrbatch.cluster.kubernetes import KubernetesOptions
from asrbatch.cluster.slurm import SlurmOptions
from asrbatch.errors import UsageError
from asrbatch.options import flag

# What runs the tasks, what it takes, and what of that it has no use for.
TARGETS: dict[str, tuple[type[JobOptions], tuple[str, ...]]] = {
    "slurm": (SlurmOptions, ()),
    # An Indexed Job runs all; chunks that are complete end at once.
    "kubernetes": (KubernetesOptions, ("chunks",)),
    "shell": (JobOptions, ("gpus", "cpus_per_task", "mem", "job_name", "max_running", "requeue")),
}


class TargetOptions(NamedTuple):
    """What was given of the jobs on the command line; see `RunOptions`."""

    values: dict[str, Any]
    given: list[str]

    def of(self, target: str) -> dict[str, Any]:
        """Those that a target takes.

        Raises:
            UsageError: another one was given.
        """
        kind, useless = TARGETS[target]
        taken = {each.name for each in fields(kind)} - set(useless)
        for name in self.given:
            if name not in taken:
                others = [
                    f"--to {each}" for each, (k, no) in TARGETS.items() if name in {f.name for f in fields(k)} - {*no}
                ]
                raise UsageError(f"{flag(_JOB_FIELDS[name])}: is for {' and '.join(others)}, not for --to {target}")
        return {name: value for name, value in self.values.items() if name in {each.name for each in fields(kind)}}


_JOB_FIELDS = {each.name: each for kind in (JobOptions, SlurmOptions, KubernetesOptions) for each in fields(kind)}


def target_options() -> OptionGroup:
    """What a scheduler is to be told; a command receives them by name, as what is not given depends on the run."""
    # Written as one word or path each; None where the run decides.
    types, defaults = {"python": str, "cache_dir": Path}, {"python": None, "image": None}
    several = [name for name, each in _JOB_FIELDS.items() if each.type == tuple[str, ...] and name not in types]
    titles = dict.fromkeys(_JOB_FIELDS, "Tasks")
    for title, kind in (("SLURM", SlurmOptions), ("Kubernetes", KubernetesOptions)):
        titles |= {each.name: title for each in fields(kind) if each not in fields(JobOptions)}
    shared = parameters_of(_JOB_FIELDS.values(), types=types, defaults=defaults, titles=titles)
    return OptionGroup(
        shared,
        lambda values, given: TargetOptions(values | {name: tuple(values[name] or ()) for name in several}, given),
    )
