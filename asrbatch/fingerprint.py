"""What decides a run's rows, as one JSON object: two runs with equal fingerprints may share an output file.

Knows which choices change an answer and which only change its speed. The former are in; batch sizes, memory, threads,
in-flight bounds, engine mode, devices and logs are not.
"""

import hashlib
import json
from typing import Any

# Engine arguments that change speed, memory or logs alone. Any other that a user gives is part of the fingerprint.
SPEED_ONLY_ENGINE_ARGS = frozenset(
    """max_num_seqs max_num_batched_tokens gpu_memory_utilization kv_cache_memory_bytes block_size swap_space
    cpu_offload_gb enforce_eager compilation_config cudagraph_capture_sizes max_cudagraph_capture_size
    tensor_parallel_size pipeline_parallel_size data_parallel_size distributed_executor_backend
    max_parallel_loading_workers disable_custom_all_reduce async_scheduling enable_chunked_prefill
    enable_prefix_caching load_format download_dir num_gpu_blocks_override max_num_partial_prefills
    max_long_partial_prefills scheduling_policy worker_cls api_process_count numa_bind
    safetensors_load_strategy use_tqdm_on_load renderer_num_workers optimization_level""".split()
)


def fingerprint(
    *,
    rows_digest: str,
    num_rows: int,
    model_digest: str,
    revision: str | None,
    dtype: str,
    sampling: dict[str, Any],
    task: str,
    language: str | None,
    prompt: str | None,
    windows: str,
    engine_args: dict[str, Any],
) -> dict[str, Any]:
    """The fingerprint of a run; every value is plain JSON.

    Args:
        rows_digest: SHA-256 over the canonical manifest rows.
        model_digest: SHA-256 over the checkpoint's content.
        engine_args: what the user gave as `--engine-arg`.
    """
    return {
        "manifest": rows_digest,
        "num_rows": num_rows,
        "model": model_digest,
        "revision": revision,
        "dtype": dtype,
        "quantization": engine_args.get("quantization"),
        "sampling": sampling,
        "task": task,
        "language": language,
        "prompt": prompt,
        "windows": windows,
        "engine_args": {k: v for k, v in sorted(engine_args.items()) if k not in SPEED_ONLY_ENGINE_ARGS},
        "num_chunks": 1,
        "strategy": None,
    }


def digest(fingerprint: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON form."""
    canonical = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`name: old, now new` for every field that differs, nested ones by dotted name."""
    found = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}.{d}" for d in differences(old, new)]
        else:
            found.append(f"{name}: was {_short(old)}, now {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:24]}…"
