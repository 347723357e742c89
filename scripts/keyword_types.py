"""Writes asrbatch/cli/keyword_types.py: types of what the functions of asrbatch take, for type checkers and editors.

Made of the commands' own declarations: run it when an option was added or changed. `tests/cli/test_functions.py` fails
until then.
"""

import subprocess
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

from asrbatch.cli.commands.align import align
from asrbatch.cli.commands.export import export
from asrbatch.cli.commands.merge_shards import merge_shards
from asrbatch.cli.commands.plan import plan
from asrbatch.cli.commands.score import score
from asrbatch.cli.commands.transcribe import transcribe
from asrbatch.cli.keywords import LISTED, Keyword, keywords_of
from asrbatch.cli.options import READING, flag_of

REPO = Path(__file__).resolve().parent.parent
TARGET = REPO / "asrbatch/cli/keyword_types.py"
# Of each command, what its function takes by a parameter of its own.
OWN = {
    transcribe: ("manifest", "model"), align: ("manifest", "model"), plan: ("manifest",), merge_shards: ("output",),
    score: ("predictions",), export: ("output", "format"),
}  # fmt: skip
# Text that names a file or a folder.
_PATHS = ("output", "tokenizer", "lora", "tars", "audio_folder", "references", "to", "rtfx", "model")
_HEAD = '''"""What the functions of `asrbatch/__init__.py` take by name: options of the command line, with `_` for `-`.

Written by scripts/keyword_types.py; change the declarations, not this file. For type checkers and editors alone.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict

Text = str | PathLike[str]
'''


def options_of(command: Callable) -> dict[str, Keyword]:
    """What its function takes as one of `options`."""
    return {name: each for name, each in keywords_of(command).items() if name not in OWN[command]}


def classes() -> dict[str, tuple[str, dict[str, Keyword], tuple[str, ...]]]:
    """By class name: what it is, its options without those of its bases, and these."""
    of = {command: options_of(command) for command in OWN}
    reading = _only(of[transcribe], {flag_of(name)[2:].replace("-", "_") for name in READING})
    shared = _only(of[transcribe], of[align].keys() & of[plan].keys() - reading.keys())
    decoding = _only(of[transcribe], of[plan].keys() - shared.keys() - reading.keys())
    of_run = reading.keys() | shared.keys() | decoding.keys()
    return {
        "ReadingKeywords": ("How a manifest is read; options of all that read one.", reading, ()),
        "RunKeywords": ("Options of `transcribe`, `align` and `plan`.", shared, ("ReadingKeywords",)),
        "DecodingKeywords": ("Options of `transcribe` and `plan`.", decoding, ("RunKeywords",)),
        "TranscribeKeywords": ("Options of `transcribe`.", _without(of[transcribe], of_run), ("DecodingKeywords",)),
        "PlanKeywords": ("Options of `plan`.", _without(of[plan], of_run), ("DecodingKeywords",)),
        "AlignKeywords": ("Options of `align`.", _without(of[align], of_run), ("RunKeywords",)),
        "MergeKeywords": ("Options of `merge_shards`.", _without(of[merge_shards], reading), ("ReadingKeywords",)),
        "ScoreKeywords": ("Options of `score`.", of[score], ()),
        "ExportKeywords": ("Options of `export`.", of[export], ()),
    }


def _only(options: Mapping[str, Keyword], names) -> dict[str, Keyword]:
    return {name: each for name, each in options.items() if name in names}


def _without(options: Mapping[str, Keyword], names) -> dict[str, Keyword]:
    return {name: each for name, each in options.items() if name not in names}


def annotation(keyword: Keyword) -> str:
    """The type of an option's values, as Python writes it."""
    if keyword.type == list[str]:
        text = "Text | Sequence[Text]" if keyword.name == "manifest" else "str | Sequence[str]"
    elif get_origin(keyword.type) is Literal:
        text = f"Literal{list(get_args(keyword.type))}"
    elif keyword.type is str:
        text = "Text" if keyword.name in _PATHS else "str"
        text += " | float" if keyword.name == "rtfx" else " | int" if keyword.name == "devices" else ""
        text += f" | Sequence[{text}]" if keyword.field in LISTED else ""
    else:
        text = keyword.type.__name__
    return text + (" | None" if keyword.default is None else "")


def module() -> str:
    """The text of the module."""
    parts = [_HEAD]
    for name, (meaning, options, bases) in classes().items():
        parts.append(f'\n\nclass {name}({", ".join(bases) or "TypedDict"}, total=False):\n    """{meaning}"""\n')
        for keyword in options.values():
            help = keyword.info.help
            if "[default:" not in help and keyword.default not in (None, False, []):
                help += f" [default: {keyword.default}]"
            lines = textwrap.wrap(f'"""{help}"""', 116, break_on_hyphens=False, break_long_words=False)
            parts.append(
                f"\n    {keyword.name}: {annotation(keyword)}\n" + textwrap.indent("\n".join(lines), "    ") + "\n"
            )
    return formatted("".join(parts))


def formatted(text: str) -> str:
    command = [REPO / ".venv/bin/ruff", "format", "--stdin-filename", TARGET, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=REPO).stdout


if __name__ == "__main__":
    TARGET.write_text(module(), encoding="utf-8")
