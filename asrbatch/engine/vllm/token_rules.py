"""Whisper's rules for the next token, as a few tensor operations over all rows of a batch.

The rules are those of openai-whisper's `decoding.py` (`SuppressTokens`, `SuppressBlank`, `ApplyTimestampRules`). Knows
neither requests nor batches; `logits.py` follows those.
"""

from collections.abc import Callable

import numpy as np
import torch

from asrbatch.models.timestamps import NUM_TIMESTAMPS

_LATEST_OPENING = 50  # 1.0 s: a first timestamp after it is refused (openai-whisper's `max_initial_timestamp`)

# Rows of the table of timestamps. Row k forbids those before the k-th; these two follow.
_NONE, _OPENING = NUM_TIMESTAMPS, NUM_TIMESTAMPS + 1


class TokenRules:
    """The rules for one kind of request.

    Args:
        suppress: token ids that may never be generated.
        begin_suppress: token ids that may not be the first token of the text.
        first_timestamp: id of 0.00 s where the rules for timestamps hold, else None.
        end: id of `<|endoftext|>`; those below are text.
    """

    def __init__(self, *, suppress: list[int], begin_suppress: list[int], first_timestamp: int | None, end: int):
        self.first_timestamp, self._end = first_timestamp, end
        self._lists = suppress, begin_suppress
        self._suppress: torch.Tensor | None = None  # these three are made where the logits are

    def _settle(self, device: torch.device) -> None:
        self._suppress, self._begin = (torch.tensor(ids, dtype=torch.int64, device=device) for ids in self._lists)
        numbers = torch.arange(NUM_TIMESTAMPS, device=device)
        rows = torch.arange(NUM_TIMESTAMPS + 2, device=device)
        self._forbidden = numbers < rows[:, None]  # bool [which, timestamp]; row `_NONE` forbids all
        self._forbidden[_OPENING] = numbers > _LATEST_OPENING

    def apply(
        self,
        logits: torch.Tensor,
        num_text: np.ndarray,
        stamps: np.ndarray,
        last: np.ndarray,
        before: np.ndarray,
        send: Callable[[np.ndarray], torch.Tensor],
    ) -> None:
        """Forbids by minus infinity, in place.

        Args:
            logits: float32 [row, vocabulary].
            num_text: tokens after the forced ones; negative while some are missing, then anything may become of the
                row.
            stamps: the newest timestamp, counted from 0.00 s; -1 where there is none.
            last, before: whether the newest token and the one before it are timestamps.
            send: to the logits' device.
        """
        if self._suppress is None:
            self._settle(logits.device)
        logits.index_fill_(1, self._suppress, float("-inf"))
        if self.first_timestamp is None:
            begins = np.flatnonzero(num_text == 0)
            if len(begins):
                logits[send(begins)[:, None], self._begin] = float("-inf")
            return
        opens = num_text <= 0
        closed, closing = ~opens & last & before, ~opens & last & ~before
        which = np.select([opens, closed, closing], [_OPENING, _NONE, stamps], stamps + 1)
        no_text = np.where(opens | closing, np.float32("-inf"), np.float32(0))  # text is forbidden
        no_other = np.where(opens, np.float32("-inf"), np.float32(0))  # so are the end and the control tokens
        self._apply_timestamps(logits, send(which), send(np.stack([no_text, no_other])[:, :, None]))

    def _apply_timestamps(self, logits: torch.Tensor, which: torch.Tensor, penalties: torch.Tensor) -> None:
        """Which timestamps each row may have next, and whether it must be one.

        Args:
            which: int64 [row], into the table.
            penalties: float32 [2, row, 1], 0 or -inf: of text, and of all else that is no timestamp.
        """
        first, end = self.first_timestamp, self._end
        timestamps = logits[:, first : first + NUM_TIMESTAMPS]
        timestamps.masked_fill_(self._forbidden[which], float("-inf"))
        # Text; the end and the control tokens; what somebody has added to Whisper's vocabulary.
        others = [(logits[:, :end], penalties[0]), (logits[:, end:first], penalties[1])]
        if logits.shape[1] > first + NUM_TIMESTAMPS:
            others.append((logits[:, first + NUM_TIMESTAMPS :], penalties[0]))
        best = torch.cat([part.amax(1, keepdim=True) + penalty for part, penalty in others], 1).amax(1, keepdim=True)
        # The timestamps together are likelier than any other token: then one of them it is. (Whisper compares
        # probabilities; what turns logits into these is the same on both sides.)
        must = timestamps.logsumexp(1, keepdim=True) > best
        for part, penalty in others:
            part += penalty.masked_fill(must, float("-inf"))
