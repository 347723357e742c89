"""Environment variables vLLM reads while it is imported; set before that, and only where the user has not set them."""

import os


def configure(*, mode: str, device_kind: str) -> None:
    """Prepares this process for `import vllm`.

    vLLM logs to standard output unless told otherwise, which belongs to results; it goes to standard error, which the
    caller points at a log file.
    """
    defaults = {
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # fork after threads and CUDA have started is a deadlock in waiting
        "TOKENIZERS_PARALLELISM": "false",
    }
    if device_kind == "cpu":
        # Nothing is compiled in eager mode but the logprob kernel, which costs 18 s at the first request that asks.
        defaults["TORCH_COMPILE_DISABLE"] = "1"
        # Pinned threads would leave one of two cores idle (measured: 1.3 times slower).
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # Not a default: which of the two ways runs is our choice, recorded in the run record.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if mode == "process" else "0"
