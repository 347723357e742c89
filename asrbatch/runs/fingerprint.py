"""What decides a run's rows, as one JSON object: two runs with equal fingerprints may share an output file.

Knows which choices change an answer and which only change its speed. The former are in; batch sizes, memory, threads,
in-flight bounds, engine mode, devices and logs are not.
"""

import hashlib
import json
import os
from typing import Any

from asrbatch.formatting import shorten
from asrbatch.manifest.sharding import Sharding

_SHOWN_CHARS = 61  # of each of two values that differ
# Engine arguments that change speed, memory, places or logs alone, over the vLLM versions asrbatch supports. Any other
# that a user gives is part of the fingerprint: `load_format`, for one, can mean random weights.
SPEED_ONLY_ENGINE_ARGS = frozenset((
    "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size",
    "swap_space",
    "cpu_offload_gb", "enforce_eager", "compilation_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size",
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
    "max_parallel_loading_workers", "disable_custom_all_reduce", "async_scheduling", "enable_chunked_prefill",
    "enable_prefix_caching", "download_dir", "hf_token", "num_gpu_blocks_override", "max_num_partial_prefills",
    "max_long_partial_prefills", "scheduling_policy", "numa_bind", "numa_bind_nodes", "numa_bind_cpus",
    "safetensors_load_strategy", "use_tqdm_on_load", "renderer_num_workers", "optimization_level",
    "device_ids", "nnodes", "node_rank", "master_addr", "master_port", "distributed_timeout_seconds",
    "data_parallel_rank", "data_parallel_start_rank", "data_parallel_size_local", "data_parallel_address",
    "data_parallel_rpc_port", "data_parallel_backend",
    "log_level", "log_config_file", "logging_config", "aggregate_engine_logging", "otlp_traces_endpoint",
))  # fmt: skip


def fingerprint(
    engine_args: dict[str, Any],
    sharding: Sharding | None = None,
    asked: dict[str, Any] | None = None,
    audio_folder: str | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """The fingerprint of a run; every value is plain JSON.

    Args:
        engine_args: what the user gave as `--engine-arg`; those that only change speed are left out.
        sharding: how rows are dealt out to chunks; None for a run in one piece.
        asked: how the model is asked, where that was chosen or the model is not Whisper.
        audio_folder: what relative paths are relative to, where that depends on where the run began and not on the
            manifest.
        choices: all else that decides the rows, by the name under which a difference is told.
    """
    elsewhere = SPEED_ONLY_ENGINE_ARGS | {"quantization"}  # which is a choice of its own
    return {
        **choices,
        "engine_args": {k: v for k, v in sorted(engine_args.items()) if k not in elsewhere},
        "num_chunks": sharding.num_chunks if sharding else 1,
        "strategy": sharding and sharding.strategy,
        "chunks": sharding and sharding.digest,
        # Fingerprints of before there were such choices are still those of runs without.
        **({"asked": asked} if asked else {}),
        **({"audio_folder": audio_folder} if audio_folder else {}),
    }


def digest(fingerprint: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON form."""
    return hashlib.sha256(_canonical(fingerprint).encode()).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`name: was old, now new` for every field that differs, nested ones by dotted name."""
    found = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if _canonical(old) == _canonical(new):  # as the digest sees them: 1 is not true, a tuple is a list
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}.{d}" for d in differences(old, new)]
        else:
            texts = json.dumps(old, ensure_ascii=False), json.dumps(new, ensure_ascii=False)
            was, is_now = (shorten(text, _SHOWN_CHARS, at=len(os.path.commonprefix(texts))) for text in texts)
            found.append(f"{name}: was {was}, now {is_now}")
    return found


def is_of_other_rules(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two runs differ in the version of asrbatch's rules for windows alone: in no manifest, model or option."""
    old, new = before.get("windows"), now.get("windows")
    if not isinstance(old, dict) or not isinstance(new, dict) or old.get("version") in (None, new["version"]):
        return False
    # What only the present rules look at, others did not note.
    windows = {**new, **old, "version": new["version"]}
    return _canonical(before | {"windows": windows}) == _canonical(now)


def _canonical(value: Any) -> str:
    # ASCII: half a surrogate pair, which a prompt may hold, has no UTF-8 to hash.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
