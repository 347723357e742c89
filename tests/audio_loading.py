"""All audio of a file at once, where the product streams it; for tests that compare whole recordings."""

from contextlib import closing
from dataclasses import dataclass

import numpy as np

from asrbatch.audio.clip import Clip
from asrbatch.audio.decoder import DecodedStream, Decoder
from asrbatch.audio.decoder_process import DecodeRequest
from asrbatch.audio.load import AudioStream, stream_audio


@dataclass(frozen=True)
class Audio:
    """1-D float32, mono; flags and seconds as the stream told them at its end."""

    samples: np.ndarray
    sample_rate: int
    flags: tuple[str, ...]
    read_s: float

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate


RATE = 16000


def request(
    source: str | bytes, *, name: str = "row 7", sample_rate: int = RATE, min_samples: int = 1, **clip
) -> DecodeRequest:
    """A request for a clip of a file, by the fields of all that it is made of."""
    return DecodeRequest(source, Clip(name, **clip), sample_rate, min_samples)


def load_audio(asked: DecodeRequest) -> Audio:
    """What it gives; raises what `stream_audio` does."""
    with closing(stream_audio(**vars(asked))) as stream:
        return whole(stream)


def decode(decoder: Decoder, request: DecodeRequest) -> Audio:
    """The same by a decoder's child process."""
    return whole(decoder.stream(request))


def whole(stream: AudioStream | DecodedStream) -> Audio:
    samples = np.concatenate(list(stream))
    return Audio(samples, stream.sample_rate, stream.flags, stream.read_s)
