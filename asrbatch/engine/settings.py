"""Engine settings that make a first run work, chosen per device; pure functions of what the machine and model say.

Imports neither torch nor vllm: the dtype is part of a run's fingerprint, and a run that must be refused should be
refused before half a minute of imports and loading.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from asrbatch.engine.devices import Device
from asrbatch.engine.spec import EngineSpec
from asrbatch.engine.vllm.engine_args import check_engine_args
from asrbatch.errors import UsageError
from asrbatch.models.checkpoint import Checkpoint
from asrbatch.models.quantization import dtypes_taken, stated_quantization

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# Whisper's encoder has 1500 positions per window, whatever the window holds.
_ENCODER_TOKENS = 1500

# By them ours runs in every worker of vLLM's, which takes it by its name alone.
_LOGITS_PROCESSOR = "asrbatch.engine.vllm.logits:WhisperLogitsProcessor"
_WORKER_EXTENSION = "asrbatch.engine.vllm.cross_attention.CrossAttentionWorker"
# Windows that wait for their words, behind those that the engine works on.
_WINDOWS_BEHIND = 32

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
        UsageError: not of the form `key=value`, given twice, one of those asrbatch sets from its own options, or one
            that the installed vLLM does not have.
    """
    parsed: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        # Also as it is written on vLLM's own command line: --max-num-seqs=32.
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not key:
            raise UsageError(f"--engine-arg {item}: must be key=value, such as max_num_seqs=32")
        if key in parsed:
            raise UsageError(f"--engine-arg {key}: given twice")
        if key in _OWN_OPTIONS:
            raise UsageError(f"--engine-arg {key}: asrbatch sets it; {_OWN_OPTIONS[key]}")
        if key in _COUNTS and not re.fullmatch(r"\s*[1-9]\d*\s*", value):
            raise UsageError(f"--engine-arg {item}: must be a whole number from 1")
        try:
            parsed[key] = json.loads(value, parse_constant=str)  # NaN stays text: a record cannot hold it
        except ValueError:
            # As Python writes them, which is not JSON: as text, "False" would be true.
            parsed[key] = {"True": True, "False": False, "None": None}.get(value, value)
    check_engine_args(parsed)
    return parsed


def resolve_dtype(asked: str, checkpoint: Checkpoint, device: Device, engine_args: dict[str, Any] | None = None) -> str:
    """The dtype the run will use; part of the fingerprint, so it never depends on what vLLM would pick.

    `auto` keeps a 16-bit checkpoint's own type on a GPU, and takes bfloat16 on CPUs that compute in it (on the others
    a 16-bit type is emulated and several times slower than float32). Quantised weights that cannot run in that have one
    that they can run in.

    Raises:
        UsageError: the checkpoint's quantised weights cannot run in it.
    """
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
    # What an old GPU computes in; elsewhere the type that the kernels of these weights prefer.
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

    Measured on 2 CPU cores with AMX (tiny.en), both are as fast, and the thread starts in 12 s, the process in 20: it
    imports vLLM once more. On a GPU the process should win, because the frontend's Python and features run while the
    GPU works; that is expected, not measured yet. Several ranks need processes anyway.
    """
    parallel = any(int(user_args.get(k, 1)) > 1 for k in ("tensor_parallel_size", "pipeline_parallel_size"))
    if asked == "thread" and parallel:
        raise UsageError("--engine-mode thread: tensor and pipeline parallel engines need --engine-mode process")
    if asked != "auto":
        return asked
    return "thread" if device.kind == "cpu" and not parallel else "process"


def engine_settings(spec: EngineSpec) -> dict[str, Any]:
    """Keyword arguments for vLLM's engine; the user's win over every choice made here."""
    on_cpu = spec.device.kind == "cpu"
    window_tokens = max(_ENCODER_TOKENS, spec.capabilities.window_tokens or 0)
    settings: dict[str, Any] = {
        "model": spec.checkpoint.folder,
        "dtype": spec.dtype,
        # One row per window is all there is: nothing repeats that either cache could answer.
        "mm_processor_cache_gb": 0,
        "enable_prefix_caching": False,
        "limit_mm_per_prompt": {"audio": 1},
        "disable_log_stats": False,  # the per-request clocks come with it
        "use_tqdm_on_load": False,
        # Both are stated because AsyncLLM's defaults are not those of LLM.
        "max_num_seqs": 16 if on_cpu else 256,
        # Bounds how many windows are encoded in one step; on a CPU 1, 2 and 8 did not differ beyond the noise
        # (which was large), on a GPU 16 is a guess.
        "max_num_batched_tokens": window_tokens * (2 if on_cpu else 16),
        **spec.model_options.engine_settings,
    }
    if on_cpu:
        settings["enforce_eager"] = True  # no slower, and loads in half the time
    settings.update(spec.engine_args)
    # After the user's, because it is sized for the sequences that there will be.
    if on_cpu and "kv_cache_memory_bytes" not in settings and "gpu_memory_utilization" not in settings:
        settings["kv_cache_memory_bytes"] = _kv_cache_bytes(spec, settings["max_num_seqs"])
    # Last, and refused to the user: without it Whisper's rules would not hold, and workers would outlive us.
    settings["logits_processors"] = [_LOGITS_PROCESSOR]
    if spec.word_timestamps:
        settings["worker_extension_cls"] = _WORKER_EXTENSION
    return settings


def encoder_cache_bytes(spec: EngineSpec, max_num_seqs: int) -> int:
    """Bytes of encoder outputs that may be kept until words have their times; 0 where none are wanted.

    By default as many as there are windows between being encoded and being done, so that none is encoded twice."""
    if not spec.word_timestamps:
        return 0
    if spec.encoder_cache_mb is not None:
        return spec.encoder_cache_mb * 10**6
    per_window = _ENCODER_TOKENS * spec.checkpoint.config.get("d_model", 1024) * _DTYPE_BYTES[spec.dtype]
    return per_window * (max_num_seqs + _WINDOWS_BEHIND)


def alignment_bytes(spec: EngineSpec, num_windows: int) -> int:
    """Bytes that one call which times words takes for a moment: most of it for the scores of a layer's heads."""
    if not spec.word_timestamps:
        return 0
    config, width = spec.checkpoint.config, _DTYPE_BYTES[spec.dtype]
    tokens, size = config.get("max_target_positions", 448), config.get("d_model", 1024)
    heads_of = Counter(layer for layer, _ in spec.prompts.alignment_heads)
    per_head = _ENCODER_TOKENS * (4 * tokens + 4 * size // config.get("decoder_attention_heads", 16))
    # Encoder outputs, of a layer keys and values of them, what is made of the scores, and the tokens' own: 12 widths.
    per_window = max(heads_of.values()) * per_head + _ENCODER_TOKENS * (3 * size * width + 4 * tokens)
    per_window += 12 * tokens * size * width
    # Once most of that is free again, and of one window at a time: how likely each token of the vocabulary is.
    logits = tokens * config.get("vocab_size", 51866) * (width + 8) if spec.aligns else 0
    of_one_head = 8 * 4 * tokens * _ENCODER_TOKENS
    return max(num_windows * per_window, num_windows * per_window // 2 + logits) + of_one_head


def _kv_cache_bytes(spec: EngineSpec, max_num_seqs: int) -> int:
    """Bytes that hold the keys and values of `max_num_seqs` full windows, text and audio; at most half of what is free.

    vLLM's own default on a CPU is a share of the whole machine, which fails wherever something else is running.
    """
    width, memory_bytes, capabilities = _DTYPE_BYTES[spec.dtype], spec.device.memory_bytes, spec.capabilities
    slack = 64 * 2**20  # blocks are rounded up, per sequence and per layer group
    least = 128 * 2**20
    if capabilities.is_whisper:
        config = spec.checkpoint.config
        bytes_per_token = 2 * config.get("decoder_layers", 12) * config.get("d_model", 1024) * width
        tokens = config.get("max_target_positions", 448) + _ENCODER_TOKENS
    else:
        bytes_per_token = capabilities.kv_bytes_per_token * width
        tokens = capabilities.window_tokens + spec.max_tokens
        # vLLM does not start without place for one sequence of any length.
        least = max(least, int(bytes_per_token * capabilities.max_model_len * 1.05) + slack)
    # Less what is kept beside it.
    memory_bytes = max(0, memory_bytes - encoder_cache_bytes(spec, max_num_seqs))
    wanted = int(bytes_per_token * tokens * max_num_seqs * 1.25) + slack
    return max(least, min(wanted, memory_bytes // 2) if memory_bytes else wanted)
