"""How a manifest is to be read, as one frozen object: what a person can say about a source beside its name.

Checked once, before anything is opened. Knows nothing about how any format is read.
"""

from dataclasses import dataclass

from .errors import UsageError

FORMATS = (
    "jsonl", "csv", "tsv", "saved", "parquet", "arrow", "hub", "folder", "kaldi", "lhotse", "nemo-tar", "webdataset",
)  # fmt: skip
ON_BAD_ROW = ("refuse", "fail")


@dataclass(frozen=True)
class SourceOptions:
    """Choices about a source.

    Attributes:
        format: what it is, one of `FORMATS`; None finds out.
        split: of a data set that has several.
        dataset_config: of a hub data set that has several.
        streaming: read a hub data set's Parquet files where they are, instead of fetching all of it first.
        audio_column, text_column, id_column: fields that hold audio, reference and id under other names.
        tars: path, glob, list or `_OP_0..7_CL_` pattern of the tars whose members a NeMo manifest names.
        allow_pipes: run the commands in a Kaldi `wav.scp`.
        on_bad_row: `refuse` the manifest, naming every bad row; or `fail` those rows and read the others.
        folder: what relative audio paths are relative to, where that is not the manifest's own folder.

    Raises:
        UsageError: a value that is none of these.
    """

    format: str | None = None
    split: str | None = None
    dataset_config: str | None = None
    streaming: bool = False
    audio_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    tars: str | None = None
    allow_pipes: bool = False
    on_bad_row: str = "refuse"
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise UsageError(f"--format {self.format}: must be one of {', '.join(FORMATS)}")
        if self.on_bad_row not in ON_BAD_ROW:
            raise UsageError(f"--on-bad-row {self.on_bad_row}: must be one of {', '.join(ON_BAD_ROW)}")
        for option, value in (
            ("--audio-column", self.audio_column), ("--text-column", self.text_column), ("--id-column", self.id_column),
        ):  # fmt: skip
            if value == "":
                raise UsageError(f"{option} is empty; give the name of a column")

    @property
    def names_columns(self) -> bool:
        """Whether any column is called by another name."""
        return any((self.audio_column, self.text_column, self.id_column))
