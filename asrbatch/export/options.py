"""What subtitles may be, and what the leaderboard calls a result. Stands alone, so that `--help` needs nothing else.

The defaults of `CueLimits` are those of two published guides:
    Netflix, Timed Text Style Guide: General Requirements (duration, frame gap, line treatment), English Timed Text
        Style Guide (characters per line, reading speed). partnerhelp.netflixstudios.com
    BBC, Subtitle Guidelines. bbc.github.io/subtitle-guidelines
"""

import math
from dataclasses import dataclass
from functools import cached_property

from asrbatch.errors import UsageError
from asrbatch.options import CheckedOptions, option

# By name, the files of `results.py`, which is slow to import.
RESULTS = ("leaderboard", "nemo")
# Formats that players read.
SUBTITLES = ("srt", "vtt")
# No time of a subtitle is longer, which keeps infinity out.
_DAY_S = 86400


@dataclass(frozen=True)
class CueLimits(CheckedOptions):
    """What a cue may be.

    Raises:
        UsageError: rules that no cue can keep.
    """

    # Netflix: 16 wide ones (32) for Chinese and Korean. BBC: about 37.
    max_line_chars: int = option(42, "Subtitles: characters in a line; wide ones count double.", minimum=2)
    max_lines: int = option(2, "Subtitles: lines at a time.", minimum=1)
    min_duration_s: float = option(
        5 / 6, "Shortest time of a subtitle, in seconds. [default: 5/6]", flags="--min-duration", minimum=0.001
    )
    max_duration_s: float = option(
        7.0, "Longest time of a subtitle, in seconds.", flags="--max-duration", maximum=_DAY_S
    )
    # Netflix: adult programmes in English (17 in many languages). BBC: 160 to 180 words a minute, some 15.
    max_chars_per_s: float = option(20.0, "Subtitles: reading speed, where speech leaves time for it.", minimum=1)
    # Netflix: 2 frames, here at 24 a second.
    min_gap_s: float = option(
        2 / 24,
        "Shortest time between two subtitles, in seconds. [default: 2/24]",
        flags="--min-gap",
        minimum=0,
        maximum=_DAY_S,
    )

    words: bool = option(False, "Subtitles: one for each word; of runs with --word-timestamps.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.max_duration_s >= self.min_duration_s:
            raise UsageError(
                f"--max-duration {self.max_duration_s:g}: must be at least --min-duration, {self.min_duration_s:g}"
            )

    @cached_property
    def min_ms(self) -> int:
        return math.ceil(self.min_duration_s * 1000)

    @cached_property
    def max_ms(self) -> int:
        return max(int(self.max_duration_s * 1000), self.min_ms)

    @cached_property
    def gap_ms(self) -> int:
        return round(self.min_gap_s * 1000)

    def reading_ms(self, num_chars: int) -> int:
        return math.ceil(num_chars * 1000 / self.max_chars_per_s)


@dataclass(frozen=True)
class ResultNames:
    """What the leaderboard calls a result, in the name of its file."""

    model_id: str | None = option(None, "leaderboard: the model, such as openai/whisper-tiny.en.")
    dataset: str | None = option(None, "leaderboard: the data set, such as hf-audio/open-asr-leaderboard.")
    dataset_name: str | None = option(None, "leaderboard: its configuration, such as librispeech.")
    split: str | None = option(None, "leaderboard: its split, such as test.clean.")

    def file_name(self) -> str:
        """`MODEL_<model>_DATASET_<dataset>_<name>_<split>.jsonl`, a slash as a hyphen.

        Raises:
            UsageError: a part is missing.
        """
        missing = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if not value]
        if missing:
            why = "the leaderboard's file names are made of them"
            raise UsageError(f"--format leaderboard: {', '.join(missing)} missing; {why}")
        model, *dataset = (value.replace("/", "-") for value in vars(self).values())
        return f"MODEL_{model}_DATASET_{'_'.join(dataset)}.jsonl"
