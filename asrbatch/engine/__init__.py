"""The vLLM engine behind four verbs: prepare features, submit a window, deliver its answer, close.

Two ways to run it, one interface (`base.Engine`): in a thread of this process, or in vLLM's own EngineCore process.
Which one is chosen per device, by measurement, in `settings.py`. `vllm_api.py`, `vllm_frontends.py` and `vllm_models.py` alone
import vllm; nothing is imported before an engine is really started.
"""

from .base import Engine, Failure, Question, Request
from .start import likely_fix, start_engine

__all__ = ["Engine", "Failure", "Question", "Request", "likely_fix", "start_engine"]
