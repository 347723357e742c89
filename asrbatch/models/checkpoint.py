"""A checkpoint by its files: nothing is loaded, neither torch nor vllm is imported.

Knows where checkpoints live (a folder, or a name on the Hugging Face hub and its local cache), what Whisper's
configuration files mean, and how to name a model by its content. It does not know how the engine runs one.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.formatting import one_line

WHISPER = "WhisperForConditionalGeneration"

# Files that decide what a model answers. Weights in safetensors make the other weight formats irrelevant.
TEXT_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt")  # in the order vLLM prefers them
UNUSED_WEIGHTS = ("*fp32*", "*.msgpack", "*.h5", "*onnx*")

_LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
_MULTILINGUAL_VOCABULARY = 51865  # English-only Whisper checkpoints have 51864 entries


@dataclass(frozen=True)
class Checkpoint:
    """One model on disk.

    Attributes:
        name: as the user wrote it.
        folder: absolute path of the local folder that holds it.
        revision: the hub revision asked for, or None.
        config, generation_config, preprocessor_config: the parsed JSON files; empty where absent.
        added_tokens: special token text to id.
    """

    name: str
    folder: str
    revision: str | None
    config: dict[str, Any]
    generation_config: dict[str, Any] = field(default_factory=dict)
    preprocessor_config: dict[str, Any] = field(default_factory=dict)
    added_tokens: dict[str, int] = field(default_factory=dict)

    def architectures(self, engine_args: Mapping[str, Any]) -> list[str]:
        """What vLLM will take it for.

        Raises:
            UsageError: `hf_overrides` of another shape.
        """
        # A plugin may want another architecture than the checkpoint's files name: NeMo's speech LM does.
        overrides = engine_args.get("hf_overrides") or {}
        named = (overrides.get("architectures") or []) if isinstance(overrides, dict) else None
        if not isinstance(named, list):
            fix = 'a JSON object with a list of architectures, such as {"architectures": ["…"]}'
            raise UsageError(f"--engine-arg hf_overrides={json.dumps(overrides)}: must be {fix}")
        return list(named or self.config.get("architectures") or [])

    def is_whisper(self, engine_args: Mapping[str, Any]) -> bool:
        """Whether a run with these arguments of the engine asks it as Whisper."""
        return self.architectures(engine_args) == [WHISPER]

    @property
    def commit(self) -> str | None:
        """Which commit of the hub this is: what a branch or a tag meant when it was fetched; None for a folder of one's
        own.
        """
        folder = Path(self.folder)
        # The hub's cache keeps each commit in snapshots/COMMIT.
        return folder.name if folder.parent.name == "snapshots" else None

    def as_dict(self) -> dict[str, Any]:
        """For the run record; what decides the answers is in the fingerprint."""
        return {"name": self.name, "folder": self.folder, "revision": self.revision, "commit": self.commit}

    @property
    def is_multilingual(self) -> bool:
        """False for English-only checkpoints, whose prompt has neither a language nor a task."""
        stated = self.generation_config.get("is_multilingual")
        return stated if stated is not None else self.config.get("vocab_size", 0) >= _MULTILINGUAL_VOCABULARY

    @cached_property
    def languages(self) -> dict[str, int]:
        """ISO 639-1 code (3 letters where there is none with 2) to token id; `{"en": ...}` alone
        for English-only ones.
        """
        found = {m[1]: i for token, i in self.added_tokens.items() if (m := _LANGUAGE_TOKEN.fullmatch(token))}
        if self.is_multilingual:
            return found
        # The prompt of such a checkpoint has no language, so this number never reaches the engine.
        return {"en": found.get("en", -1)}

    @property
    def window_s(self) -> float:
        """The longest audio of one window, in seconds."""
        return float(self.preprocessor_config.get("chunk_length", 30))

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.preprocessor_config.get("sampling_rate", 16000))

    @property
    def hop_length(self) -> int:
        """Samples per feature frame: fewer samples than this make none."""
        return int(self.preprocessor_config.get("hop_length", 160))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of the files that decide what the model answers; not over its path.

        Every byte counts: a fine-tune may have moved one layer, or one bias. The engine is about to read the same
        files, from the page cache then."""
        return hash_folder(self.folder)


def open_checkpoint(name: str, revision: str | None = None, *, fetch: bool = True, weights: bool = True) -> Checkpoint:
    """Finds a checkpoint by folder or hub name and reads its JSON files.

    Args:
        fetch: download what the hub's cache here lacks.
        weights: demand and fetch them, too.

    Raises:
        UsageError: no such folder, the hub cannot be reached and the cache lacks it, or it is no model folder.
    """
    if revision is not None and os.path.isdir(os.path.expanduser(name)):
        raise UsageError(f"--revision {revision}: {name} is a local folder, which has no revisions; leave it out")
    folder = _find_folder("--model", name, revision, fetch=fetch, weights=weights)
    config = _read_json(folder / "config.json")
    if not config:
        raise UsageError(f"--model {name}: {folder} holds no config.json, so it is not a Hugging Face checkpoint")
    checkpoint = Checkpoint(
        name=name,
        folder=str(folder),
        revision=revision,
        config=config,
        generation_config=_read_json(folder / "generation_config.json"),
        preprocessor_config=_preprocessor(folder),
        added_tokens=_added_tokens(folder),
    )
    if weights and not any(any(folder.glob(p)) for p in WEIGHT_PATTERNS):
        raise UsageError(
            f"--model {name}: {folder} holds no weights ({', '.join(WEIGHT_PATTERNS)}); fetch or copy it again"
        )
    return checkpoint


def find_tokenizer(name: str) -> str:
    """The folder of a tokenizer that is not the checkpoint's own.

    Raises:
        UsageError: no such folder, and no such name on the hub or in its cache.
    """
    if not name.strip():
        raise UsageError("--tokenizer is empty; leave it out to use the checkpoint's own")
    if os.path.isfile(os.path.expanduser(name)):
        raise UsageError(f"--tokenizer {name}: is a file; give the folder it is in")
    return str(_find_folder("--tokenizer", name, None, weights=False))


def is_path(name: str) -> bool:
    """Whether it names a folder here, there or not; otherwise it is a name on the hub."""
    # A name on the hub has one slash at most.
    return os.path.isdir(os.path.expanduser(name)) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _find_folder(option: str, name: str, revision: str | None, *, weights: bool, fetch: bool = True) -> Path:
    if not is_path(name):
        return _from_hub(option, name, revision, weights=weights, fetch=fetch)
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        raise UsageError(f"{option} {name}: no such folder; give a folder, or a name on the Hugging Face hub")
    return folder.resolve()


def hash_folder(folder: str, *, weights: bool = True) -> str:
    """SHA-256 over the names and contents of the files in a checkpoint's, tokenizer's or adapter's folder that count.

    Several threads, because hashing lets go of the interpreter: 3 GB take 2 s of one core.
    """
    whole = hashlib.sha256()
    files = content_files(Path(folder), weights=weights)
    with ThreadPoolExecutor(4) as pool:
        for path, digest in zip(files, pool.map(hash_file, files), strict=True):
            # Names count, because they decide what is loaded. A NUL stands in no name, so none runs into a digest.
            whole.update(f"{path.name}\0{digest}\n".encode())
    return whole.hexdigest()


def content_files(folder: Path, *, weights: bool = True) -> list[Path]:
    """The files of a checkpoint folder that decide what it answers, sorted by name."""
    chosen = [p for pattern in TEXT_PATTERNS for p in folder.glob(pattern)]
    for pattern in WEIGHT_PATTERNS if weights else ():
        if found := list(folder.glob(pattern)):
            # Weights that look unused count where they are all there is: then they are loaded.
            chosen += [p for p in found if not any(p.match(unused) for unused in UNUSED_WEIGHTS)] or found
            break
    return sorted(p for p in set(chosen) if not p.is_dir())


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise _unreadable(path, e) from e


def _from_hub(option: str, name: str, revision: str | None, *, weights: bool, fetch: bool) -> Path:
    import huggingface_hub  # 0.5 s, and only hub names need it

    def snapshot(*patterns: str) -> Path:
        which = {"allow_patterns": list(patterns), "ignore_patterns": list(UNUSED_WEIGHTS)}
        return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=not fetch, **which))

    try:
        folder = snapshot(*TEXT_PATTERNS, *WEIGHT_PATTERNS[:weights])
        # Only where there are no safetensors: many repositories hold the same weights in every format.
        if weights and not any(folder.glob(WEIGHT_PATTERNS[0])):
            folder = snapshot(*TEXT_PATTERNS, *WEIGHT_PATTERNS)
    except Exception as e:  # its own errors, and those of the HTTP library, of which it has changed twice
        at = f" at revision {revision}" if revision else ""
        raise UsageError(
            f"{option} {name}: not a folder here, and the Hugging Face hub did not give it{at}; check the name and "
            f"the network, or give a folder ({one_line(e)})"
        ) from e
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise _unreadable(path, e) from e
    except ValueError as e:
        raise UsageError(f"{path}: not valid JSON ({e}); the checkpoint is damaged: fetch or copy it again") from e
    return value if isinstance(value, dict) else {}


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path}: {error.strerror}; the checkpoint's files must be readable; give permission, or another --model"
    )


def _preprocessor(folder: Path) -> dict[str, Any]:
    """`preprocessor_config.json`, or its place inside the `processor_config.json` that transformers 5 writes."""
    old = _read_json(folder / "preprocessor_config.json")
    return old or _read_json(folder / "processor_config.json").get("feature_extractor") or {}


def _added_tokens(folder: Path) -> dict[str, int]:
    """Special token text to id, from the fast tokenizer's file, or the older list beside it."""
    listed = _read_json(folder / "tokenizer.json").get("added_tokens", [])
    return {t["content"]: t["id"] for t in listed} or _read_json(folder / "added_tokens.json")
