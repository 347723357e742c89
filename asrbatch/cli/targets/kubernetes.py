"""`submit --to kubernetes`: an Indexed Job, one pod for each chunk; the last one merges."""

import os
import re
import shlex
from itertools import islice
from typing import Any

from asrbatch.cli.common import log
from asrbatch.cli.options import RunOptions, flag_of
from asrbatch.cli.targets.tasks import (
    absolute_manifest,
    check_outputs,
    check_run,
    default_job_name,
    interpreter,
    notes_of,
    paths_of,
    print_lines,
    refuse_overwrite,
    task_arguments,
)
from asrbatch.cluster.kubernetes import KubernetesOptions, apply, as_yaml, indexed_job, job_name
from asrbatch.config import RunConfig
from asrbatch.errors import UsageError

_ROWS_LOOKED_AT = 1000


def submit_to_kubernetes(options: RunOptions, values: dict[str, Any], config: RunConfig, dry_run: bool) -> None:
    if values["image"] is None:
        raise UsageError("--image is missing: the pods need an image with asrbatch in it; scripts/docker/ makes one")
    if config.descriptor is not None:
        raise UsageError("--to kubernetes: pods have no standard input; write the manifest to a volume")
    refuse_overwrite(config, "pods that are started again")
    pods = _pods(options, values, config)
    elsewhere = [each for each in config.manifest if _is_elsewhere(each, pods)]
    check_outputs(config, [each for each in config.manifest if each not in elsewhere])
    if elsewhere:
        manifests = [absolute_manifest(each, is_here=each not in elsewhere) for each in config.manifest]
        not_checked = ["the manifest is not on this machine and was not checked; run asrbatch validate where it is"]
    else:
        manifests, not_checked = check_run(config, [*range(config.num_chunks)], None, dry_run, is_here=False)
        _check_audio(config, pods)
    arguments = [*task_arguments(options, config, manifests), *(["--merge"] if pods.merge else [])]
    text = as_yaml(indexed_job(pods, arguments, num_chunks=config.num_chunks, grace_s=config.grace_s))
    for note in [*notes_of(config), *not_checked]:
        log(f"note: {note}")
    if dry_run:
        print_lines(text.split("\n"))
        return
    said = apply(text, pods)
    log(said)
    if "created" not in said:
        log(f"note: this Job exists already. If it has ended, nothing runs: `{pods.to_delete}`, then submit again")
    for line in (
        f"  pods:     kubectl get pods -l batch.kubernetes.io/job-name={pods.job_name}{pods.in_namespace}",
        f"  progress: asrbatch status {shlex.quote(str(config.output_path))}, where the volume is mounted",
        f"  cancel:   {pods.to_delete}",
    ):
        log(line)


def _pods(options: RunOptions, values: dict[str, Any], config: RunConfig) -> KubernetesOptions:
    """As given, with what is told by the run; all paths are where pods see them."""
    settled = {
        "job_name": values["job_name"] or job_name(default_job_name(config.output_path), config.num_chunks),
        "python": interpreter(values["python"], values["image"]),
    }
    pods = KubernetesOptions(**{**values, **settled})
    pods.check_name(config.num_chunks)
    pods.check_path("--output", str(config.output_path), is_written=True)
    for path in (path for each in config.manifest for path in paths_of(each)):
        pods.check_path("manifest", path)
    for name in ("model", "tokenizer", "lora", "audio_folder", "tars"):
        for path in (options.values[name] or "").split(","):  # tars may be several
            # What is no path is a name on the hub, or a URL.
            if path.startswith("/"):
                pods.check_path(flag_of(name), path)
    return pods


def _is_elsewhere(given: str, pods: KubernetesOptions) -> bool:
    """Whether a manifest is for pods alone to see: neither it nor its folder is here."""
    for path in paths_of(given):
        if "://" in path or os.path.lexists(path):
            continue
        folder = os.path.dirname(re.split(r"[*?[{]|_OP_", path)[0])  # of a pattern, what is none yet
        # A whole volume may be the manifest: the folder that it is in says nothing.
        if not os.path.isdir(max(folder, pods.mount_of(path).path, key=len)):
            return True
    return False


def _check_audio(config: RunConfig, pods: KubernetesOptions) -> None:
    """Raises UsageError where pods would not see the audio of one of the first rows. A folder that is not mounted shows
    in these; otherwise every row would fail, and the Job be complete.
    """
    if any("://" in each for each in config.manifest):
        return
    from asrbatch.manifest.formats import open_readers
    from asrbatch.manifest.row import Row

    for reader in open_readers(config.manifest, config.reading):
        if reader.holds_audio:
            continue
        for index, row in enumerate(islice(reader.rows(), _ROWS_LOOKED_AT)):
            path = reader.audio(index, row).path if isinstance(row, Row) else None
            if path is not None:
                pods.check_path("audio of the manifest", path)
