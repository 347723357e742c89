"""What an audio file says about itself, and what a row that names it has to expect from that.

Says the same as `load.stream_audio` does, as far as a header can tell without decoding: a file that is damaged further
in, or whose length nobody wrote down, is only found when it is read. Knows neither of the decoders.
"""

from dataclasses import dataclass

from asrbatch.audio.clip import CORRECT_OFFSET, LENGTH_SLACK_S, Clip
from asrbatch.errors import RowError

# A file may go on by so much after the end that its row states; below that it is padding.
GOES_ON_S = 0.5


@dataclass(frozen=True, slots=True)
class Header:
    """One file.

    Attributes:
        container: what it is, e.g. `wav pcm_16` or `ogg opus`.
        sample_rate: Hz.
        channels: how many.
        num_frames: frames that it should hold; None where nothing tells.
        num_readable: frames that are there, as far as its size tells; fewer than `num_frames` when it is cut off.
        is_exact: the two are more than a guess by the bit rate.
        is_cut_off: it ends before its end.
        slack: frames by which they may be wrong all the same.
        num_tracks: of audio.
        flags: those of `load.AudioStream` that are known already.
    """

    container: str
    sample_rate: int
    channels: int
    num_frames: int | None
    num_readable: int | None
    is_exact: bool = True
    is_cut_off: bool = False
    slack: int = 0
    num_tracks: int = 1
    flags: tuple[str, ...] = ()


def predict_decoding(
    header: Header, clip: Clip, *, sample_rate: int | None = None, min_samples: int = 1
) -> tuple[float | None, str | None]:
    """What `stream_audio` will make of a clip of a file.

    Args:
        sample_rate, min_samples: what the model needs; the rate is None when no model is known.

    Returns:
        Seconds of audio that the clip will yield, None where the header does not tell; and in which way the row's
        duration contradicts the file, None where it does not.

    Raises:
        RowError: empty_audio, too_long, bad_row, unreadable or too_short, when `stream_audio` is sure to raise it.
    """
    rate, name = header.sample_rate, clip.name
    start, stop = clip.start(rate), clip.stop(rate)
    clip.check_track(header.num_tracks)
    clip.check_length(rate, header.num_frames if header.is_exact else None, header.slack)
    if header.num_frames is None or not header.is_exact:
        clip.check_channel(header.channels)
        return None if header.num_frames is None else clip.frames_of(header.num_frames, rate) / rate, None

    # In the order in which decoding meets them, so that the same error is reported.
    end_s = header.num_readable / rate
    if start >= header.num_readable + header.slack:
        if header.is_cut_off:
            raise _cut_off(header, name)
        text = f"offset {clip.offset_s or 0:g} s is at or past its end at {end_s:.3f} s"
        raise RowError("empty_audio", f"{name}: {text}; {CORRECT_OFFSET}", has_fix=True)
    clip.check_channel(header.channels)
    if header.is_cut_off and stop > header.num_readable + header.slack:
        raise _cut_off(header, name)
    num_frames = clip.frames_of(header.num_readable, rate)
    if sample_rate is not None and round((num_frames + header.slack) * sample_rate / rate) < max(min_samples, 1):
        least = f"the model needs at least {min_samples / sample_rate:g} s"
        raise RowError("too_short", f"{name}: {num_frames / rate:.4f} s; {least}")
    return num_frames / rate, None if clip.duration_s is None else _mismatch(header, clip, end_s)


def _mismatch(header: Header, clip: Clip, end_s: float) -> str | None:
    stop_s = (clip.offset_s or 0.0) + clip.duration_s
    if stop_s - end_s > LENGTH_SLACK_S:
        return f"{clip.name}: the row goes to {stop_s:.2f} s, the file ends at {end_s:.2f} s"
    if clip.offset_s is None and end_s - stop_s > GOES_ON_S:
        return f"{clip.name}: the row states {clip.duration_s:.2f} s, the file holds {end_s:.2f} s"
    return None


def _cut_off(header: Header, name: str) -> RowError:
    held_s = header.num_readable / header.sample_rate
    if header.num_frames > header.num_readable:
        promised = f"its header says {header.num_frames / header.sample_rate:.2f} s"
        return RowError("unreadable", f"{name}: cut off: {promised} but only {held_s:.2f} s are there")
    return RowError("unreadable", f"{name}: cut off after {held_s:.2f} s")
