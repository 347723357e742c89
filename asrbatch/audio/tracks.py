"""What FFmpeg is given to open, which of its audio tracks is read, and by which decoder. With `ffmpeg.py` the only
importer of av.
"""

import contextlib
from collections.abc import Sequence
from typing import BinaryIO

import av
import numpy as np
from av import FFmpegError
from av.stream import Discard, Disposition

from asrbatch.audio.clip import SILENCE_PEAK, DecodeError

# What FFmpeg may recognise: files that hold sound themselves. Not the playlists and scripts that name other files or
# hosts (hls, concat, dash, sdp ...), nor headerless formats that accept any bytes (g722 is asked for by name).
FFMPEG_FORMATS = "mov,matroska,mp3,ogg,aac,wav,flac,aiff,au,caf,w64,asf,avi,flv,mpegts,mpeg,amr,ac3,eac3,ape,wv,tta"
# Decoders that take what FFmpeg's own do not: frames without sound (SID, NO_DATA) of AMR with DTX.
DECODERS = {"amrnb": "libopencore_amrnb", "amrwb": "libopencore_amrwb"}


class _Nameless:
    """A file without a name: FFmpeg guesses by names, and would let a playlist open the files beside it."""

    def __init__(self, file: BinaryIO):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def open_container(file: BinaryIO, format: str | None) -> av.container.InputContainer:
    file.seek(0)
    av.logging.log(av.logging.ERROR, "asrbatch", "")  # or an error here bears FFmpeg's last words about another file
    allowed = {"protocol_whitelist": "none", "format_whitelist": format or FFMPEG_FORMATS}
    return av.open(_Nameless(file), format=format, metadata_errors="ignore", container_options=allowed)


def only_track(container: av.container.InputContainer, track: int) -> av.AudioStream:
    """An audio stream, and the others are not even read: video is."""
    stream = container.streams.audio[track]
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def choose_track(file: BinaryIO, tracks: Sequence[av.AudioStream], format: str | None, for_header: bool) -> int:
    """Which of several audio streams to read: the default one, else the first that has sound.

    Args:
        for_header: do not look for sound in a default one, which may begin hours later: that it can be decoded is
            enough.
    """
    is_default = [bool(track.disposition & Disposition.default) for track in tracks]
    in_order = sorted(range(len(tracks)), key=lambda at: not is_default[at])
    least = [0.0 if for_header and each else SILENCE_PEAK for each in is_default]
    return next((at for at in in_order if _has_sound(file, at, format, least[at])), in_order[0])


def _has_sound(file: BinaryIO, track: int, format: str | None, least: float) -> bool:
    """Whether a sample of it is so large."""
    with contextlib.suppress(FFmpegError, IndexError), open_container(file, format) as container:
        stream = only_track(container, track)
        if stream.codec_context is not None:
            return any(_peak(frame) >= least for packet in container.demux(stream) for frame in packet.decode())
    return False


def _peak(frame: av.AudioFrame) -> float:
    return np.abs(to_float(frame)).max(initial=0.0)


def to_float(frame: av.AudioFrame) -> np.ndarray:
    """(frames, channels) float32; integers scaled to [-1, 1)."""
    # PyAV 18 takes what follows the 8th plane in memory for a 9th, and has no arrays of 64-bit integers.
    if (frame.format.is_planar and frame.layout.nb_channels >= 8) or frame.format.packed.name == "s64":
        (frame,) = av.AudioResampler("flt").resample(frame)
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32, copy=False)


def decoder_of(stream: av.AudioStream) -> av.AudioCodecContext | None:
    """The decoder to use in place of FFmpeg's own; None for its own."""
    native = stream.codec_context
    if native is None:
        raise DecodeError("no decoder here knows its audio codec")
    if native.name not in DECODERS:
        return None
    decoder = av.CodecContext.create(DECODERS[native.name], "r")
    decoder.sample_rate, decoder.layout = native.sample_rate, native.layout
    return decoder
