"""Audio files as FFmpeg reads them: everything that is not PCM-like, and MP3 and Ogg. The only importer of av.

Sets PyAV's log level, which belongs to the whole process.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

import av
import numpy as np
from av import FFmpegError
from av.stream import Discard, Disposition

from asrbatch.audio import flac, mp3, ogg
from asrbatch.audio.clip import BLOCK_VALUES, LENGTH_SLACK_S, MIN_RATE, SILENCE_PEAK, Clip, DecodeError, Mixer
from asrbatch.audio.header import Header
from asrbatch.audio.pcm_layout import RangeReader

# What FFmpeg may recognise: files that hold sound themselves. Not the playlists and scripts that name other files or
# hosts (hls, concat, dash, sdp ...), nor headerless formats that accept any bytes (g722 is asked for by name).
FFMPEG_FORMATS = "mov,matroska,mp3,ogg,aac,wav,flac,aiff,au,caf,w64,asf,avi,flv,mpegts,mpeg,amr,ac3,eac3,ape,wv,tta"
MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # as FFmpeg names them
# An offset shorter than the first is decoded from the start; a longer one starts PREROLL_S early, because a decoder
# needs what came before (Opus settles in 0.08 s; an MP3 frame leans on up to nine others, 0.3 s).
SKIP_AFTER_S, PREROLL_S = 5.0, 1.0
# A jump in packet times larger than this is sound that was never sent (a muted microphone, a track that begins late)
# and becomes silence, so that times stay true; a smaller one is jitter. A jump back of a second is another clock: that
# of a file which was joined on.
MIN_GAP_S, RESTART_S = 0.1, 1.0
# A jump of less than a minute is believed; a larger one where it ends before the container's stated end, or within a
# day where that states none. What leads further is a broken clock.
SURE_GAP_S, MAX_GAP_S = 60.0, 24 * 3600.0
# Decoders that take what FFmpeg's own do not: frames without sound (SID, NO_DATA) of AMR with DTX.
DECODERS = {"amrnb": "libopencore_amrnb", "amrwb": "libopencore_amrwb"}

__all__ = ["FFmpegError", "FFmpegFile"]

av.logging.set_level(av.logging.PANIC)  # prints nothing, but errors then carry FFmpeg's own last words


class FFmpegFile:
    """A file that FFmpeg reads, one audio stream of it; attributes as in `sndfile.SndFile`, and:

    Attributes:
        track: which of its audio streams, from 0.
        num_tracks: how many it has.
        has_gaps: silence was filled in where the file has no packets; known once `blocks()` is exhausted.

    Time 0 is where the container begins: its first picture, if the sound begins later. Priming samples that the file
    marks as such are cut by FFmpeg.
    """

    def __init__(self, file: BinaryIO, clip: Clip, stack: ExitStack, format: str | None = None):
        self.clip, self.rate, self.length, self.slack, self.end = clip, MIN_RATE, None, 0, 0
        self.mixer, self.has_gaps, self.cut_off = Mixer(clip), False, ogg.ends_inside_page(file)
        mp3_length, sound_end = mp3.stated_length(file), mp3.end_of_sound(file)
        parts = ogg.parts(file) or flac.parts(file) if sound_end is None else [(0, sound_end)]
        self.later_parts = [RangeReader(file, [part]) for part in parts[1:]]
        if parts:
            file = RangeReader(file, parts[:1])
        self.num_errors = av.logging.get_last_error()[0]
        self.container = stack.enter_context(_open(file, format))
        self.track, self.num_tracks = clip.track or 0, len(self.container.streams.audio)
        if not self.num_tracks:
            raise DecodeError("it holds no audio stream")
        clip.check_track(self.num_tracks)
        if clip.track is None and self.num_tracks > 1:
            self.track = _choose_track(file, self.container.streams.audio, format)
            self.container = stack.enter_context(_open(file, format))  # its place in the file has moved meanwhile
        self.kind = self.container.format.name
        self.stream = self.container.streams.audio[self.track]
        for other in self.container.streams:
            if other is not self.stream:
                other.discard = Discard.all  # do not even read the video
        self.decoder = _decoder_of(self.stream)
        self.packets = self._demux()
        self.frames = self._decode(self.packets)
        self.first = next(self.frames, None)
        if self.first is None:
            return
        self.rate, self.tick = self.first.sample_rate, self.first.time_base or self.stream.time_base
        self.frames_per_tick = float(self.tick * self.rate)
        self.origin = self.first.pts or 0
        if len(self.container.streams) > 1 and self.container.start_time is not None:
            self.origin = min(self.origin, round(self.container.start_time / av.time_base / self.tick))
        self.slack = round(LENGTH_SLACK_S * self.rate)
        self._find_length(mp3_length)

    def _find_length(self, mp3_length: int | None) -> None:
        """By its last page or its index; of some containers FFmpeg divides the size by the bit rate."""
        self.stated_length, begin = None, self._place(self.first.pts or 0)
        if self.stream.duration:
            self.stated_length = begin + round(self.stream.duration * self.stream.time_base * self.rate)
        elif self.container.duration:
            self.stated_length = round(self.container.duration * self.rate / av.time_base)
        if self.kind == MOV and self.stream.duration:
            self.length = self.stated_length
        elif self.kind == "mp3" and mp3_length is not None:
            self.length = self.stated_length = mp3_length
        elif self.kind == MATROSKA and len(self.container.streams) == 1 and self.container.duration:
            # Of the whole recording, in which the sound may begin late.
            self.length = round((self.container.duration / av.time_base - self.origin * self.tick) * self.rate)

    def header(self) -> Header:
        codec, container = self.stream.codec_context.codec.canonical_name, self.kind.split(",")[0]
        what = codec if container in codec else f"{container} {codec}"
        if self.first is None:
            return Header(what, self.rate, 1, 0, 0)
        channels, is_exact = self.first.layout.nb_channels, self.length is not None or self.kind == "ogg"
        length = self.stated_length if self.length is None else self.length
        if self.later_parts:
            length, is_exact = None, False
        of_file = is_exact, self.cut_off, self.slack, self.num_tracks, tuple(self.flags())
        return Header(what, self.rate, channels, length, length, *of_file)

    def blocks(self) -> Iterator[np.ndarray]:
        """1-D float32 mono at `rate`, from the start of the clip to the end of the file."""
        if self.first is None:
            return
        start, stop = self.clip.start(self.rate), self.clip.stop(self.rate)
        position, frames = 0, itertools.chain([self.first], self.frames, *map(_decode_part, self.later_parts))
        if start > SKIP_AFTER_S * self.rate and not self.later_parts:
            position, frames = self._skip_to(start)
        waiting, num_waiting = [], 0
        for piece in self._with_silence(position, frames):
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

    def flags(self) -> list[str]:
        """What had to be done to hear it; complete once `blocks()` is exhausted. See `load.AudioStream`."""
        has_others = self.num_tracks > 1
        marks = {"gap_filled": self.has_gaps, "other_tracks": has_others, "channels_cancel": self.mixer.cancels}
        return [flag for flag, is_so in marks.items() if is_so]

    def _with_silence(self, position: int, frames: Iterator[av.AudioFrame]) -> Iterator[np.ndarray]:
        """Mono samples at `rate` from `position` on, one after another; with zeros where no packets were sent."""
        for frame in self._at_one_rate(frames):
            gap = 0 if frame.pts is None else self._place(frame.pts) - position
            if gap < -RESTART_S * self.rate:
                self._restart(frame.pts, position)
                gap = 0
            if gap > MIN_GAP_S * self.rate:
                self._check_gap(position, gap)
                self.has_gaps = True
                for left in range(gap, 0, -BLOCK_VALUES):
                    yield np.zeros(min(left, BLOCK_VALUES), np.float32)
                position += gap
            samples = self.mixer(_to_float(frame))
            position += len(samples)
            yield samples

    def _restart(self, pts: int, position: int) -> None:
        """Another recording begins, whose clock is its own; and the end that was stated is that of the first."""
        self.origin, self.stated_length = pts - round(position / self.frames_per_tick), None

    def _check_gap(self, position: int, gap: int) -> None:
        stated = self.stated_length
        # Where it has gone on past its stated end already, that says nothing any more.
        most = position + MAX_GAP_S * self.rate if stated is None or stated < position else stated + self.slack
        if gap > SURE_GAP_S * self.rate and position + gap > most:
            raise DecodeError(
                f"damaged: after {position / self.rate:.2f} s its time stamps jump by {gap / self.rate:.0f} s"
            )

    def _at_one_rate(self, frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
        """All frames at the rate of the first: another recording may have been joined on, or a phone call changed."""
        resampler, rate = None, self.rate
        for frame in itertools.chain(frames, [None]):
            if resampler is not None and (frame is None or frame.sample_rate != rate):
                yield from _without_time(resampler.resample(None))
                resampler = None
            if frame is None:
                return
            rate = frame.sample_rate
            if rate == self.rate:
                yield frame
                continue
            resampler = resampler or av.AudioResampler("flt", frame.layout, self.rate)
            yield from _without_time(resampler.resample(frame))

    def _place(self, pts: int) -> int:
        """The frame of the file that a time stamp means."""
        return round((pts - self.origin) * self.frames_per_tick)

    def _skip_to(self, start: int) -> tuple[int, Iterator[av.AudioFrame]]:
        """The place of a frame before `start`, and the frames from there on, without decoding what lies before.

        By the index where there is an exact one. Otherwise packets are passed over (1.4 us each), because FFmpeg
        guesses where to seek in MP3 or ADTS.
        """
        packets, wake_s = self.packets, start / self.rate - PREROLL_S
        is_indexed = self.kind in (MOV, MATROSKA) and (self.stated_length is None or start <= self.stated_length)
        if is_indexed:
            wake = self.origin + int(wake_s / self.tick)
            for target in (wake, self.origin):  # a broken index may lead too far: then from the start
                self.container.seek(target, stream=self.stream)
                packets = self._demux()
                packet = next(packets)
                if packet.pts is not None and packet.pts <= wake:
                    break
            packets = itertools.chain([packet], packets)
        else:
            (self.decoder or self.stream.codec_context).flush_buffers()
        end = self.first.samples
        for packet in packets:
            if packet.pts is None:  # the end of the file
                break
            if self._place(packet.pts) < end - RESTART_S * self.rate:
                self._restart(packet.pts, end)
            after = self._place(packet.pts + (packet.duration or 0))
            if after > wake_s * self.rate:
                break
            end = after
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
                yield from (
                    packet.decode() if self.decoder is None else self.decoder.decode(packet if packet.size else None)
                )
            except av.InvalidDataError:
                # What lies between joined MP3 files, or behind one, is no sound: a tag, or zeros.
                if self.kind != "mp3" or mp3.is_frame(bytes(packet)):
                    raise
        if self.cut_off:
            raise DecodeError("cut off: it ends in the middle of an Ogg page")


class _Nameless:
    """A file without a name: FFmpeg guesses by names, and would let a playlist open the files beside it."""

    def __init__(self, file: BinaryIO):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _decode_part(file: BinaryIO) -> Iterator[av.AudioFrame]:
    """All frames of the first audio stream, counted behind those of another part."""
    with _open(file, None) as container:
        for packet in container.demux(audio=0):
            yield from _without_time(packet.decode())


def _without_time(frames: list[av.AudioFrame]) -> list[av.AudioFrame]:
    """Time stamps of resampled frames count at the other rate."""
    for frame in frames:
        frame.pts = None
    return frames


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


def _open(file: BinaryIO, format: str | None) -> av.container.InputContainer:
    file.seek(0)
    allowed = {"protocol_whitelist": "none", "format_whitelist": format or FFMPEG_FORMATS}
    return av.open(_Nameless(file), format=format, metadata_errors="ignore", container_options=allowed)


def _choose_track(file: BinaryIO, tracks: Sequence[av.AudioStream], format: str | None) -> int:
    """Which of several audio streams to read: the default one, else the first that has sound."""
    in_order = sorted(range(len(tracks)), key=lambda at: not tracks[at].disposition & Disposition.default)
    return next((at for at in in_order if _has_sound(file, at, format)), in_order[0])


def _has_sound(file: BinaryIO, track: int, format: str | None) -> bool:
    with contextlib.suppress(FFmpegError, IndexError), _open(file, format) as container:
        stream = container.streams.audio[track]
        if stream.codec_context is not None:
            return any(_peak(frame) >= SILENCE_PEAK for packet in container.demux(stream) for frame in packet.decode())
    return False


def _peak(frame: av.AudioFrame) -> float:
    return np.abs(_to_float(frame)).max(initial=0.0)


def _decoder_of(stream: av.AudioStream) -> av.AudioCodecContext | None:
    """The decoder to use in place of FFmpeg's own; None for its own."""
    native = stream.codec_context
    if native is None:
        raise DecodeError("its sound is of a codec that no decoder here knows")
    if native.name not in DECODERS:
        return None
    decoder = av.CodecContext.create(DECODERS[native.name], "r")
    decoder.sample_rate, decoder.layout = native.sample_rate, native.layout
    return decoder
