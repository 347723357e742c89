"""Audio files in every container that is claimed, written by libsndfile and FFmpeg."""

from pathlib import Path

import av
import numpy as np
import soundfile as sf
import soxr

RATE = 16000
# (container, subtype) of libsndfile, and how far its samples may be from the original
EXACT = {
    ("WAV", "PCM_U8"): 2**-7, ("WAV", "PCM_16"): 2**-15, ("WAV", "PCM_24"): 2**-23, ("WAV", "PCM_32"): 2**-23,
    ("WAV", "FLOAT"): 0, ("WAV", "DOUBLE"): 0, ("WAV", "ULAW"): 0.03, ("WAV", "ALAW"): 0.03, ("WAV", "IMA_ADPCM"): 0.4,
    ("WAVEX", "PCM_16"): 2**-15, ("RF64", "PCM_16"): 2**-15, ("W64", "PCM_16"): 2**-15, ("FLAC", "PCM_16"): 2**-15,
    ("FLAC", "PCM_24"): 2**-23, ("AIFF", "PCM_16"): 2**-15, ("AU", "PCM_16"): 2**-15, ("CAF", "PCM_16"): 2**-15,
    ("CAF", "ALAC_16"): 2**-15, ("NIST", "PCM_16"): 2**-15,
}  # fmt: skip
# name: (container, codec, rate, samples that the codec puts before the sound and does not mark, timing is exact)
LOSSY = {
    "mp4": ("mp4", "aac", 44100, 0, True),
    "webm": ("webm", "libopus", 48000, 0, False),
    "mkv": ("matroska", "aac", 16000, 0, False),
    "opus": ("ogg", "libopus", 48000, 0, True),
    "adts": ("adts", "aac", 16000, 1024, True),
    "mp3": ("mp3", "libmp3lame", 44100, 0, True),
    "mp3 bare": ("mp3", "libmp3lame", 44100, 1105, True),
    "mp3 in wav": ("wav", "libmp3lame", 16000, 1105, True),
    "mp3 in ts": ("mpegts", "libmp3lame", 48000, 1105, True),
    "g722": ("g722", "g722", 16000, 22, True),
    "alac": ("mov", "alac", 16000, 0, True),
    "mov s32": ("mov", "pcm_s32le", 16000, 0, True),
    "mov f64": ("mov", "pcm_f64le", 16000, 0, True),
    "wav s64": ("wav", "pcm_s64le", 16000, 0, True),
    "avi u8": ("avi", "pcm_u8", 16000, 0, True),
}


def write(folder: Path, x: np.ndarray, container: str = "WAV", subtype: str | None = None, rate: int = RATE) -> str:
    path = folder / f"{container}-{subtype}-{rate}-{len(x)}-{x.ndim}.bin"  # no suffix that could help
    with sf.SoundFile(path, "w", rate, 1 if x.ndim == 1 else x.shape[1], subtype, format=container) as f:
        for block in np.array_split(x, max(1, len(x) // 8192)):  # the Vorbis encoder overflows its stack on long writes
            f.write(block)
    return str(path)


def encode(
    path: Path,
    x: np.ndarray,
    container: str,
    codec: str,
    rate: int,
    *,
    video=False,
    gap_at=None,
    gap_s=2,
    late_s=0,
    **options,
) -> str:
    """Writes (frames,) or (frames, channels) at 16 kHz through FFmpeg.

    `gap_at`: so many seconds of time stamps (`gap_s`) left out there; `late_s`: time of the first; of pictures it is 0.
    """
    x = x.reshape(len(x), -1)
    layout = {1: "mono", 2: "stereo", 8: "7.1", 24: "22.2"}[x.shape[1]]
    y = soxr.resample(x, RATE, rate) if rate != RATE else x
    with av.open(str(path), "w", format=container, options=options) as out:
        picture = out.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p") if video else None
        stream = out.add_stream(codec, rate=rate, layout=layout)
        shape = stream.codec_context.format
        for start in range(0, len(y), rate):
            piece = av.AudioFrame.from_ndarray(y[start : start + rate].reshape(1, -1), "flt", layout)
            piece.sample_rate, piece.pts = rate, start
            if picture:
                for packet in picture.encode(av.VideoFrame(64, 64, "yuv420p")):
                    out.mux(packet)
            for frame in av.AudioResampler(shape, layout, rate).resample(piece):
                frame.pts = (
                    late_s * rate + start + (gap_s * rate if gap_at is not None and start >= gap_at * rate else 0)
                )
                for packet in stream.encode(frame):
                    out.mux(packet)
        for packet in [*stream.encode(None), *(picture.encode(None) if picture else [])]:
            out.mux(packet)
    return str(path)
