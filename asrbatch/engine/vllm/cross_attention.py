"""The worker's side of word times: what Whisper's decoder looks at in the audio while it writes each token.

Loaded into vLLM's worker as its `worker_extension_cls`, and called by name through `collective_rpc`; what goes in and
out are plain lists, numbers and bytes. For vLLM's V1 model runner, which `engine/environment.py` sees to: there the
runner has a dictionary of encoder outputs, from which each is dropped one step after it was made. Ours also keeps them.

A finished answer is given to the decoder once more, all tokens at a time, by the engine's own weights, up to the last
layer that is looked at. Attention is torch's own here, because vLLM's works on its key-value cache, which has no room
for it; and beside it the scores of a few heads are computed, which fused attention never writes down.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from vllm.model_executor.models.whisper import WhisperForConditionalGeneration

MEDIAN_FRAMES = 7  # openai-whisper's width of the filter over time


class CrossAttentionWorker:
    """Methods that vLLM's worker is given."""

    def asrbatch_keep_encodings(self, heads: list[list[int]], max_bytes: int, silence: bytes | None) -> None:
        """Call once, when the engine is up and idle.

        Args:
            heads: layer and head of each that is looked at.
            max_bytes: of encoder outputs that are kept until their windows are aligned.
            silence: features of a window without sound, for `asrbatch_align_given`; None where that is not called.
        """
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

        runner: GPUModelRunner = self.model_runner
        if not isinstance(runner, GPUModelRunner) or not hasattr(runner, "encoder_cache"):
            raise RuntimeError(f"word times are made for vLLM's V1 model runner, and this is {type(runner).__name__}")
        kept = KeptEncodings(max_bytes)
        kept.update(runner.encoder_cache)
        runner.encoder_cache = kept
        self._asrbatch_aligner = Aligner(runner.get_model(), runner.device, heads, kept, silence)

    def asrbatch_align(self, windows: list[list[Any]], discarded: list[str]) -> list[bytes | None]:
        """Aligns finished windows; see `Aligner.align`. Forgets the outputs of `discarded` first."""
        for key in discarded:
            self._asrbatch_aligner.kept.discard(key)
        return self._asrbatch_aligner.align(windows) if windows else []

    def asrbatch_align_given(self, windows: list[list[Any]]) -> list[list[bytes]]:
        """Aligns windows whose texts were given; see `Aligner.align_given`."""
        return self._asrbatch_aligner.align_given(windows)


class KeptEncodings(dict):
    """vLLM's encoder cache, which also keeps each output until it is taken, as long as all of them fit into a bound.

    One that does not fit is not kept: to let an older one go for it would lose what is needed first. A window that is
    encoded again, because it was preempted or is asked at another temperature, takes its own place.

    Attributes:
        num_bytes: of all that is kept.
    """

    def __init__(self, max_bytes: int):
        super().__init__()
        self._max_bytes, self.num_bytes = max_bytes, 0
        self._kept: dict[str, torch.Tensor] = {}

    def __setitem__(self, key: str, encoding: torch.Tensor) -> None:
        super().__setitem__(key, encoding)
        self.discard(key)
        if self.num_bytes + encoding.nbytes <= self._max_bytes:
            # Several windows are encoded into one tensor, which any of them would keep in memory.
            is_shared = encoding.untyped_storage().nbytes() > encoding.nbytes
            self._kept[key] = encoding.clone() if is_shared else encoding
            self.num_bytes += encoding.nbytes

    def take(self, key: str) -> torch.Tensor | None:
        """The output of a window, which is kept no longer; None where it is not kept."""
        encoding = self._kept.pop(key, None)
        self.num_bytes -= 0 if encoding is None else encoding.nbytes
        return encoding

    def discard(self, key: str) -> None:
        self.take(key)


class Aligner:
    """Aligns windows with a model in this process.

    Args:
        model: vLLM's WhisperForConditionalGeneration.
        heads: layer and head of each that is looked at.
    """

    def __init__(
        self,
        model: "WhisperForConditionalGeneration",
        device: torch.device,
        heads: list[list[int]],
        kept: KeptEncodings,
        silence: bytes | None,
    ):
        self._model, self._device, self.kept = model, device, kept
        self._silence = None if silence is None else self._encode(silence)
        self._heads: dict[int, list[int]] = {}
        for layer, head in heads:
            self._heads.setdefault(layer, []).append(head)

    @torch.inference_mode()
    def align(self, windows: list[list[Any]]) -> list[bytes | None]:
        """One pass of the decoder over all windows.

        Args:
            windows: of each the key of its encoder output; its token ids; the first of them that has a row in the
                result, and how many have one; its number of encoder positions with audio; and its features as bytes,
                or None.

        Returns:
            For each window float32 [rows, positions] as bytes, how much a token looks at a place, beside other tokens.
            None where its encoder output is not kept and it came without features.
        """
        encodings = [self._encoding(key, features) for key, *_, features in windows]
        there = [n for n, encoding in enumerate(encodings) if encoding is not None]
        found: list[bytes | None] = [None] * len(windows)
        if not there:
            return found
        ids = self._padded([windows[n][1] for n in there])
        looks, _ = self.decode(ids, torch.stack([encodings[n] for n in there]), [windows[n] for n in there])
        for n, of_window in zip(there, looks, strict=True):
            found[n] = _as_bytes(of_window)
        return found

    @torch.inference_mode()
    def align_given(self, windows: list[list[Any]]) -> list[list[bytes]]:
        """The same of texts that nobody decoded; and how likely they are, with their audio and with silence.

        Args:
            windows: as `align` takes them, all with features.

        Returns:
            For each window what `align` returns; and twice float32 [text tokens] as bytes, natural logarithms of their
            probabilities: with the window's audio, and with silence.
        """
        ids = self._padded([window[1] for window in windows])
        encodings = torch.stack([self._encode(features) for *_, features in windows])
        looks, heard = self.decode(ids, encodings, windows, is_whole=True)
        _, unheard = self.decode(ids, self._silence.expand_as(encodings), (), is_whole=True)
        return [
            [_as_bytes(looks[row]), *(self._logprobs(hidden[row], window) for hidden in (heard, unheard))]
            for row, window in enumerate(windows)
        ]

    def _logprobs(self, hidden: torch.Tensor, window: list[Any]) -> bytes:
        _, token_ids, first, num_rows, *_ = window
        # A token is decided where the one before it is read; the last row is that of the end token.
        logits = self._model.compute_logits(hidden[first : first + num_rows - 1]).float()
        chosen = torch.tensor(token_ids[first + 1 : first + num_rows], device=logits.device)
        return _as_bytes(logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0])

    def _padded(self, windows: list[list[int]]) -> torch.Tensor:
        """Token ids of windows, [windows, longest]. Padding stands behind what counts, which does not look at it."""
        ids = torch.zeros((len(windows), max(map(len, windows))), dtype=torch.long)
        for row, token_ids in enumerate(windows):
            ids[row, : len(token_ids)] = torch.tensor(token_ids)
        return ids.to(self._device)

    def _encoding(self, key: str, features: bytes | None) -> torch.Tensor | None:
        if (kept := self.kept.take(key)) is not None or features is None:
            return kept
        return self._encode(features)

    @torch.inference_mode()
    def _encode(self, features: bytes) -> torch.Tensor:
        mel = torch.frombuffer(bytearray(features), dtype=self._model.dtype).view(self._model.config.num_mel_bins, -1)
        (encoding,) = self._model.embed_multimodal(input_features=mel.to(self._device)[None])
        return encoding

    def decode(
        self, ids: torch.Tensor, encodings: torch.Tensor, windows: Sequence[list[Any]], *, is_whole: bool = False
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The decoder up to the last heads that are looked at, or all of it.

        Args:
            windows: whose looks are wanted, as `align` takes them; all of `ids`, or none.

        Returns:
            For each window float32 [rows, positions], as `align` returns it. And what the decoder makes of each token,
            [windows, tokens, width]; of no meaning where it is not whole.
        """
        decoder = self._model.model.decoder
        batch, length = ids.shape
        # Of one layer at a time: the scores of all of a large model would be gigabytes.
        # A text that was cut off at the decoder's end has a row less.
        sizes = [(min(num_rows, len(i) - first), places) for _, i, first, num_rows, places, _ in windows]
        looks = [torch.zeros(size, device=ids.device) for size in sizes]
        positions = torch.arange(length, device=ids.device).repeat(batch)
        # vLLM's modules take all tokens in a row.
        hidden = decoder.embed_input_ids(ids.flatten()) + decoder.embed_positions(positions)
        audio, last = encodings.flatten(0, 1), max(self._heads)
        for number, layer in enumerate(decoder.layers if is_whole else decoder.layers[: last + 1]):
            own, cross = layer.self_attn, layer.encoder_attn
            qkv = own.qkv_proj(layer.self_attn_layer_norm(hidden))[0].split([own.q_size, own.kv_size, own.kv_size], -1)
            hidden = hidden + own.out_proj(_attend(own, batch, *qkv, is_causal=True))[0]
            queries = cross.q_proj(layer.encoder_attn_layer_norm(hidden))[0]
            keys, values = cross.kv_proj(audio)[0].split([cross.kv_size, cross.kv_size], -1)
            if looks and number in self._heads:
                _add_looks_of_layer(looks, _scores_of(cross, batch, queries, keys, self._heads[number]), windows)
            if number < last or is_whole:
                hidden = hidden + cross.out_proj(_attend(cross, batch, queries, keys, values, is_causal=False))[0]
                hidden = hidden + layer.mlp(layer.final_layer_norm(hidden))
        num_heads = sum(map(len, self._heads.values()))
        return [of_window / num_heads for of_window in looks], decoder.layer_norm(hidden).view(batch, length, -1)


def _as_bytes(values: torch.Tensor) -> bytes:
    return values.cpu().numpy().tobytes()


def _by_head(attention: Any, batch: int, rows: torch.Tensor) -> torch.Tensor:
    """[windows * n, heads * size] to [windows, heads, n, size]."""
    return rows.view(batch, -1, attention.num_heads, attention.head_dim).transpose(1, 2)


def _attend(attention: Any, batch: int, *qkv: torch.Tensor, is_causal: bool) -> torch.Tensor:
    queries, keys, values = (_by_head(attention, batch, rows) for rows in qkv)
    attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=is_causal, scale=attention.scaling)
    return attended.transpose(1, 2).flatten(2).flatten(0, 1)


def _scores_of(attention: Any, batch: int, queries: torch.Tensor, keys: torch.Tensor, heads: list[int]) -> torch.Tensor:
    # In float32 whatever the model computes in: scores of 20 and more are exponents.
    wanted, audio = (_by_head(attention, batch, rows)[:, heads].float() for rows in (queries, keys))
    return (wanted * attention.scaling) @ audio.transpose(-1, -2)


def _add_looks_of_layer(looks: list[torch.Tensor], scores: torch.Tensor, windows: Sequence[list[Any]]) -> None:
    # A function of its own, which lets the scores go before those of the next layer are made.
    for of_window, scores_of_window, (_, token_ids, first, num_rows, num_positions, _) in zip(
        looks, scores, windows, strict=True
    ):
        rows = slice(first, first + num_rows)
        add_looks(of_window, scores_of_window[:, : len(token_ids), :num_positions], rows)


def add_looks(looks: torch.Tensor, scores: torch.Tensor, rows: slice) -> None:
    """Adds how much tokens look at each place beside other tokens, over the heads of one layer; in place.

    The way of openai-whisper's `timing.py`: softmax over places, each place standardised over tokens, a median over
    time against single frames; the mean of the heads is its result.

    Args:
        looks: float32 [tokens that are wanted, places].
        scores: of one window before the softmax, float32 [heads, tokens, places].
        rows: tokens that are wanted.
    """
    # Head by head: so that on a CPU what is worked on stays in its cache.
    for head in scores:
        looks += median_over_time(_standardised(head)[rows])


def _standardised(scores: torch.Tensor) -> torch.Tensor:
    weights = scores.softmax(dim=-1)
    weights -= weights.mean(dim=0)
    # Not `std`, whose way along this dimension takes five times as long on a CPU.
    deviation = torch.linalg.vector_norm(weights, dim=0).div_(math.sqrt(len(weights)))
    return weights.div_(deviation.clamp_(min=torch.finfo(weights.dtype).tiny))


def median_over_time(values: torch.Tensor) -> torch.Tensor:
    """The median of each value and the three on both sides of it; at an end the others are mirrored. float
    [..., places], of at least 4; fewer stay as they are.

    By minima and maxima of whole rows, which share the work of neighbours; sorting each seven takes ten times as long.
    """
    side = MEDIAN_FRAMES // 2
    if values.shape[-1] <= side:
        return values
    length = values.shape[-1]
    x = F.pad(values.flatten(0, -2)[None], (side, side), mode="reflect")[0].view(*values.shape[:-1], -1)
    low, high = torch.minimum(x[..., :-1], x[..., 1:]), torch.maximum(x[..., :-1], x[..., 1:])  # of each and the next

    def at(row: torch.Tensor, begin: int) -> torch.Tensor:
        return row[..., begin : begin + length]

    # The first four in order: two pairs, merged.
    least, most = torch.minimum(at(low, 0), at(low, 2)), torch.maximum(at(high, 0), at(high, 2))
    one, other = torch.maximum(at(low, 0), at(low, 2)), torch.minimum(at(high, 0), at(high, 2))
    second, third = torch.minimum(one, other), torch.maximum(one, other)
    # The last three in order: a pair and one more.
    last = at(x, 6)
    bottom, top = torch.minimum(at(low, 4), last), torch.maximum(at(high, 4), last)
    middle = torch.maximum(at(low, 4), torch.minimum(at(high, 4), last))
    # The fourth of all seven is the least of: the fourth of four, or the larger of i of four and 4 - i of three.
    found = torch.minimum(most, torch.maximum(least, top))
    found = torch.minimum(found, torch.maximum(second, middle))
    return torch.minimum(found, torch.maximum(third, bottom))
