"""The page of commands, made from the command line when the site is built: `hooks` of mkdocs.yml names this module.

What it says of an option is what the option's declaration says (`asrbatch.options`). Plugins that do this for click do
not know typer's commands, which are its own classes, nor the groups of our options.
"""

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

import typer

from asrbatch.cli.app import app
from asrbatch.cli.help import AS_TRANSCRIBE
from asrbatch.options import CheckedOptions, flag

# The line of docs/commands.md in whose place the commands are put.
MARK = "<!-- commands -->"
_KINDS = {int: "whole number", float: "number"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    if page.file.src_uri != "commands.md":
        return markdown
    return markdown.replace(MARK, "\n".join(reference(typer.main.get_command(app).commands)))


def reference(commands: dict[str, Any]) -> Iterator[str]:
    """The page, block by block. Raises ValueError: an option has no help."""
    known = {param.name: param.help for param in commands["transcribe"].params}
    for name, command in commands.items():
        groups: dict[str, list[Any]] = {}
        for param in command.params:
            panel = getattr(param, "rich_help_panel", None)
            if param.param_type_name == "argument":
                title = "Arguments"
            elif name != "transcribe" and known.get(param.name) == param.help:
                title = AS_TRANSCRIBE
            else:
                title = "Options" if panel in (None, AS_TRANSCRIBE) else panel
            groups.setdefault(title, []).append(param)
        yield f"## `asrbatch {' '.join([name, *map(_name, groups.get('Arguments', ()))])}`\n"
        yield from _described(command.help)
        yield from (_option(name, param) for param in groups.pop("Arguments", ()))
        as_transcribe = [f"[`{_name(param)}`](#transcribe{_name(param)})" for param in groups.pop(AS_TRANSCRIBE, ())]
        for title, params in groups.items():
            yield f"### {title} {{ #{name}-{title.lower().replace(' ', '-')} }}\n"
            yield from (_option(name, param) for param in params)
        if as_transcribe:
            yield f"As in `transcribe`: {', '.join(as_transcribe)}.\n"


def _described(help: str) -> Iterator[str]:
    """The help of a command: an example is a block, exit codes are a list."""
    for paragraph in help.replace("\b\n", "").split("\n\n"):
        title, _, rest = paragraph.partition(":")
        if title == "Example":
            yield f"```bash\n{rest.strip()}\n```\n"
        elif title == "Exit codes" and re.match(r" \d ", rest):
            codes = re.split(r"; (?=\d )", _text(rest).rstrip("."))
            yield "Exit codes:\n\n" + "\n".join(f"- {each}" for each in codes) + "\n"
        else:
            yield _text(paragraph) + "\n"


def _option(command: str, param: Any) -> str:
    if not param.help:
        raise ValueError(f"asrbatch {command}: {_name(param)} has no help")
    is_argument = param.param_type_name == "argument"
    names = [_name(param)] if is_argument else [*param.opts, *param.secondary_opts]
    help, _, default = param.help.partition("[default: ")
    default = _text(default.rstrip("]"))
    if not default and param.default not in (None, ()) and param.default is not False:
        default = "on" if param.default is True else f"`{param.default}`"
    said = _text(help) + (f" Default: {default}." if default else "")
    value = "" if is_argument else _value(param)
    term = f"`{'`, `'.join(names)}`{value and f' *{value}*'}"
    return f"{term} {{ #{command}{_name(param).lower().rstrip('…') if is_argument else _name(param)} }}\n:   {said}\n"


def _value(param: Any) -> str:
    """What may be given; empty for a switch."""
    kind = param.type_descriptor.annotation
    if param.metavar or kind is bool:
        return param.metavar or ""
    if get_args(kind) and kind != list[str]:
        return ", ".join(map(str, get_args(kind)))
    # Of most options the dataclass checks the bounds, and typer knows none.
    own = {"minimum": param.min, "maximum": param.max}
    least, most = (_bounds(param).get(name) if given is None else given for name, given in own.items())
    limits = [least is not None and f"at least {least:,.10g}", most is not None and f"at most {most:,.10g}"]
    return ", ".join(filter(None, [_KINDS.get(kind, "text"), *limits]))


def _bounds(param: Any) -> dict[str, Any]:
    """What the option's field says, whichever group declares it."""
    kinds = [CheckedOptions]
    for kind in kinds:
        kinds += kind.__subclasses__()
        for each in fields(kind):
            if each.metadata.get("help") and flag(each) == param.opts[0]:
                return each.metadata
    return {}


def _name(param: Any) -> str:
    """What messages and links call it by."""
    if param.param_type_name == "argument":
        return param.name.upper() + ("…" if param.nargs == -1 else "")
    return next(each for each in param.opts if each.startswith("--"))


def _text(help: str) -> str:
    """As Markdown: options and what stands in quotes are code, and nothing else is mark-up."""
    parts = re.split(r"(`[^`]+`|(?<!\w)'[^']+'(?!\w)|(?<![\w-])--[a-z][a-z-]*(?:=\w+)?)", " ".join(help.split()))
    code = (part if part[:1] == "`" else f"`{part.strip(chr(39))}`" for part in parts[1::2])
    plain = [re.sub(r"([*_<\[{])", r"\\\1", part) for part in parts[::2]]
    return plain[0] + "".join(map("".join, zip(code, plain[1:], strict=True)))
