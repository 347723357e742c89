"""A run as an Indexed Job of Kubernetes: one pod for each chunk, started again until the chunk is complete.

The least version is 1.29, of which `backoffLimitPerIndex` is on by default (stable since 1.33; `podFailurePolicy` since
1.31). Knows nothing of the options of a run. The fields are those of the Job API, kubernetes.io/docs/concepts/
workloads/controllers/job/.
"""

import posixpath
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import yaml

from asrbatch.cluster.jobs import JobOptions
from asrbatch.errors import (
    EXIT_HELD,
    EXIT_INTERRUPTED,
    EXIT_ROWS_FAILED,
    EXIT_USAGE,
    EXIT_WORKER_DIED,
    AsrbatchError,
    UsageError,
)
from asrbatch.options import option
from asrbatch.storage.remote import is_remote

_CONTAINER, _SHM, _SHM_PATH = "asrbatch", "shared-memory", "/dev/shm"
# Beyond what asrbatch takes to finish: the shell around it, and a slow disk.
_MORE_GRACE_S = 10
_VOLUME = re.compile(r"(?P<claim>[^:]+):(?P<path>/[^:]*)(:(?P<mode>ro))?")
_QUANTITY = re.compile(r"\d+(\.\d+)?([KMGTPE]i|[kMGTPE])?")
_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_NAME = re.compile(_LABEL)
_DOTTED_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_MOST_OF_NAME, _MOST_OF_DOTTED_NAME = 63, 253
# Of the images of scripts/docker/, which have no rights to what is root's.
_GROUP = 10001
# A shell's code for a process that TERM ended.
_ENDED_BY_TERM = 143

# The container's command. The shell is the pod's first process: signals come to it alone, and one without a trap is
# lost. asrbatch is told once, as a second TERM means: leave at once. What is complete is a success to Kubernetes, also
# with failed rows; other codes are for the Job's `podFailurePolicy`.
_SCRIPT = f"""\
pid= stopping= told=
finish() {{
  stopping=1
  [ -z "$pid" ] || [ -n "$told" ] || {{ told=1; kill -TERM "$pid"; }}
}}
trap finish TERM
%(setup)s
set +eu
[ -z "$stopping" ] || {{ echo "stopped before asrbatch was started" >&2; exit {EXIT_INTERRUPTED}; }}
%(command)s &
pid=$!
# The signal may have come a moment too early.
[ -z "$stopping" ] || finish
wait "$pid"
code=$?
# A signal ends `wait`, not what is waited for.
while kill -0 "$pid" 2>/dev/null; do
  wait "$pid"
  code=$?
done
# It was told before it listened.
[ -z "$stopping" ] || [ "$code" != {_ENDED_BY_TERM} ] || code={EXIT_INTERRUPTED}
echo "asrbatch ended with exit code $code" >&2
case "$code" in {EXIT_ROWS_FAILED} | {EXIT_WORKER_DIED}) exit 0 ;; esac
exit "$code"
"""


class Volume(NamedTuple):
    """A claim that pods mount at a path."""

    claim: str
    path: str
    is_read_only: bool


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions(JobOptions):
    """How the pods are to run.

    Raises:
        UsageError: a value that Kubernetes would refuse.
    """

    image: str = option(help="Image of the pods, with asrbatch in it.")
    namespace: str | None = option(None, "Namespace of the Job. [default: that of kubectl's context]")
    volume: tuple[str, ...] = option(
        (), "A volume claim and where pods mount it, e.g. speech:/data or models:/models:ro; may be repeated.",
        metavar="CLAIM:PATH",
    )  # fmt: skip
    secret: tuple[str, ...] = option(
        (), "A secret whose keys become environment variables, e.g. of s3:// or HF_TOKEN; may be repeated.",
        metavar="NAME",
    )  # fmt: skip
    shared_memory: str = option("8Gi", "Size of /dev/shm, which the processes of one engine share.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gpus.isdecimal():
            raise UsageError(
                f"--gpus {self.gpus}: Kubernetes takes a number; choose the type by the nodes of the image"
            )
        for name, value in (("--mem", self.mem), ("--shared-memory", self.shared_memory)):
            if value is not None and not _QUANTITY.fullmatch(value):
                raise UsageError(f"{name} {value}: is not a Kubernetes quantity; write for example 32Gi")
        for name, value in (("--job-name", self.job_name), ("--namespace", self.namespace)):
            if value is not None and not (_NAME.fullmatch(value) and len(value) <= _MOST_OF_NAME):
                rule = "has at most 63 small letters, digits and hyphens, and begins and ends with one of the former"
                raise UsageError(f"{name} {value}: a name in Kubernetes {rule}")
        for value in self.secret:
            _check_dotted_name(f"--secret {value}", value)
        paths = [volume.path for volume in self.volumes]
        if _SHM_PATH in paths:
            raise UsageError(f"--volume: {_SHM_PATH} is there already; its size is --shared-memory")
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise UsageError(f"--volume {twice}: two claims are mounted there; give each a path of its own")

    @property
    def volumes(self) -> list[Volume]:
        return [_parse_volume(text) for text in self.volume]

    @property
    def to_delete(self) -> str:
        """The command that removes the Job."""
        return f"kubectl delete job {self.job_name}{self.in_namespace}"

    @property
    def in_namespace(self) -> str:
        """For the end of a command of kubectl's."""
        return "" if self.namespace is None else f" -n {self.namespace}"

    def check_name(self, num_chunks: int) -> None:
        """Raises UsageError where the name leaves no room for the pods' indices."""
        if len(self.job_name) > (most := longest_job_name(num_chunks)):
            last = f"its last pod is {self.job_name}-{num_chunks - 1}, more than {_MOST_OF_NAME} characters"
            raise UsageError(f"--job-name {self.job_name}: {last}; give a name of at most {most}")

    def mount_of(self, path: str) -> Volume | None:
        """The volume in which pods see a path."""
        path = posixpath.normpath(path)
        above = [volume for volume in self.volumes if PurePosixPath(path).is_relative_to(volume.path)]
        return max(above, key=lambda volume: len(volume.path), default=None)

    def check_path(self, what: str, path: str, *, is_written: bool = False) -> None:
        """Raises UsageError where pods would not see what is meant, or could not write it."""
        if is_remote(path) or "://" in path:
            return
        volume = self.mount_of(path)
        if volume is None:
            raise UsageError(f"{what} {path}: no --volume is mounted there, so pods cannot see it; mount one there")
        if is_written and volume.is_read_only:
            raise UsageError(f"{what} {path}: its --volume is mounted read-only (:ro), and pods write there")


def _parse_volume(text: str) -> Volume:
    match = _VOLUME.fullmatch(text)
    if match is None:
        raise UsageError(f"--volume {text}: write CLAIM:PATH or CLAIM:PATH:ro, for example speech:/data")
    _check_dotted_name(f"--volume {text}", match["claim"])
    return Volume(match["claim"], "/" + posixpath.normpath(match["path"]).strip("/"), match["mode"] is not None)


def _check_dotted_name(what: str, name: str) -> None:
    if not _DOTTED_NAME.fullmatch(name) or len(name) > _MOST_OF_DOTTED_NAME:
        rule = "has small letters, digits, hyphens and dots, and begins and ends with one of the first two"
        raise UsageError(f"{what}: a name in Kubernetes {rule}")


def longest_job_name(num_chunks: int) -> int:
    """A pod is called as its Job and its index, which must be a name as well."""
    return _MOST_OF_NAME - len(f"-{num_chunks - 1}")


def job_name(text: str, num_chunks: int) -> str:
    """A name that Kubernetes takes, as like a text as can be that begins with a letter."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower())[: longest_job_name(num_chunks)].rstrip("-")


def indexed_job(options: KubernetesOptions, arguments: list[str], *, num_chunks: int, grace_s: float) -> dict[str, Any]:
    """The Job of a run.

    Args:
        arguments: of `asrbatch`, beginning with the command, without the chunk.
        grace_s: what an interrupted run may take to finish.
    """
    metadata = {"name": options.job_name, "labels": {"app.kubernetes.io/name": "asrbatch"}}
    if options.namespace is not None:
        metadata["namespace"] = options.namespace
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": num_chunks,
            "parallelism": min(num_chunks, options.max_running or num_chunks),
            "backoffLimitPerIndex": options.requeue,
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": metadata["labels"]}, "spec": _pod(options, arguments, grace_s)},
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """What the exit codes mean; the first rule that holds counts."""

    def codes(action: str, operator: str, *values: int) -> dict[str, Any]:
        on_codes = {"containerName": _CONTAINER, "operator": operator, "values": list(values)}
        return {"action": action, "onExitCodes": on_codes}

    return [
        # No start of that pod would go further: its options or files cannot be used, or its chunk holds another run's
        # rows. Complete chunks stay.
        codes("FailJob", "In", EXIT_USAGE),
        # Evicted, preempted, or its node is gone: as if it had never failed.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        codes("Ignore", "In", EXIT_INTERRUPTED, EXIT_HELD),
        codes("Count", "NotIn", 0),
    ]


def _pod(options: KubernetesOptions, arguments: list[str], grace_s: float) -> dict[str, Any]:
    script = _SCRIPT % {"setup": "\n".join(options.setup) or ": # no --setup", "command": options.command(arguments)}
    # Kubernetes puts variables in the place of $(NAME), and makes one of two dollars, before the shell sees any.
    script = re.sub(r"\$(?=[$(])", "$$", script)
    amounts: dict[str, str | int | None] = {"cpu": options.num_cpus, "memory": options.mem}
    requests = {name: str(value) for name, value in amounts.items() if value is not None}
    gpus = {"nvidia.com/gpu": str(options.num_gpus)} if options.num_gpus else {}
    mounts: list[dict[str, Any]] = [{"name": _SHM, "mountPath": _SHM_PATH}]
    volumes: list[dict[str, Any]] = [
        {"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": options.shared_memory}}
    ]
    for number, volume in enumerate(options.volumes):
        name = f"volume-{number}"
        mounts.append({"name": name, "mountPath": volume.path, "readOnly": volume.is_read_only})
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": volume.claim}})
    limits = {**gpus, **({"memory": options.mem} if options.mem else {})}
    container = {
        "name": _CONTAINER,
        "image": options.image,
        "command": ["/bin/sh", "-c", script],
        "resources": {"requests": {**requests, **gpus}, "limits": limits},
        "volumeMounts": mounts,
        "envFrom": [{"secretRef": {"name": name}} for name in options.secret],
    }
    return {
        "restartPolicy": "Never",  # which `backoffLimitPerIndex` and `podFailurePolicy` demand
        "terminationGracePeriodSeconds": int(grace_s) + _MORE_GRACE_S,
        # One group more, whoever the image runs as. Where it has what it needs already, no file is gone through.
        "securityContext": {"fsGroup": _GROUP, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [container],
        "volumes": volumes,
    }


def as_yaml(job: dict[str, Any]) -> str:
    """As `kubectl` takes it, in the order in which people write it."""
    return yaml.dump(job, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks of lines, and no references between equal parts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def apply(text: str, options: KubernetesOptions) -> str:
    """Hands a Job to the cluster of kubectl's context; returns what kubectl says.

    Raises:
        AsrbatchError: there is no kubectl, or it refused.
    """
    try:
        done = subprocess.run(["kubectl", "apply", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        raise AsrbatchError("kubectl is not on this machine; --dry-run prints the Job, for `kubectl apply -f`") from e
    if done.returncode:
        said = "; ".join(_lines(done.stderr)) or f"exit code {done.returncode}"
        if "field is immutable" in said:  # beside which kubectl prints the whole pod
            fix = f"`{options.to_delete}` makes room (rows that are written stay), or give another --job-name"
            said = f"{options.job_name} is there already, with other options; {fix}"
        raise AsrbatchError(f"kubectl refused the Job: {said}")
    return "; ".join(_lines(done.stdout))


def _lines(text: str) -> Sequence[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
