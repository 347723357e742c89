"""A LoRA adapter by its files: its rank, and which of a model's modules it changes. Knows nothing of vLLM.

vLLM applies an adapter to the modules whose names it knows and is silent about the rest, so the names are compared
before a run."""

import json
import struct
from pathlib import Path
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.formatting import one_line
from asrbatch.models.checkpoint import WEIGHT_PATTERNS

WEIGHTS = "adapter_model.safetensors"
# As older versions of PEFT saved them. A pickle can run any code, so it is not opened to learn names.
_PICKLED = "adapter_model.bin"
_CONVERT = (
    f'in that folder, python -c "import torch, safetensors.torch as s; '
    f"s.save_file(torch.load('{_PICKLED}', weights_only=True), '{WEIGHTS}')\" makes the {WEIGHTS} that is wanted"
)
# PEFT's way to say "of the model that was adapted".
_PREFIX = "base_model.model."


def adapter_rank(folder: Path, written: str) -> int:
    """The rank of an adapter: the highest that any of its modules has.

    Args:
        written: the folder as the user wrote it.

    Raises:
        UsageError: it is not a folder of a PEFT adapter.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        # PEFT may give single modules a rank of their own; vLLM is told one that must hold all of them.
        return max(map(int, [config["r"], *(config.get("rank_pattern") or {}).values()]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError(
            f"--lora {written}: is not a folder of a PEFT adapter: adapter_config.json: {one_line(e)}"
        ) from e


def adapter_modules(folder: Path, written: str) -> set[str]:
    """The modules an adapter changes, as the adapted model calls them.

    Raises:
        UsageError: there are no such weights, or none that can be read.
    """
    if not (folder / WEIGHTS).is_file() and (folder / _PICKLED).is_file():
        why = f"which modules {_PICKLED} changes is unknown without running it"
        raise UsageError(f"--lora {written}: {why}; {_CONVERT}")
    if not (folder / WEIGHTS).is_file():
        fix = "fetch it, or save it again as safetensors"
        raise UsageError(f"--lora {written}: holds no {WEIGHTS}, so there is nothing to apply; {fix}")
    names = {
        name.partition(".lora_")[0].removeprefix(_PREFIX)
        for name in _tensor_names(folder / WEIGHTS, written)
        if ".lora_" in name
    }
    if not names:
        raise UsageError(f"--lora {written}: {WEIGHTS} holds no LoRA weights; save the adapter again")
    return names


def checkpoint_modules(folder: Path, written: str) -> set[str] | None:
    """The modules that a checkpoint has weights for; None where it has no weights at all.

    Args:
        written: the adapter's folder as the user wrote it.

    Raises:
        UsageError: the weights are not in safetensors, so that nothing tells their names.
    """
    if files := sorted(folder.glob("*.safetensors")):
        return {name.rpartition(".")[0] for file in files for name in _tensor_names(file, written)}
    if any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        why = "so nothing tells which modules the adapter would change"
        raise UsageError(f"--lora {written}: the weights of {folder} are not in safetensors, {why}; convert them")
    return None


def _tensor_names(path: Path, written: str) -> list[str]:
    """The names in the header of a safetensors file: 8 bytes of length, then JSON."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            # A damaged length must not ask for more memory than the file has bytes.
            header: dict[str, Any] = json.loads(file.read(min(length, path.stat().st_size)))
    except (OSError, ValueError, struct.error) as e:
        raise UsageError(f"--lora {written}: {path.name} of {path.parent} cannot be read ({e}); fetch it again") from e
    return [name for name in header if name != "__metadata__"]
