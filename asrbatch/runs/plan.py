"""What a run will do, settled before the engine is started: model, dtype, manifest, languages, chunk, fingerprint.

Everything that can refuse a run without half a minute of loading does so here.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch.audio import silence
from asrbatch.audio.silence import choices_of_skips
from asrbatch.audio.windows import WindowConfig
from asrbatch.config import RunConfig, SourceOptions
from asrbatch.engine import inspector
from asrbatch.engine.devices import Slot, choose_slots
from asrbatch.engine.settings import encoder_cache_bytes, engine_settings
from asrbatch.errors import UsageError
from asrbatch.manifest.formats import options_for_kept
from asrbatch.manifest.issues import OnIssue
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.manifest.stdin import KeptManifest
from asrbatch.runs.fingerprint import fingerprint
from asrbatch.runs.model_selection import resolve_model
from asrbatch.runs.progress import Observer, StartUp
from asrbatch.runs.row_check import RowCheck


class RunPlan:
    """What will be run, checked as far as it can be without an engine.

    Attributes:
        engine: what is run and how.
        slots: where worker processes run; empty for one engine in this process.
        manifest: all of it.
        notes: what a person should know of it.
        sharding: how it is dealt out to chunks; None for a run in one piece.
        chunk: bool [rows of the manifest], those of this process; None for all.
        num_rows, total_audio_s: of the rows of this process; the latter None when one does not state its duration.
        fingerprint: see `fingerprint.py`.

    Args:
        kept: what came on standard input, where that is the manifest.
        note: told of every problem of the manifest; see `manifest_scan.scan_rows`.
        outputs: files that will be written, none of which may be a row's audio.
        start_up: told of the steps.

    Raises:
        UsageError, ManifestError: the run cannot be done as asked.
    """

    def __init__(
        self,
        config: RunConfig,
        kept: KeptManifest | None = None,
        note: OnIssue | None = None,
        outputs: Iterable[Path] = (),
        start_up: StartUp | None = None,
    ):
        start_up = start_up or StartUp(Observer())
        start_up.say("checking the model")
        self.engine = resolve_model(config)
        # Its process has imported vLLM; it ends before an engine starts.
        inspector.close()
        self.slots: list[Slot] = choose_slots(config.devices, self.engine.device, self.engine.engine_args)
        sources, reading = source_of(config, kept)
        check = RowCheck(self.engine, outputs)
        start_up.say("reading the manifest")
        self.manifest: Manifest = open_manifest(
            sources,
            check=check,
            options=reading,
            on_issue=note,
            observe=lambda num_rows, *_: start_up.tell(f"row {num_rows:,}"),
        )
        if (path := check.written_audio) is not None:
            raise UsageError(f"--output {config.output_path}: {path} is one of the audio files; give another name")
        self.notes = [*filter(None, [self.manifest.left_out]), *check.notes]
        if config.word_timestamps:
            most = encoder_cache_bytes(self.engine, engine_settings(self.engine)["max_num_seqs"])
            self.notes.append(f"up to {most / 1e6:.0f} MB of encoder outputs are kept on the device (--encoder-cache)")
        self.sharding = sharding_of(config, self.manifest)
        self.chunk = None if self.sharding is None else self.sharding.chunk_of == config.chunk_id
        durations_s = self.manifest.scan.durations_s
        durations_s = durations_s if self.chunk is None else durations_s[self.chunk]
        self.num_rows = len(durations_s)
        # Stated durations are float32, in which the sum of a large manifest would be inexact.
        self.total_audio_s = None if np.isnan(durations_s).any() else float(durations_s.sum(dtype="float64"))
        self.fingerprint = fingerprint(
            engine_args=self.engine.engine_args,
            sharding=self.sharding,
            asked=self.engine.model_options.fingerprint,
            audio_folder=kept.folder if kept is not None else config.reading.audio_folder or self.manifest.audio_folder,
            manifest=self.manifest.scan.digest,
            # Of the whole manifest, not of the chunk: the chunks of a run have one fingerprint, and merge-shards joins
            # no others.
            num_rows=len(self.manifest),
            # By content, not by path: the nodes of a cluster have local copies.
            model=self.engine.checkpoint.digest,
            revision=config.engine.revision,
            dtype=self.engine.dtype,
            quantization=self.engine.engine_args.get("quantization"),
            sampling=self.engine.sampling,
            task=config.task,
            language=self.engine.language,
            prompt=config.prompt,
            windows=window_choices(self.engine.window_config),
            # Fingerprints of before there were words are still those of runs without.
            **({"word_timestamps": True} if config.word_timestamps else {}),
            **({"text_field": config.text_field, "texts": check.texts_digest} if self.engine.aligns else {}),
        )


def source_of(config: RunConfig, kept: KeptManifest | None) -> tuple[tuple[str, ...], SourceOptions]:
    """What to open as the manifest, and how."""
    if kept is None:
        return config.manifest, config.reading
    path = str(kept.path)
    return (path,), options_for_kept(path, replace(config.reading, audio_folder=kept.folder))


def window_choices(windows: WindowConfig) -> dict[str, Any]:
    """How audio is cut, and how speech is told from silence where it is."""
    if windows.windows == "silence":
        return windows.choices | silence.choices()
    return windows.choices | (choices_of_skips() if windows.vad_filter else {})


def sharding_of(config: RunConfig, manifest: Manifest) -> Sharding | None:
    if config.num_chunks is None:
        return None
    return Sharding(manifest.scan.durations_s, config.num_chunks, config.strategy, in_groups=manifest.in_groups)
