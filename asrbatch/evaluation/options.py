"""How predictions are scored and compared. Stands alone, so that `--help` needs none of what counts words."""

from dataclasses import dataclass

from asrbatch.options import option

_MOST_RESAMPLES = 1_000_000


@dataclass(frozen=True)
class ScoreOptions:
    """How predictions are scored; `num_processes` None takes one for each core where there are rows enough."""

    # Where there is none, predictions carry their references.
    references: str | None = option(None, "A manifest whose rows were all to be predicted; its `text` counts.")
    split: str | None = option(None, "Which split of a data set that has several.")
    normalizer: str = option(
        "auto", "Of auto, whisper-english, whisper-basic, leaderboard, none; auto: whisper-english for English."
    )
    language: str | None = option(
        None, "Of rows without `lang`. [default: that of the run, or what each row was detected as, or en]"
    )
    by: tuple[str, ...] = option((), "Fields to make groups by, with commas; `duration` makes bins.")
    text_field: str = option("text", "The field with the reference.")
    pred_field: str | None = option(None, "The field with the prediction. [default: pred_text, or what begins so]")
    resamples: int = option(2000, "Of the bootstrap.", minimum=1, maximum=_MOST_RESAMPLES)
    seed: int = option(0, "Of the bootstrap.", minimum=0)
    num_processes: int | None = None
