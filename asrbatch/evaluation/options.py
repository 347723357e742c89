"""How predictions are scored and compared: what `asrbatch score`, `compare` and `report` take."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ScoreOptions:
    """How predictions are scored.

    Attributes:
        references: a manifest whose rows are all to be predicted; None where predictions carry their references.
        split: of a data set that has several.
        normalizer: `auto`, or a name in `normalizers.NORMALIZERS`.
        language: of rows that do not say theirs; None takes that of the run, or else English.
        by: fields to make groups by; `duration` makes bins.
        text_field, pred_field: where references and predictions are; None finds the latter.
        resamples, seed: of the bootstrap.
        num_processes: None takes one for each core where there are rows enough.
    """

    references: str | None = None
    split: str | None = None
    normalizer: str = "auto"
    language: str | None = None
    by: tuple[str, ...] = ()
    text_field: str = "text"
    pred_field: str | None = None
    resamples: int = 1000
    seed: int = 0
    num_processes: int | None = None


@dataclass(frozen=True)
class CompareOptions:
    """How two files are compared.

    Attributes:
        scoring: as for `score`.
        common: compare the rows that both have, whatever manifests they are of.
        shown: how many of the largest changes to keep, in each direction.
    """

    scoring: ScoreOptions = field(default_factory=lambda: ScoreOptions(resamples=2000))
    common: bool = False
    shown: int = 10
