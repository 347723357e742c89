"""A vLLM logits processor that makes Whisper choose its tokens as its authors' decoder does.

vLLM applies neither `suppress_tokens` nor `begin_suppress_tokens` of a checkpoint's generation config; both are
enforced here, and so are the control tokens that begin an answer whose language is to be detected (`prompts.Controls`,
which arrives in `SamplingParams.extra_args[CONTROLS_KEY]`). Runs wherever the engine's worker runs, which may be another
process: named to vLLM as `asrbatch.engine.logits:WhisperLogits`.

Only the number of generated tokens is read, never their values: under asynchronous scheduling the newest are still
placeholders.
"""

import torch

from ..prompts import CONTROLS_KEY
from .environment import die_with_owner
from .vllm_api import LogitsProcessor, MoveDirectionality


class _Rules:
    """One `Controls`, with its masks on the device: float32 vectors over the vocabulary, 0 or -inf."""

    def __init__(self, controls: dict):
        self.forced: list[list[int]] = controls["forced"]
        self._suppress: list[int] = controls["suppress"]
        self._begin: list[int] = controls["suppress"] + controls["begin_suppress"]
        self._masks: dict[bool, torch.Tensor] = {}

    def mask(self, *, begins: bool, logits: torch.Tensor) -> torch.Tensor:
        if begins not in self._masks:
            mask = torch.zeros(logits.shape[-1], device=logits.device, dtype=torch.float32)
            mask[self._begin if begins else self._suppress] = float("-inf")
            self._masks[begins] = mask
        return self._masks[begins]


class WhisperLogits(LogitsProcessor):
    """See the module docstring. State: for each batch row with controls, its rules and its output token list."""

    def __init__(self, vllm_config, device: torch.device, is_pin_memory: bool):
        self._rows: dict[int, tuple[_Rules, list[int]]] = {}
        self._known: dict[str, _Rules] = {}  # a run has one or two, however many requests
        die_with_owner()  # the one place where code of ours runs in every worker

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        controls = (sampling_params.extra_args or {}).get(CONTROLS_KEY)
        if controls is not None and set(controls) != {"suppress", "begin_suppress", "forced"}:
            raise ValueError(f"{CONTROLS_KEY} must hold suppress, begin_suppress and forced, not {sorted(controls)}")

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update) -> None:
        """Follows the batch: rows are removed, added, then moved (vLLM's order)."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _prompt_ids, output_ids in batch_update.added:
            controls = (params.extra_args or {}).get(CONTROLS_KEY)
            if controls is None:
                self._rows.pop(index, None)
            else:
                self._rows[index] = (self._rules(controls), output_ids)
        for source, target, direction in batch_update.moved:
            moved, displaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if direction == MoveDirectionality.SWAP and displaced is not None:
                self._rows[source] = displaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """logits: (batch rows, vocabulary), float32; changed in place and returned."""
        masked: dict[tuple[_Rules, bool], list[int]] = {}
        for row, (rules, output_ids) in self._rows.items():
            position = len(output_ids)
            if position < len(rules.forced):
                _confine(logits[row], rules.forced[position])
            else:
                masked.setdefault((rules, position == len(rules.forced)), []).append(row)
        for (rules, begins), rows in masked.items():  # a few groups, however many rows
            mask = rules.mask(begins=begins, logits=logits)
            if len(rows) == logits.shape[0]:
                logits += mask
            else:
                logits[rows] += mask
        return logits

    def _rules(self, controls: dict) -> _Rules:
        key = repr(sorted(controls.items()))
        if key not in self._known:
            self._known[key] = _Rules(controls)
        return self._known[key]


def _confine(row: torch.Tensor, allowed: list[int]) -> None:
    kept = row[allowed]
    row.fill_(float("-inf"))
    row[allowed] = kept
