"""Fields under other names: `--audio-column`, `--text-column` and `--id-column`, applied to one row at a time.

A field whose own name is needed for another one is kept under `original_…`: nothing a row says is lost.
"""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError
from asrbatch.formatting import show, show_text
from asrbatch.manifest.row import InvalidRow, annotate
from asrbatch.options import flag

_OURS = {"audio_column": "audio_filepath", "text_column": "text", "id_column": "id"}


class Columns:
    """Which field of a row stands for which of ours.

    Attributes:
        given: `{our name: (their name, option)}` for those that were named.
    """

    def __init__(self, options: SourceOptions):
        self._options = options
        self.given = {
            _OURS[each.name]: (theirs, flag(each))
            for each in fields(SourceOptions)
            if each.name in _OURS and (theirs := getattr(options, each.name)) is not None
        }
        self._ours = {theirs: ours for ours, (theirs, _) in self.given.items()}

    def but_audio(self) -> "Columns":
        """The same without the audio's."""
        return Columns(replace(self._options, audio_column=None))

    def ours(self, name: str) -> str:
        """What a field is called in a row of ours."""
        return self._ours.get(name) or (f"original_{name}" if name in self.given else name)

    def check(self, source: str, names: Iterable[str]) -> None:
        """Raises ManifestError when a table has two columns of one name, or none of a name that was given."""
        names = list(names)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ManifestError(f"{source}: two columns are named {show(twice)}; rename one of them")
        for theirs, option in self.given.values():
            if theirs not in names:
                there = ", ".join(map(show_text, names)) or "none"
                raise ManifestError(f"{source}: {option} {theirs}: no such column; there are {there}")

    def rename(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The row under our names, in the same order; the very same object when no name was given.

        Raises:
            InvalidRow: it lacks a field of a name that was given.
        """
        if not self.given:
            return fields
        for theirs, option in self.given.values():
            # A table is checked once by its header; rows of JSON Lines differ, so each is looked at.
            if theirs not in fields:
                found = ", ".join(fields) or "no fields"
                problem = f"no {theirs}, which {option} names"
                with annotate(fields):
                    raise InvalidRow(f"has {show_text(found)}", problem, "correct the name, or the row")
        # A row that has both names, ours and theirs, keeps both values: nothing it says is lost.
        return {self.ours(name): value for name, value in fields.items()}
