"""vLLM's logits processor of ours: makes Whisper choose its tokens as its authors' decoder does, and is a watchdog.

vLLM applies neither `suppress_tokens` nor `begin_suppress_tokens` of a checkpoint's generation config, nor Whisper's
rules for timestamps. All are enforced here (`token_rules.py`), and so are the control tokens that begin an answer
(`models.whisper.Controls`, which arrives in `SamplingParams.extra_args[CONTROLS_KEY]`). Runs wherever the engine's
worker runs, which may be another process; named to vLLM in `engine/settings.py`.

The rules need the values of the generated tokens. Under asynchronous scheduling the newest are placeholders at first;
vLLM fills in the real ones before it samples, because a custom logits processor is there
(`update_async_output_token_ids`, 0.26 to 0.33). What is kept of a row is brought up to date by its newest token alone,
for all rows at once: a step costs a batch of hundreds little more than a batch of one.

It is given to models without token rules, too: a logits processor is the one place where code of ours runs in every
worker, which would otherwise outlive a killed asrbatch and keep the GPU's memory."""

from dataclasses import dataclass

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

from asrbatch.engine.environment import die_with_owner
from asrbatch.engine.vllm.api import gather_few_logprobs_at_once
from asrbatch.engine.vllm.token_rules import TokenRules
from asrbatch.models.timestamps import NUM_TIMESTAMPS
from asrbatch.models.whisper import CONTROLS_KEY, Controls

# Columns of `WhisperLogitsProcessor._states`: how many tokens are forced, how many have been read, the newest timestamp
# (counted from 0.00 s; -1 before there is one), and whether the newest token and the one before it are timestamps.
_FORCED, _READ, _STAMP, _LAST, _BEFORE = range(5)


@dataclass
class _Row:
    """A row of the batch with controls. `output_ids` is vLLM's own list, which grows."""

    rules: TokenRules
    forced: list[tuple[int, ...]]
    output_ids: list[int]


@dataclass
class _RowGroup:
    """Rows that share their rules: in practice all of a batch."""

    rules: TokenRules
    indices: np.ndarray
    rows: list[_Row]


class WhisperLogitsProcessor(LogitsProcessor):
    """Whisper's token rules for the rows of a batch that came with controls; others stay as they are."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        self._device, self._pins = device, is_pin_memory
        self._rows: dict[int, _Row] = {}
        self._states = np.zeros((0, 5), np.int64)  # by batch row
        self._groups: list[_RowGroup] | None = None  # made of `_rows` when they have changed
        self._rules: dict[str, TokenRules] = {}  # a run has one or two, however many requests
        self._forced_ids: dict[tuple[int, ...], torch.Tensor] = {}
        die_with_owner()
        gather_few_logprobs_at_once()

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        controls = (sampling_params.extra_args or {}).get(CONTROLS_KEY)
        known = Controls().as_dict().keys()
        if controls is not None and set(controls) != known:
            raise ValueError(f"{CONTROLS_KEY} must hold {', '.join(known)}, not {sorted(controls)}")

    def is_argmax_invariant(self) -> bool:
        # vLLM asks those that say True only where it samples at random, and most requests are greedy.
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows the batch: rows are removed, added, then moved (vLLM's order)."""
        if batch_update is None:
            return
        self._groups = None
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _prompt_ids, output_ids in batch_update.added:
            controls = (params.extra_args or {}).get(CONTROLS_KEY)
            if controls is None:
                self._rows.pop(index, None)
            else:
                self._add(index, controls, output_ids)
        for source, target, direction in batch_update.moved:
            moved, displaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            # Otherwise the row that stood there has left the batch.
            if direction == MoveDirectionality.SWAP and displaced is not None:
                self._rows[source] = displaced
            self._grow(max(source, target))
            # In both directions: a state without a row is written anew before anybody reads it.
            self._states[[source, target]] = self._states[[target, source]]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """logits: (batch rows, vocabulary), float32; changed in place and returned."""
        if self._groups is None:
            self._groups = self._group()
        numbers = [self._advance(group) for group in self._groups]
        # Before the rules, which may forbid a control token; what is kept here is put back behind them.
        confined = self._confined(logits)
        for group, (num_text, stamps, last, before) in zip(self._groups, numbers, strict=True):
            part = logits if len(group.indices) == len(logits) else logits[self._send(group.indices)]
            group.rules.apply(part, num_text, stamps, last, before, self._send)
            # Indexing by rows has copied them.
            if part is not logits:
                logits[self._send(group.indices)] = part
        for rows, ids, kept in confined:
            logits.index_fill_(0, rows, float("-inf"))
            logits[rows[:, None], ids] = kept
        return logits

    def _confined(self, logits: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Rows whose next token is forced: their numbers, the ids allowed, and the model's logits of the best."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for group in self._groups or ():
            states = self._states[group.indices]
            for i in np.flatnonzero(states[:, _READ] < states[:, _FORCED]).tolist():
                allowed = group.rows[i].forced[states[i, _READ]]
                rows_of.setdefault(allowed, []).append(group.indices[i])
        confined = []
        for allowed, indices in rows_of.items():
            if allowed not in self._forced_ids:
                self._forced_ids[allowed] = torch.tensor(allowed, device=self._device)
            rows, ids = self._send(np.array(indices)), self._forced_ids[allowed]
            kept = logits[rows[:, None], ids]
            # The likeliest, whatever the temperature: a language is detected, not drawn.
            kept.masked_fill_(kept < kept.amax(1, keepdim=True), float("-inf"))
            confined.append((rows, ids, kept))
        return confined

    def _advance(self, group: _RowGroup) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Reads the newest token of each row; returns what `TokenRules.apply` wants to know."""
        states = self._states[group.indices]
        lengths = np.fromiter((len(row.output_ids) for row in group.rows), np.int64, len(group.rows))
        grown = lengths - states[:, _READ]
        if grown.any():
            newest = np.fromiter(
                (row.output_ids[-1] if row.output_ids else 0 for row in group.rows), np.int64, len(group.rows)
            )
            one_more = grown == 1
            _read(states, one_more, newest, group.rules)
            # Rows that come back after a preemption bring tokens along, and vLLM may take some back: those are read
            # anew.
            for i in np.flatnonzero(~one_more & (grown != 0)).tolist():
                states[i] = _unread(group.rows[i])
                for token in group.rows[i].output_ids:
                    _read(states[i : i + 1], np.ones(1, bool), np.array([token]), group.rules)
            self._states[group.indices] = states
        return lengths - states[:, _FORCED], states[:, _STAMP], states[:, _LAST] > 0, states[:, _BEFORE] > 0

    def _add(self, index: int, controls: dict, output_ids: list[int]) -> None:
        # Forced tokens differ with a row's language; its rules do not, and rows that share them go through as one.
        rules = {name: value for name, value in controls.items() if name != "forced"}
        key = repr(rules)
        if key not in self._rules:
            self._rules[key] = TokenRules(**rules)
        self._rows[index] = _Row(self._rules[key], [tuple(ids) for ids in controls["forced"]], output_ids)
        self._grow(index)
        self._states[index] = _unread(self._rows[index])

    def _grow(self, index: int) -> None:
        if index >= len(self._states):
            # By 64 rows at a time: a batch fills up row by row.
            self._states = np.concatenate([self._states, np.zeros((index + 64 - len(self._states), 5), np.int64)])

    def _group(self) -> list[_RowGroup]:
        indices_of: dict[int, list[int]] = {}
        for index, row in self._rows.items():
            indices_of.setdefault(id(row.rules), []).append(index)
        groups = []
        for indices in indices_of.values():
            indices.sort()
            rows = [self._rows[i] for i in indices]
            groups.append(_RowGroup(rows[0].rules, np.array(indices), rows))
        return groups

    def _send(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        # Only from pinned memory is the copy asynchronous.
        return (tensor.pin_memory() if self._pins else tensor).to(self._device, non_blocking=True)


def _unread(row: _Row) -> list[int]:
    """The state of a row none of whose tokens have been read. To Whisper's rules, what is not there
    yet is a timestamp.
    """
    return [len(row.forced), 0, -1, 1, 1]


def _read(states: np.ndarray, which: np.ndarray, tokens: np.ndarray, rules: TokenRules) -> None:
    """Takes one more token into the states of some rows."""
    counts = which & (states[:, _READ] >= states[:, _FORCED])
    states[:, _READ] += which
    if rules.first_timestamp is None:
        return
    stamps = tokens - rules.first_timestamp
    is_stamp = (stamps >= 0) & (stamps < NUM_TIMESTAMPS)
    states[:, _BEFORE] = np.where(counts, states[:, _LAST], states[:, _BEFORE])
    states[:, _LAST] = np.where(counts, is_stamp, states[:, _LAST])
    states[:, _STAMP] = np.where(counts & is_stamp, stamps, states[:, _STAMP])
