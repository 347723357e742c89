"""vLLM's model classes: what is registered, what a class states, a checkpoint's configuration without an engine,
adapters.

Weights are never read here, and no prompt is made. Import it late, like `api.py`."""

import dataclasses
import importlib.util
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import vllm
from vllm.config import ModelConfig
from vllm.config.lora import LoRAConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.peft_helper import PEFTHelper
from vllm.model_executor.model_loader import get_model_cls as get_model_cls
from vllm.model_executor.models.interfaces import supports_transcription as supports_transcription
from vllm.model_executor.models.interfaces_base import is_text_generation_model as is_text_generation_model
from vllm.model_executor.models.registry import _MULTIMODAL_MODELS, _VLLM_MODELS, ModelRegistry
from vllm.renderers.base import BaseRenderer
from vllm.renderers.registry import renderer_from_config

VERSION = vllm.__version__


def without_engine(settings: dict[str, Any]) -> tuple[ModelConfig, BaseRenderer, int]:
    """The model's configuration, its renderer, and the numbers (of any width) that a token takes in the key-value
    cache.

    Args:
        settings: keyword arguments of vLLM's engine.
    """
    config = EngineArgs(**settings).create_engine_config()
    model = config.model_config
    heads = model.get_total_num_kv_heads()
    # vLLM counts the layers of one pipeline rank.
    layers = model.get_num_layers(config.parallel_config) * config.parallel_config.pipeline_parallel_size
    return model, renderer_from_config(config), 2 * layers * heads * model.get_head_size()


def placeholder_of(model: type) -> str | None:
    """What stands for one audio in a prompt, from the model class; None where it takes no audio."""
    if not hasattr(model, "get_placeholder_str"):
        return None
    try:
        return model.get_placeholder_str("audio", 1)
    except (ValueError, NotImplementedError):  # how classes say that they take no audio
        return None


def takes_audio(model: type) -> bool:
    """Whether its processor takes audio, by the source of that: the processor itself is made from a checkpoint."""
    info = getattr(getattr(model, "_processor_factory", None), "info", None)
    limits = getattr(info, "get_supported_mm_limits", None)
    return limits is not None and '"audio"' in inspect.getsource(limits)


def registered() -> dict[str, Callable[[], type]]:
    """Every architecture the installed vLLM knows, plugins' included, to what imports its class."""
    return {name: model.load_model_cls for name, model in ModelRegistry.models.items()}


def may_take_audio(architecture: str) -> bool:
    """Of a class that cannot be imported: whether its module names audio as what is given to it, and it is not one of
    those that write nothing."""
    # The class cannot be asked, so vLLM's tables are: outside this one stand models of text, and those that only embed.
    if architecture in _VLLM_MODELS and architecture not in _MULTIMODAL_MODELS:
        return False
    module = getattr(ModelRegistry.models[architecture], "module_name", None)
    try:
        spec = importlib.util.find_spec(module) if module is not None else None
    except ImportError:
        return False
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return False
    with open(spec.origin, encoding="utf-8") as file:
        return '"audio"' in file.read()


def renamed(architectures: Sequence[str], modules: Sequence[str]) -> dict[str, str]:
    """Modules as checkpoints and adapters call them, to how vLLM's class does."""
    known = registered()
    model = next((known[name]() for name in architectures if name in known), None)
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is None:
        return {name: name for name in modules}
    # The patterns of some classes end in a dot, as modules do only inside a tensor's name.
    return {name: next(iter(mapper.apply_list([f"{name}.weight"])), name) for name in modules}


def check_adapter(folder: str, max_rank: int) -> None:
    """Raises ValueError or TypeError for an adapter of a kind that vLLM cannot apply (DoRA, whole
    layers, biases, …).
    """
    with open(f"{folder}/adapter_config.json", encoding="utf-8") as file:
        config = json.load(file)
    known = {field.name for field in dataclasses.fields(PEFTHelper)}
    for name in ("rank_pattern", "alpha_pattern"):  # a vLLM without them scales every module alike
        if config.get(name) and name not in known:
            raise ValueError(f"vLLM {VERSION} does not know {name}")
    PEFTHelper.from_local_dir(folder, None).validate_legal(LoRAConfig(max_lora_rank=max_rank))
