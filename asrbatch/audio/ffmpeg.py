"""Audio files as FFmpeg reads them: everything that is not PCM-like, and MP3 and Ogg.

Sets PyAV's log level, which belongs to the whole process.
"""

import io
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import BinaryIO

import av
import numpy as np
from av import FFmpegError

from asrbatch.audio.clip import BLOCK_VALUES, LENGTH_SLACK_S, MIN_RATE, Clip, DecodeError, Mixer, find_scale
from asrbatch.audio.containers import flac, mp3, ogg
from asrbatch.audio.containers.joined import amr_parts, matroska_parts, mov_parts
from asrbatch.audio.containers.pcm_layout import RangeReader, whole_file
from asrbatch.audio.header import Header
from asrbatch.audio.tracks import choose_track, decoder_of, only_track, open_container, to_float

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

# Samples that are those of the recording, and may be in the scale of integers.
FLOATS, LOSSLESS = ("flt", "dbl"), ("pcm_f", "wavpack")

# Where the files are that were joined to one, by kind of container.
PARTS = (ogg.parts, flac.parts, matroska_parts, mov_parts, amr_parts)
# How the containers begin of which FFmpeg reads one file alone, where another was joined on.
RESTARTS = {"flv": b"FLV\1", "tta": b"TTA1", "asf": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"}
ADTS_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # by code
_SEARCHED_BYTES = 1 << 16  # for that, behind the last packet

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

    def __init__(
        self, file: BinaryIO, clip: Clip, stack: ExitStack, format: str | None = None, *, for_header: bool = False
    ):
        self.clip, self.rate, self.length, self.slack, self.end = clip, MIN_RATE, None, 0, 0
        source, self.scale = file, np.float32(1)
        self.mixer, self.has_gaps, self.cut_off = Mixer(clip), False, ogg.ends_inside_page(file)
        (mp3_length, self.goes_on), sound_end = mp3.stated_length(file), mp3.end_of_sound(file)
        file, self.has_more = whole_file(file)
        parts = next(filter(None, (find(file) for find in PARTS)), []) if sound_end is None else [(0, sound_end)]
        self.later_parts = [RangeReader(file, [part]) for part in parts[1:]]
        if parts:
            file = RangeReader(file, parts[:1])
        self.file, self.read_to = file, 0
        self.container = stack.enter_context(open_container(file, format))
        self.track, self.num_tracks = clip.track or 0, len(self.container.streams.audio)
        if not self.num_tracks:
            raise DecodeError("it holds no audio stream")
        clip.check_track(self.num_tracks)
        if clip.track is None and self.num_tracks > 1:
            self.track = choose_track(file, self.container.streams.audio, format, for_header)
            # Its place in the file has moved meanwhile.
            self.container = stack.enter_context(open_container(file, format))
        self.kind = self.container.format.name
        self.stream = only_track(self.container, self.track)
        self.decoder = decoder_of(self.stream)
        self.packets, self.origin, self.first = self._demux(self.container, self.stream), 0, None
        self.frames = self._decode(self.packets, self.decoder, file)
        self.first = next(self.frames, None)
        if self.first is None:
            return
        self.rate, self.tick = self.first.sample_rate, self.first.time_base or self.stream.time_base
        self.frames_per_tick = float(self.tick * self.rate)
        self.origin = self._begin_of(self.container, self.first)
        self.slack = round(LENGTH_SLACK_S * self.rate)
        if self.first.format.name.startswith(FLOATS) and self.stream.codec_context.name.startswith(LOSSLESS):
            place = self.file.tell()  # which is that of `container`
            self.scale = find_scale(source, self.track, self._values(format))
            self.file.seek(place)
        self._find_length(mp3_length)

    def _find_length(self, mp3_length: int | None) -> None:
        """By its last page or its index; of some containers FFmpeg divides the size by the bit rate."""
        self.stated_length, begin = None, self._place(self.first.pts or 0)
        if duration := self.stream.duration:
            # Of Opus it is the end by the stream's clock, which has run for hours where a live stream was recorded.
            duration -= max(0, self.first.pts or 0) if (self.kind, self.stream.name) == ("ogg", "opus") else 0
            self.stated_length = begin + round(duration * self.stream.time_base * self.rate)
        elif self.container.duration:
            self.stated_length = round(self.container.duration * self.rate / av.time_base)
        if self.kind == MOV and self.stream.duration:
            self.length = self.stated_length
        elif self.kind == "mp3" and mp3_length is not None:
            self.length = self.stated_length = mp3_length
        elif self.kind == MATROSKA and len(self.container.streams) == 1 and self.container.duration:
            # Of the whole recording, in which the sound may begin late.
            self.length = round((self.container.duration / av.time_base - self.origin * self.tick) * self.rate)
        if self.later_parts:
            self.length = None  # that is of the first

    def _values(self, format: str | None) -> Iterator[np.ndarray]:
        """All its samples as they are written, as far as they can be read."""
        with suppress(FFmpegError), open_container(self.file, format) as container:
            for frame in container.decode(only_track(container, self.track)):
                yield to_float(frame)

    def header(self) -> Header:
        codec, container = self.stream.codec_context.codec.canonical_name, self.kind.split(",")[0]
        what = codec if container in codec else f"{container} {codec}"
        if self.first is None:
            return Header(what, self.rate, 1, 0, 0)
        channels, length = self.first.layout.nb_channels, self.likely_length
        is_exact = not self._is_joined and (self.length is not None or self.kind == "ogg")
        of_file = is_exact, self.cut_off, self.slack, self.num_tracks, tuple(self.flags())
        return Header(what, self.rate, channels, length, length, *of_file)

    @property
    def likely_length(self) -> int | None:
        """As `length`, and where that is None perhaps a guess by the bit rate."""
        if self.first is None or self._is_joined:
            return None
        return self.stated_length if self.length is None else self.length

    @property
    def _is_joined(self) -> bool:
        return bool(self.later_parts) or (self.kind == "mp3" and self.goes_on)

    def blocks(self) -> Iterator[np.ndarray]:
        """1-D float32 mono at `rate`, from the start of the clip to the end of the file."""
        if self.first is None:
            return
        start, stop = self.clip.start(self.rate), self.clip.stop(self.rate)
        position, frames = 0, itertools.chain([self.first], self.frames)
        if start > SKIP_AFTER_S * self.rate and not self.later_parts:
            position, frames = self._skip_to(start)
        waiting, num_waiting = [], 0
        for piece in self._mono(position, frames):
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
        marks = {
            "gap_filled": self.has_gaps,
            "other_tracks": has_others,
            "trailing_audio": self.has_more,
            "scaled": self.scale != 1,
            "channels_cancel": self.mixer.cancels,
        }
        return [flag for flag, is_so in marks.items() if is_so]

    def _mono(self, position: int, frames: Iterator[av.AudioFrame]) -> Iterator[np.ndarray]:
        """Samples at `rate` from `position` on, those of files that were joined on among them.

        Raises:
            DecodeError: the file is damaged or cut off.
        """
        parts = itertools.chain(map(self._decode_part, self.later_parts), self._parts_behind())
        for part in itertools.chain([frames], parts):
            if part is not frames and (first := next(part, None)) is not None:
                if first.pts is not None:
                    self._restart(self.part_begin, position)
                part = itertools.chain([first], part)
            for piece in self._with_silence(position, part):
                position += len(piece)
                yield piece
        if self.cut_off:
            raise DecodeError("cut off: it ends in the middle of an Ogg page")

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
            samples = to_float(frame)
            samples = self.mixer(samples if self.scale == 1 else samples * self.scale)
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
                packets = self._demux(self.container, self.stream)
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
            if packet.pos is not None:
                self.read_to = packet.pos + packet.size
            if self._place(packet.pts) < end - RESTART_S * self.rate:
                self._restart(packet.pts, end)
            excess = self._excess(packet)
            after = self._place(packet.pts + (packet.duration or 0) - excess)
            if after > wake_s * self.rate:
                break
            end, self.origin = after, self.origin + excess
        else:
            return end, iter(())
        packets = itertools.chain([packet], packets)
        return self._find_place(self._decode(packets, self.decoder, self.file, packet.pos or 0), start, end)

    def _find_place(self, frames: Iterator[av.AudioFrame], start: int, end: int) -> tuple[int, Iterator[av.AudioFrame]]:
        """The same of frames that begin before `start`; `end` is where the sound before them ended."""
        head, places, num_frames, expected = [], [], 0, end
        for frame in frames:
            if frame.pts is None:
                raise DecodeError("its packets have no time stamps, so the offset cannot be found")
            apart = self._place(frame.pts) - expected if head else 0
            if apart < -RESTART_S * self.rate:
                self._restart(frame.pts, expected)
            if apart < -RESTART_S * self.rate or apart > MIN_GAP_S * self.rate:
                # The time stamps of what lies before a jump say nothing, and all of it lies before `start`.
                head, places, num_frames, end = [], [], 0, expected
            head.append(frame)
            places.append(self._place(frame.pts) - num_frames)
            num_frames += round(frame.samples * self.rate / frame.sample_rate)
            if (expected := places[-1] + num_frames) >= start:
                break
        # The median: time stamps are rounded (WebM: to 1 ms), and off by 10 ms where Vorbis changes its block size.
        place = sorted(places)[len(places) // 2] if places else end
        if place - end > MIN_GAP_S * self.rate and place > start:
            place = end  # within a gap, which is filled from where it began
        return min(place, start) if places else place, itertools.chain(head, frames)

    def _parts_behind(self) -> Iterator[Iterator[av.AudioFrame]]:
        """Files that were joined on where FFmpeg stops, one after the other."""
        magic, size = RESTARTS.get(self.kind), self.file.seek(0, io.SEEK_END)
        while magic is not None:
            self.file.seek(self.read_to)
            if (behind := self.file.read(_SEARCHED_BYTES).find(magic)) < 0:
                return
            start = self.read_to + behind
            yield self._decode_part(RangeReader(self.file, [(start, size)]), start)

    def _decode_part(self, file: BinaryIO, start: int = 0) -> Iterator[av.AudioFrame]:
        """All frames of a file that was joined on, of the same track if it has that.

        Args:
            start: the byte of `self.file` at which that begins.
        """
        with open_container(file, None) as container:
            if not (streams := container.streams.audio):
                return
            stream, is_first, end_s = streams[self.track if self.track < len(streams) else 0], True, 0.0
            for frame in self._decode(self._demux(container, stream), decoder_of(stream), file, 0, start):
                end_s = (frame.time or 0.0) + frame.samples / frame.sample_rate
                if frame.time_base != self.tick:
                    frame.pts = None
                elif is_first:
                    self.part_begin = self._begin_of(container, frame)
                is_first = False
                yield frame
            stated_s = (container.duration or 0) / av.time_base
            if self.kind == MATROSKA and len(container.streams) == 1 and stated_s - end_s > LENGTH_SLACK_S:
                raise DecodeError(
                    f"cut off: the header of a joined recording says {stated_s:.2f} s, but it holds {end_s:.2f} s"
                )

    def _begin_of(self, container: av.container.InputContainer, first: av.AudioFrame) -> int:
        """The time stamp that is time 0 of a file, by its first frame of sound."""
        begin = first.pts or 0
        if len(container.streams) > 1 and container.start_time is not None:
            begin = min(begin, round(container.start_time / av.time_base / self.tick))
        return begin

    def _demux(self, container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.Packet]:
        try:
            yield from container.demux(stream)
        except IndexError as e:  # PyAV 18 does not expect it
            raise DecodeError("a new stream begins in the middle of it") from e

    def _decode(
        self, packets: Iterator[av.Packet], decoder: av.AudioCodecContext | None, file: BinaryIO, begin=0, start=0
    ) -> Iterator[av.AudioFrame]:
        """Frames of packets of a file, the first of which stands at its byte `begin`; the file stands at `start`."""
        hole = None
        for packet in packets:
            if packet.pos is not None:
                self.read_to = start + packet.pos + packet.size
            if packet.is_corrupt:
                raise DecodeError("damaged or cut off: FFmpeg marks a packet as corrupt")
            if self.kind == "ogg" and (begin := ogg.check_pages(file, begin, packet.pos)) is None:
                raise DecodeError("damaged: the checksum of an Ogg page is wrong")
            excess = self._excess(packet)
            try:
                frames = packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)
            except av.InvalidDataError:
                if not (self.kind == "mp3" and excess):
                    raise
                frames = []
            if frames and hole is not None:
                raise DecodeError(f"damaged: after {hole:.2f} s a part of it is not MP3")
            if self.kind == "mp3" and excess and self.first is not None and mp3.is_damage(bytes(packet)):
                hole = self._place(packet.pts) / self.rate  # unless nothing follows
            yield from frames
            self.origin += excess

    def _excess(self, packet: av.Packet) -> int:
        """By how many ticks its duration is longer than its sound. FFmpeg gives one to what lies between joined MP3
        files, or behind one (a tag, zeros), and to frames of ADTS at another rate that of the first.
        """
        if self.kind not in ("mp3", "aac") or not packet.duration:
            return 0
        data = bytes(packet)
        if self.kind == "mp3":
            return 0 if mp3.is_frame(data.lstrip(b"\0")) else packet.duration
        rate = dict(enumerate(ADTS_RATES)).get(data[2] >> 2 & 15) if len(data) > 6 else None
        return 0 if rate is None else packet.duration - round(1024 * ((data[6] & 3) + 1) / rate / packet.time_base)


def _without_time(frames: list[av.AudioFrame]) -> list[av.AudioFrame]:
    """Time stamps of resampled frames count at the other rate."""
    for frame in frames:
        frame.pts = None
    return frames
