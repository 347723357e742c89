"""The processes vLLM runs in: the environment variables it reads while it is imported, and that they end with us.

Starts an engine where a signal cannot hit it.

A signal's handler runs in the main thread, between any two of its steps. One that raises there while a library's C++ is
being imported or is building an engine can end the process with SIGABRT: an exception of Python's goes through code
that may not throw. So libraries start in another thread, and the main thread does nothing but wait, which may be
interrupted."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait

from asrbatch.child_process import WATCH_S, end_when, start_time
from asrbatch.engine.base import Engine
from asrbatch.errors import EngineStartError
from asrbatch.timeouts import waited

# Loading from a slow file system and compiling take minutes; an engine that takes longer than this hangs.
MOST_START_S = 1800.0
_OWNER = "ASRBATCH_PID"


def configure(*, mode: str, device_kind: str, plugins: Sequence[str] | None = None) -> None:
    """Prepares this process for `import vllm`.

    Args:
        plugins: the only plugins of vLLM's to be loaded, here and in processes it starts; None leaves that to the
            environment.

    vLLM logs to standard output unless told otherwise, which belongs to results; it goes to standard error, which the
    caller points at a log file.
    """
    defaults = {
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_LOGGING_LEVEL": "INFO",
        # vLLM would report each start to its authors over the network.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # fork after threads and CUDA have started is a deadlock in waiting
        "TOKENIZERS_PARALLELISM": "false",
        # --hang-timeout and `MOST_START_S` see to that; vLLM's minutes would count those of a suspended job as well.
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "604800",
        "VLLM_ENGINE_READY_TIMEOUT_S": "604800",
    }
    if device_kind == "cpu":
        # Nothing is compiled in eager mode but the logprob kernel, which costs 18 s at the first request that asks.
        defaults["TORCH_COMPILE_DISABLE"] = "1"
        # Pinned threads would leave one of two cores idle (measured: 1.3 times slower).
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    for name, value in defaults.items():
        # Somebody who has set one of vLLM's variables knows why.
        os.environ.setdefault(name, value)
    # Not a default: which of the two ways runs is our choice, recorded in the run record. It is made by the class that
    # is started (`vllm/api.py`). On a CPU this would only put the model into a third process, for threads that vLLM
    # pins, which we do not have: 7 s more of importing.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if mode == "process" and device_kind != "cpu" else "0"
    # Nor this: vLLM's second model runner, its choice on GPUs (0.33), takes no logits processors of this kind.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if plugins is not None:
        # Not as an argument: processes that vLLM starts load plugins, too, and inherit this.
        os.environ["VLLM_PLUGINS"] = ",".join(plugins)
    # For `die_with_owner`, in processes that know us by their environment alone.
    os.environ[_OWNER] = str(os.getpid())


@contextlib.contextmanager
def threads_for_ranks(ranks: int, device_kind: str) -> Iterator[None]:
    """While it lasts, each process that vLLM starts for a rank on CPUs is given its share of the cores.

    They are not pinned, so each would take all; and ranks that wait for each other spin (measured, two on two busy
    cores: six times slower)."""
    name = "OMP_NUM_THREADS"
    if device_kind != "cpu" or ranks == 1 or name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, len(os.sched_getaffinity(0)) // ranks))
    try:
        yield
    finally:
        del os.environ[name]


def die_with_owner() -> None:
    """Call in a process of vLLM's: ends it when the asrbatch that started it is gone.

    vLLM's processes outlive a killed parent and keep the GPU's memory, so that the same command cannot resume. A
    worker that ends takes its EngineCore along.
    """
    owner = int(os.environ.get(_OWNER, 0))
    if owner not in (0, os.getpid()):
        began = start_time(owner)
        end_when(lambda: time.sleep(WATCH_S) or _is_gone(owner, began))


def _is_gone(owner: int, began: str | None) -> bool:
    """Whether the process `owner` that began then (see `start_time`) has ended, and at most its number lives on.

    Not asked of `os.getppid`: between us and the owner may stand other processes of vLLM's.
    """
    if began is not None and (now := start_time(owner)) is not None:
        return now != began
    try:
        # Signal 0 is sent to nobody; it only asks whether there is such a process.
        os.kill(owner, 0)
    except (ProcessLookupError, PermissionError):  # the second: another user's, and the owner was ours
        return True
    return False


def start_aside(start: Callable[[], Engine], most_s: float, observe: Callable[[], None] = lambda: None) -> Engine:
    """Calls `start` in a thread of its own and waits for its engine.

    An exception raised in the waiting thread (Ctrl-C) leaves at once; an engine that comes up after that is closed.

    Args:
        observe: called about once a second in the waiting thread.

    Raises:
        EngineStartError: it was not up within so many seconds.
        BaseException: whatever `start` raised.
    """
    outcome: Future[Engine] = Future()

    def call() -> None:
        try:
            outcome.set_result(start())
        except BaseException as e:  # raised where somebody waits for it
            outcome.set_exception(e)

    threading.Thread(target=call, name="asrbatch-start", daemon=True).start()
    try:
        if not waited(lambda seconds: observe() or wait([outcome], seconds).done, most_s):
            raise EngineStartError(f"the engine did not start within {most_s:g} s")
        return outcome.result()
    except BaseException:
        # At once where the engine is there: whoever waits may be interrupted just when it is handed over.
        outcome.add_done_callback(lambda started: started.exception() or started.result().close())
        raise
