"""`asrbatch align`: times for the words of texts that are there."""

import typer

from asrbatch.cli.commands.transcribe import run_command
from asrbatch.cli.options import RunOptions, run_options, takes
from asrbatch.config import NOT_FOR_ALIGNMENT
from asrbatch.options import option

_LANGUAGE = (
    "Language of the texts of rows without `lang`, e.g. en. "
    "[default: the row's `language`, as a run writes it; a row without either is refused]"
)
# `text_field` is its own, which has a default here.
_WITHOUT = (*NOT_FOR_ALIGNMENT, "text_field", "lora", "prompt_style", "chat_template_kwargs")


@takes(options=run_options(without=_WITHOUT, helps={"language": _LANGUAGE}))
def align(
    options: RunOptions,
    text_field: str = option("pred_text", "Field that holds the text."),
    merge: bool = option(False, "Merge the run, as merge-shards does, once its last chunk is complete."),
) -> None:
    """Find the times of words in texts that you have, with a Whisper model: rows of any run, or references.

    Takes the rows file of a run, or a manifest; rows with segments are aligned along them.

    \b
    Example:
      asrbatch align run/out.jsonl --model openai/whisper-large-v3-turbo -o run/words.jsonl

    Exit codes, chunks and resuming are those of transcribe.
    """
    options.values["text_field"] = text_field
    raise typer.Exit(run_command(options, merge=merge))
