"""One small real recording in every container that asrbatch reads, for scripts/fuzz_audio.py to damage."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import soxr

RATE = 16000
# Name: (libsndfile's container, encoding, channels).
BY_LIBSNDFILE = {
    "wav u8": ("WAV", "PCM_U8", 1), "wav 16": ("WAV", "PCM_16", 2), "wav 24": ("WAV", "PCM_24", 1),
    "wav float": ("WAV", "FLOAT", 1), "wav double": ("WAV", "DOUBLE", 1), "wav ulaw": ("WAV", "ULAW", 1),
    "wav ima": ("WAV", "IMA_ADPCM", 1), "wav ms adpcm": ("WAV", "MS_ADPCM", 2), "wav gsm": ("WAV", "GSM610", 1),
    "wavex": ("WAVEX", "PCM_16", 3), "rf64": ("RF64", "PCM_16", 1), "w64": ("W64", "PCM_16", 1),
    "w64 ima": ("W64", "IMA_ADPCM", 1), "flac 16": ("FLAC", "PCM_16", 2), "flac 24": ("FLAC", "PCM_24", 1),
    "aiff": ("AIFF", "PCM_16", 2), "aiff float": ("AIFF", "FLOAT", 1), "au": ("AU", "PCM_16", 1),
    "au g721": ("AU", "G721_32", 1), "caf": ("CAF", "PCM_16", 1), "caf alac": ("CAF", "ALAC_16", 2),
    "nist": ("NIST", "PCM_16", 1), "nist ulaw": ("NIST", "ULAW", 1), "ogg vorbis": ("OGG", "VORBIS", 1),
    "ogg opus sf": ("OGG", "OPUS", 2), "mp3 sf": ("MP3", None, 1),
    "voc": ("VOC", "PCM_16", 1), "svx": ("SVX", "PCM_16", 1), "paf": ("PAF", "PCM_24", 1), "ircam": ("IRCAM",
    "PCM_16", 1),
    "avr": ("AVR", "PCM_16", 1), "htk": ("HTK", "PCM_16", 1), "mat5": ("MAT5", "PCM_16", 1), "mat4": ("MAT4",
    "PCM_16", 1),
    "pvf": ("PVF", "PCM_16", 1), "sds": ("SDS", "PCM_16", 1), "xi": ("XI", "DPCM_16", 1), "mpc2k": ("MPC2K", "PCM_16",
    1),
}  # fmt: skip
# Name: (FFmpeg's container, codec, rate, options of the container).
BY_FFMPEG = {
    "m4a aac": ("mp4", "aac", 44100, {}), "m4a fragments": ("mp4", "aac", 16000,
    {"movflags": "frag_keyframe+empty_moov"}),
    "m4a alac": ("ipod", "alac", 16000, {}), "mov pcm": ("mov", "pcm_s16le", 16000, {}), "3gp aac": ("3gp", "aac",
    16000, {}),
    "webm opus": ("webm", "libopus", 48000, {}), "webm vorbis": ("webm", "libvorbis", 48000, {}),
    "mkv flac": ("matroska", "flac", 16000, {}), "mkv aac": ("matroska", "aac", 16000, {}),
    "opus": ("ogg", "libopus", 48000, {}), "ogg flac": ("ogg", "flac", 16000, {}),
    "ogg speex": ("ogg", "libspeex", 16000, {}), "aac adts": ("adts", "aac", 16000, {}),
    "mp3": ("mp3", "libmp3lame", 44100, {}),
    "mp3 bare": ("mp3", "libmp3lame", 16000, {"write_xing": "0", "id3v2_version": "0"}), "mp2": ("mp2", "mp2", 44100,
    {}),
    "mp3 in wav": ("wav", "libmp3lame", 16000, {}), "wav s64": ("wav", "pcm_s64le", 16000, {}),
    "mpegts aac": ("mpegts", "aac", 48000, {}), "avi pcm": ("avi", "pcm_s16le", 16000, {}),
    "avi mp3": ("avi", "libmp3lame", 16000, {}), "flv aac": ("flv", "aac", 44100, {}), "asf wma": ("asf", "wmav2",
    44100, {}),
    "aiff ffmpeg": ("aiff", "pcm_s16be", 16000, {}), "caf aac": ("caf", "aac", 44100, {}), "ac3": ("ac3", "ac3",
    48000, {}),
    "eac3": ("eac3", "eac3", 48000, {}), "wavpack": ("wv", "wavpack", 16000, {}), "tta": ("tta", "tta", 16000, {}),
    "amr nb": ("amr", "libopencore_amrnb", 8000, {}), "g722": ("g722", "g722", 16000, {}),
}  # fmt: skip


def make_seeds(samples: np.ndarray, folder: Path) -> dict[str, bytes]:
    """Files by name; those that the libraries at hand cannot write are left out.

    Args:
        samples: float32 at 16 kHz, mono; a second or two is enough.
        folder: for the files while they are written.
    """
    seeds = {}
    for name, (container, encoding, channels) in BY_LIBSNDFILE.items():
        path = folder / "seed"
        try:
            sound = np.stack([samples] * channels, axis=1) * 0.5
            with sf.SoundFile(path, "w", RATE, channels, encoding, format=container) as file:
                for block in np.array_split(sound, 8):
                    file.write(block)
        except (sf.LibsndfileError, ValueError):
            continue
        seeds[name] = path.read_bytes()
    for name, (container, codec, rate, options) in BY_FFMPEG.items():
        try:
            seeds[name] = _encode(samples, folder / "seed", container, codec, rate, options)
        except (av.FFmpegError, ValueError):
            continue
    (folder / "seed").unlink(missing_ok=True)
    return seeds


def left_out(seeds: Iterable[str]) -> list[str]:
    """Names of the files that the libraries at hand cannot write."""
    return [name for name in (*BY_LIBSNDFILE, *BY_FFMPEG) if name not in seeds]


def _encode(samples: np.ndarray, path: Path, container: str, codec: str, rate: int, options: dict[str, str]) -> bytes:
    with av.open(str(path), "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        if codec.startswith("wma"):  # it has no rate of its own choice
            stream.bit_rate = 64000
        values = soxr.resample(samples, RATE, rate).astype(np.float32)
        for start in range(0, len(values), rate):
            piece = av.AudioFrame.from_ndarray(values[None, start : start + rate], "flt", "mono")
            piece.sample_rate, piece.pts = rate, start
            for frame in av.AudioResampler(stream.codec_context.format, "mono", rate).resample(piece):
                frame.pts = start
                for packet in stream.encode(frame):
                    out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path.read_bytes()
