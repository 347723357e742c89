"""Packages that some families of models need beside vLLM: which of them are missing here, and how they are installed.

Imports none of them."""

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Sequence

from asrbatch.engine.base import chain

# By architecture, what its processor asks for only when it is made or used. The import of a class tells of all others.
_ALSO_NEEDED = {
    "FireRedASR2ForConditionalGeneration": ("kaldi_native_fbank",),
    "GraniteSpeechForConditionalGeneration": ("torchaudio",),
    "GraniteSpeechPlusForConditionalGeneration": ("torchaudio",),
    "MiMoV2OmniForCausalLM": ("torchaudio",),
}
# Built for one torch each: another one would come with them, and vLLM fits but its own.
_OF_TORCH = ("torchvision", "torchaudio", "torchcodec")
# How transformers says what is missing, which names no module.
_TOLD = re.compile(rf"pip install ([\w.\- ]+)|requires the ({'|'.join(_OF_TORCH)}) library", re.IGNORECASE)


def missing_packages(architecture: str, error: BaseException | None = None) -> list[str]:
    """Packages that a model needs and that are not installed.

    Args:
        error: what came of importing its class, or of using it.
    """
    needed = list(_ALSO_NEEDED.get(architecture, ()))
    for cause in chain(error):
        if isinstance(cause, ImportError):
            needed.append((cause.name or "").partition(".")[0])
            for named, of_torch in _TOLD.findall(str(cause)):
                needed += (named or of_torch.lower()).split()
    return [name for name in dict.fromkeys(filter(None, needed)) if not _is_installed(name)]


def install_packages_line(packages: Sequence[str]) -> str:
    """The command that installs them, and leaves torch as it is."""
    names = " ".join(sorted(name.replace("_", "-") for name in packages))
    if not set(packages).intersection(_OF_TORCH):
        return f"pip install {names}"
    torch = importlib.metadata.version("torch")
    pinned = f"'torch=={torch}' {names}"
    # A build for CPUs, or for one CUDA, has packages of its own, in an index of its own, that pip does not look into.
    backend = torch.partition("+")[2]
    if not backend:
        return f"pip install {pinned}"
    return f"{'' if shutil.which('uv') else 'pip install uv && '}uv pip install --torch-backend {backend} {pinned}"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    except (ImportError, ValueError):
        return False
