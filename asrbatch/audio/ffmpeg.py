"""Audio files as FFmpeg reads them: everything that is not PCM-like, and MP3 and Ogg. The only importer of av.

Sets PyAV's log level, which belongs to the whole process.
"""

import io
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

import av
import numpy as np
from av import FFmpegError
from av.stream import Discard

from asrbatch.audio.clip import BLOCK_VALUES, LENGTH_SLACK_S, MIN_RATE, Clip, DecodeError
from asrbatch.audio.header import Header

# What FFmpeg may recognise: files that hold sound themselves. Not the playlists and scripts that name other files or
# hosts (hls, concat, dash, sdp ...), nor headerless formats that accept any bytes (g722 is asked for by name).
FFMPEG_FORMATS = "mov,matroska,mp3,ogg,aac,wav,flac,aiff,au,caf,w64,asf,avi,flv,mpegts,mpeg,amr,ac3,eac3,ape,wv,tta"
MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # as FFmpeg names them
# An offset shorter than the first is decoded from the start; a longer one starts PREROLL_S early, because a decoder
# needs what came before (Opus settles in 0.08 s; an MP3 frame leans on up to nine others, 0.3 s).
SKIP_AFTER_S, PREROLL_S = 5.0, 1.0
# A jump in packet times between these two is sound that was never sent (a muted microphone) and becomes silence, so
# that times stay true; a smaller one is jitter, a larger one is another clock.
MIN_GAP_S, MAX_GAP_S = 0.1, 60.0

__all__ = ["FFmpegError", "FFmpegFile"]

av.logging.set_level(av.logging.PANIC)  # prints nothing, but errors then carry FFmpeg's own last words


class FFmpegFile:
    """A file that FFmpeg reads, the first audio stream of it; attributes as in `sndfile.SndFile`.

    Time 0 is the first sample that is heard: priming samples that the file marks as such are cut by FFmpeg.
    """

    def __init__(self, file: BinaryIO, clip: Clip, stack: ExitStack, format: str | None = None):
        self.clip, self.rate, self.length, self.slack, self.end = clip, MIN_RATE, None, 0, 0
        counted, self.cut_off = _mp3_counts_frames(file), _ends_inside_ogg_page(file)
        file.seek(0)
        allowed = {"protocol_whitelist": "none", "format_whitelist": format or FFMPEG_FORMATS}
        self.num_errors = av.logging.get_last_error()[0]
        container = av.open(_Nameless(file), format=format, metadata_errors="ignore", container_options=allowed)
        self.container = stack.enter_context(container)
        self.kind = container.format.name
        if not container.streams.audio:
            raise DecodeError("it holds no audio stream")
        self.stream = container.streams.audio[0]
        for other in container.streams:
            if other is not self.stream:
                other.discard = Discard.all  # do not even read the video
        self.packets = self._demux()
        self.frames = self._decode(self.packets)
        self.first = next(self.frames, None)
        if self.first is None:
            return
        self.rate, self.tick = self.first.sample_rate, self.first.time_base
        self.origin, self.frames_per_tick = self.first.pts or 0, float(self.tick * self.rate)
        self.slack = round(LENGTH_SLACK_S * self.rate)
        # By its last page or its index; of some containers FFmpeg divides the size by the bit rate.
        self.stated_length = None
        if self.stream.duration:
            self.stated_length = round(self.stream.duration * self.stream.time_base * self.rate)
        elif container.duration:
            self.stated_length = round(container.duration * self.rate / av.time_base)
        if (self.kind == MOV or (self.kind == "mp3" and counted)) and self.stream.duration:
            self.length = self.stated_length
        elif self.kind == MATROSKA and len(container.streams) == 1 and container.duration:
            # Of the whole recording, in which the sound may begin late.
            self.length = round((container.duration / av.time_base - self.origin * self.tick) * self.rate)

    def header(self) -> Header:
        codec, container = self.stream.codec_context.codec.canonical_name, self.kind.split(",")[0]
        what = codec if container in codec else f"{container} {codec}"
        if self.first is None:
            return Header(what, self.rate, 1, 0, 0)
        channels, is_exact = self.first.layout.nb_channels, self.length is not None or self.kind == "ogg"
        length = self.stated_length if self.length is None else self.length
        return Header(what, self.rate, channels, length, length, is_exact, self.cut_off, self.slack)

    def blocks(self) -> Iterator[np.ndarray]:
        """1-D float32 mono at `rate`, from the start of the clip to the end of the file."""
        if self.first is None:
            return
        start, stop = self.clip.start(self.rate), self.clip.stop(self.rate)
        position, frames = 0, itertools.chain([self.first], self.frames)
        if start > SKIP_AFTER_S * self.rate:
            position, frames = self._skip_to(start)
        waiting, num_waiting = [], 0
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise DecodeError(f"its sample rate changes from {self.rate} to {frame.sample_rate} Hz")
            pieces = [self.clip.mix(_to_float(frame))]
            gap = 0 if frame.pts is None else self._place(frame.pts) - position
            if MIN_GAP_S * self.rate < gap <= MAX_GAP_S * self.rate:
                pieces.insert(0, np.zeros(gap, np.float32))
            for piece in pieces:
                position += len(piece)
                if position > start:
                    waiting.append(piece[max(0, len(piece) - (position - start)) :])
                    num_waiting += len(waiting[-1])
            if num_waiting >= BLOCK_VALUES or position >= stop:  # and not a packet further: it may be a damaged one
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
        self.end = position
        if waiting:
            yield np.concatenate(waiting)

    def _place(self, pts: int) -> int:
        """The frame of the file that a time stamp means."""
        return round((pts - self.origin) * self.frames_per_tick)

    def _skip_to(self, start: int) -> tuple[int, Iterator[av.AudioFrame]]:
        """The place of a frame before `start`, and the frames from there on, without decoding what lies before.

        By the index where there is an exact one. Otherwise packets are passed over (1.4 us each), because FFmpeg
        guesses where to seek in MP3 or ADTS.
        """
        wake, packets = self.origin + int((start / self.rate - PREROLL_S) / self.tick), self.packets
        if self.kind in (MOV, MATROSKA):
            for target in (wake, self.origin):  # a broken index may lead too far: then from the start
                self.container.seek(target, stream=self.stream)
                packets = self._demux()
                packet = next(packets)
                if packet.pts is not None and packet.pts <= wake:
                    break
            packets = itertools.chain([packet], packets)
        else:
            self.stream.codec_context.flush_buffers()
        end = self.first.samples
        for packet in packets:
            if packet.pts is None or packet.pts + (packet.duration or 0) > wake:  # None: the end of the file
                break
            end = self._place(packet.pts + (packet.duration or 0))
        else:
            return end, iter(())
        frames = self._decode(itertools.chain([packet], packets))
        head, places, num_frames = [], [], 0
        for frame in frames:
            head.append(frame)
            if frame.pts is None:
                raise DecodeError("its packets carry no times by which to find the offset")
            places.append(self._place(frame.pts) - num_frames)
            num_frames += frame.samples
            if places[-1] + num_frames >= start:
                break
        # The median: time stamps are rounded (WebM: to 1 ms), and off by 10 ms where Vorbis changes its block size.
        place = sorted(places)[len(places) // 2] if places else end
        return min(place, start) if places else place, itertools.chain(head, frames)

    def _demux(self) -> Iterator[av.Packet]:
        try:
            yield from self.container.demux(self.stream)
        except IndexError as e:  # PyAV 18 does not expect it
            raise DecodeError("a new stream begins in the middle of it") from e

    def _decode(self, packets: Iterator[av.Packet]) -> Iterator[av.AudioFrame]:
        for packet in packets:
            if packet.is_corrupt:
                raise DecodeError("damaged or cut off: FFmpeg marks a packet as corrupt")
            if self.kind == "ogg" and av.logging.get_last_error()[0] != self.num_errors:  # it drops a page and goes on
                raise DecodeError(f"damaged: {av.logging.get_last_error()[1][2]}")
            try:
                yield from packet.decode()
            except av.InvalidDataError:
                if bytes(packet)[:3] not in (b"ID3", b"TAG", b"APE"):  # a tag between joined MP3 files is no sound
                    raise
        if self.cut_off:
            raise DecodeError("cut off: it ends in the middle of an Ogg page")


class _Nameless:
    """A file without a name: FFmpeg guesses by names, and would let a playlist open the files beside it."""

    def __init__(self, file: BinaryIO):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """(frames, channels) float32; integers scaled to [-1, 1)."""
    # PyAV 18 takes what follows the 8th plane in memory for a 9th, and has no arrays of 64-bit integers.
    if (frame.format.is_planar and frame.layout.nb_channels >= 8) or frame.format.packed.name == "s64":
        (frame,) = av.AudioResampler("flt").resample(frame)
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    scale = 2 ** (8 * values.dtype.itemsize - 1) if values.dtype.kind == "i" else 1
    return values.astype(np.float32, copy=False) / np.float32(scale)


def _mp3_counts_frames(file: BinaryIO) -> bool:
    """Whether an MP3 states its length: a Xing, Info or VBRI header in its first frame, behind any ID3v2 tag."""
    file.seek(0)
    head = file.read(10)
    has_tag = head[:3] == b"ID3" and len(head) == 10  # its size is in four bytes of seven bits
    file.seek(10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) if has_tag else 0)
    first = file.read(256)
    return any(word in first for word in (b"Xing", b"Info", b"VBRI"))


def _ends_inside_ogg_page(file: BinaryIO) -> bool:
    """Whether an Ogg file is cut off. (That it lacks an end-of-stream mark is no proof: live recordings do.)"""
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    file.seek(max(0, file.seek(0, io.SEEK_END) - (1 << 16)))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail[tail.rfind(b"OggS\0") :]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
