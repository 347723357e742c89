"""Engine settings that make a first run work, chosen per device; pure functions of what the machine and model say.

Imports neither torch nor vllm: the dtype is part of a run's fingerprint, and a run that must be refused should be
refused before half a minute of imports and loading.
"""

import json
from collections.abc import Sequence
from typing import Any

from asrbatch.config import DTYPES, ENGINE_MODES
from asrbatch.engine.devices import Device
from asrbatch.engine.spec import ModelOptions
from asrbatch.errors import UsageError
from asrbatch.models.capabilities import ModelCapabilities
from asrbatch.models.checkpoint import Checkpoint
from asrbatch.models.quantization import dtypes_taken, stated_quantization

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}

# Whisper hears 1500 encoder positions per window, whatever the window holds.
_ENCODER_TOKENS = 1500

_OWN_OPTIONS = {
    "model": "use --model",
    "revision": "use --revision",
    "dtype": "use --dtype",
    "tokenizer": "use --tokenizer",
    "trust_remote_code": "use --trust-remote-code",
    "enable_lora": "use --lora",
    "logits_processors": "Whisper's token rules are enforced with it, and the end of vLLM's processes",
    "disable_log_stats": "the timing in each row comes from it",
    "mm_processor_cache_gb": "features computed in several threads are right only without that cache",
    "logprobs_mode": "avg_logprob and no_speech_prob are read from the raw ones",
    "enable_log_requests": "the log would grow with the manifest",
}

# Engine arguments that asrbatch itself computes with.
_COUNTS = ("max_num_seqs", "tensor_parallel_size", "pipeline_parallel_size")


def parse_engine_args(items: Sequence[str]) -> dict[str, Any]:
    """`key=value` strings to engine arguments; a value is read as JSON where it is JSON, otherwise as text.

    Raises:
        UsageError: not of the form `key=value`, given twice, or one of those asrbatch sets from its own options.
    """
    parsed: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not key:
            raise UsageError(f"--engine-arg {item}: must be key=value, such as max_num_seqs=32")
        if key in parsed:
            raise UsageError(f"--engine-arg {key}: given twice")
        if key in _OWN_OPTIONS:
            raise UsageError(f"--engine-arg {key}: asrbatch sets it; {_OWN_OPTIONS[key]}")
        try:
            if key in _COUNTS and not int(value) >= 1:
                raise ValueError
        except ValueError:
            raise UsageError(f"--engine-arg {item}: must be a whole number from 1") from None
        try:
            parsed[key] = json.loads(value, parse_constant=str)  # NaN stays text: a record cannot hold it
        except ValueError:
            parsed[key] = {"True": True, "False": False, "None": None}.get(value, value)
    return parsed


def resolve_dtype(asked: str, checkpoint: Checkpoint, device: Device, engine_args: dict[str, Any] | None = None) -> str:
    """The dtype the run will use; part of the fingerprint, so it never depends on what vLLM would pick.

    `auto` keeps a 16-bit checkpoint's own type on a GPU, and takes bfloat16 on CPUs that compute in it (on the others
    a 16-bit type is emulated and several times slower than float32). Quantised weights that cannot run in that have one
    that they can run in.

    Raises:
        UsageError: there is no such dtype, or the checkpoint's quantised weights cannot run in it.
    """
    asked = _ALIASES.get(asked, asked)
    if asked not in DTYPES:
        raise UsageError(f"--dtype {asked}: must be one of {', '.join(DTYPES)}")
    forced = (engine_args or {}).get("quantization")
    taken, by = dtypes_taken(stated_quantization(checkpoint.config), forced, has_amx=device.has_amx)
    if asked != "auto":
        if asked not in taken:
            only = " or ".join(taken)
            raise UsageError(
                f"--dtype {asked}: {by} cannot run in it, only in {only}; use --dtype {taken[0]}, or leave it out"
            )
        return asked
    chosen = _automatic_dtype(checkpoint, device)
    if chosen in taken:
        return chosen
    return "float16" if device.kind == "cuda" and not device.has_bf16 and "float16" in taken else taken[0]


def _automatic_dtype(checkpoint: Checkpoint, device: Device) -> str:
    if device.kind == "cpu":
        return "bfloat16" if device.has_bf16 else "float32"
    own = str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype"))
    if own == "float16" or (own == "bfloat16" and device.has_bf16):
        return own
    return "bfloat16" if device.has_bf16 else "float16"


def resolve_mode(asked: str, device: Device, user_args: dict[str, Any]) -> str:
    """`thread` (vLLM stepped in a thread of ours) or `process` (vLLM's EngineCore process).

    Measured on 2 CPU cores, the thread is 1.4 to 1.8 times as fast and starts in half the time: a second process fights
    for the same cores. On a GPU the process should win, because the frontend's Python and features run while the GPU
    works; that is expected, not measured yet. Several ranks need processes anyway.
    """
    if asked not in ENGINE_MODES:
        raise UsageError(f"--engine-mode {asked}: must be one of {', '.join(ENGINE_MODES)}")
    parallel = any(int(user_args.get(k, 1)) > 1 for k in ("tensor_parallel_size", "pipeline_parallel_size"))
    if asked == "thread" and parallel:
        raise UsageError("--engine-mode thread: tensor and pipeline parallel engines need --engine-mode process")
    if asked != "auto":
        return asked
    return "thread" if device.kind == "cpu" and not parallel else "process"


def engine_settings(
    checkpoint: Checkpoint,
    device: Device,
    dtype: str,
    user_args: dict[str, Any],
    *,
    model_options: ModelOptions | None = None,
    max_tokens: int = 0,
) -> dict[str, Any]:
    """Keyword arguments for vLLM's engine; `user_args` win over every choice made here.

    Args:
        model_options: None for a Whisper checkpoint with nothing chosen.
        max_tokens: most tokens of an answer.
    """
    on_cpu = device.kind == "cpu"
    capabilities = model_options.capabilities if model_options else None
    window_tokens = max(_ENCODER_TOKENS, (capabilities.window_tokens or 0) if capabilities else 0)
    settings: dict[str, Any] = {
        "model": checkpoint.folder,
        "dtype": dtype,
        # One row per window is all there is: nothing repeats that either cache could answer.
        "mm_processor_cache_gb": 0,
        "enable_prefix_caching": False,
        "limit_mm_per_prompt": {"audio": 1},
        "disable_log_stats": False,  # the per-request clocks come with it
        "use_tqdm_on_load": False,
        "max_num_seqs": 16 if on_cpu else 256,
        # Bounds how many windows are encoded in one step; on a CPU 1, 2 and 8 did not differ beyond the noise
        # (which was large), on a GPU 16 is a guess.
        "max_num_batched_tokens": window_tokens * (2 if on_cpu else 16),
        **(model_options.engine_settings if model_options else {}),
    }
    if on_cpu:
        settings["enforce_eager"] = True  # no slower, and loads in half the time
    settings.update(user_args)
    if on_cpu and "kv_cache_memory_bytes" not in settings and "gpu_memory_utilization" not in settings:
        num_seqs = settings["max_num_seqs"]
        if capabilities is None or capabilities.is_whisper:
            settings["kv_cache_memory_bytes"] = kv_cache_bytes(checkpoint, dtype, num_seqs, device.memory_bytes)
        else:
            settings["kv_cache_memory_bytes"] = _kv_cache_bytes(
                capabilities, dtype, num_seqs, max_tokens, device.memory_bytes
            )
    return settings


def kv_cache_bytes(checkpoint: Checkpoint, dtype: str, max_num_seqs: int, memory_bytes: int) -> int:
    """Bytes that hold the keys and values of `max_num_seqs` full windows, text and audio; at most half of what is free.

    vLLM's own default on a CPU is a share of the whole machine, which fails wherever something else is running.
    """
    config = checkpoint.config
    layers, width = config.get("decoder_layers", 12), config.get("d_model", 1024)
    tokens = config.get("max_target_positions", 448) + _ENCODER_TOKENS
    needed = 2 * layers * width * _DTYPE_BYTES[dtype] * tokens * max_num_seqs
    with_slack = int(needed * 1.25) + 64 * 2**20  # blocks are rounded up, per sequence and per layer group
    return max(128 * 2**20, min(with_slack, memory_bytes // 2)) if memory_bytes else with_slack


def _kv_cache_bytes(
    capabilities: ModelCapabilities, dtype: str, max_num_seqs: int, max_tokens: int, memory_bytes: int
) -> int:
    """As `kv_cache_bytes`, for a model whose audio is part of the prompt; vLLM wants room for one sequence of any
    length.
    """
    of_token = capabilities.kv_bytes_per_token * _DTYPE_BYTES[dtype]
    least = int(of_token * capabilities.max_model_len * 1.05) + 64 * 2**20
    wanted = int(of_token * (capabilities.window_tokens + max_tokens) * max_num_seqs * 1.25) + 64 * 2**20
    return max(128 * 2**20, least, min(wanted, memory_bytes // 2) if memory_bytes else wanted)
