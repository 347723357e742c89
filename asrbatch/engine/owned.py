"""A vLLM logits processor that leaves every token as it is, and ends its process when asrbatch is gone.

For models without token rules of ours: a logits processor is the one place where code of ours runs in every worker, which would
otherwise outlive a killed asrbatch and keep the GPU's memory. Named to vLLM as `asrbatch.engine.owned:OwnedLogits`.
"""

from typing import Any

from .environment import die_with_owner
from .vllm_api import LogitsProcessor


class OwnedLogits(LogitsProcessor):
    """See the module docstring."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool):
        die_with_owner()

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        pass

    def apply(self, logits: Any) -> Any:
        return logits
