"""How `--help` is laid out: options in named groups, whole summaries of commands. What is said of mistyped options."""

import difflib
import io
import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

# The group of options that are explained by the help of transcribe alone.
AS_TRANSCRIBE = "as transcribe"


class GroupedCommand(TyperCommand):
    """A command whose options stand under the title of their group, in the order in which they were declared."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[Any]] = {}
        for param in self.get_params(ctx):
            is_argument = param.param_type_name == "argument"
            title = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or "Options"
            groups.setdefault(title, []).append(param)
        as_transcribe = groups.pop(AS_TRANSCRIBE, [])
        for title, params in groups.items():
            with formatter.section(title):
                formatter.write_dl([record for param in params if (record := param.get_help_record(ctx))])
        if as_transcribe:
            with formatter.section("Options of transcribe, see asrbatch transcribe --help"):
                names = " ".join(max(param.opts, key=len) for param in as_transcribe)
                margin = " " * formatter.current_indent  # `write_text` would break names at their hyphens
                how = {"initial_indent": margin, "subsequent_indent": margin, "break_on_hyphens": False}
                formatter.write(textwrap.fill(names, formatter.width, **how) + "\n")


class WholeSummaries(TyperGroup):
    """The list of commands, each with all of its first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.commands[name].get_short_help_str(1000)) for name in self.list_commands(ctx)]
            )


def usage_error(error: Any) -> str:
    """What typer says of arguments that are none; of an option that there is not, with the one that is most like it."""
    likely = difflib.get_close_matches(
        getattr(error, "option_name", ""), getattr(error, "possibilities", None) or (), 1
    )
    if likely:
        error.message += f". Did you mean {likely[0]}?"
        error.possibilities = None
    said = io.StringIO()
    error.show(said)
    return said.getvalue().rstrip()
