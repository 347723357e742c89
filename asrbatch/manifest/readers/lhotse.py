"""lhotse cuts in JSON Lines: each cut is a row, a piece of one recording. Cuts are read by lhotse itself.

Audio that a cut would make out of others when it is loaded (mixed, padded, at another speed) is not made here: such
rows are bad. Only importer of lhotse; that takes 3 s, so it happens when there are cuts."""

import codecs
import os
import re
from typing import Any

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError
from asrbatch.formatting import one_line, show, show_text
from asrbatch.languages import primary
from asrbatch.manifest.readers.base import PIPE, TextFormat, check_pipe, folder_of_first, is_relative, pipe_or_file
from asrbatch.manifest.readers.jsonl import JsonlReader
from asrbatch.manifest.readers.text import TextFile
from asrbatch.manifest.row import InvalidRow, Row, annotate
from asrbatch.manifest.source import ManifestSource
from asrbatch.types import AudioRef

_CUT = re.compile(rb'\{.*"(supervisions|recording|tracks)"\s*:\s*[\[{]', re.DOTALL)
_CUT_TYPE = re.compile(rb'"type"\s*:\s*"\w*Cut"')
_CODE = re.compile(r"[a-z]{2,3}")
_FIX = "save it as audio of its own (CutSet.save_audios)"


class LhotseReader(JsonlReader):
    """The cuts of one file. Relative paths are relative to its folder, or to the current one, see `folder_of_first`.

    Raises:
        ManifestError: lhotse is not installed.
    """

    def __init__(self, source: ManifestSource, file: TextFile):
        super().__init__(source, file)
        try:
            from lhotse.serialization import deserialize_item
        except ImportError as e:
            fix = "pip install 'asrbatch[lhotse]'"
            raise ManifestError(f"{file.path}: holds lhotse cuts, and lhotse is not installed: {fix}") from e
        self._deserialize, self._allow_pipes, self.is_plain = deserialize_item, source.options.allow_pipes, False
        self._base: str | None = None

    @property
    def audio_folder(self) -> str | None:
        return None if self._base == self.base_folder else self._base

    def audio(self, index: int, row: Row) -> AudioRef:
        return pipe_or_file(row.path, self._base_of(row.path))

    def _fields(self, line: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {"id": line.get("id")}
        with annotate(fields):
            custom = line.get("custom")  # before lhotse, which takes it out of the line
            cut = self._cut(line)
            fields |= self._audio_fields(cut)
            self._base_of(fields["audio_filepath"])
            fields |= _transcript(cut.supervisions)
        if custom is not None:
            fields["custom"] = custom
        return fields

    def _cut(self, line: dict[str, Any]) -> Any:
        kind = line.get("type")
        if kind in ("MixedCut", "PaddingCut"):
            raise InvalidRow(f"type = {show(kind)}", "its audio is made of others when it is loaded", _FIX)
        if kind not in ("MonoCut", "MultiCut"):
            fix = "give cuts; lhotse makes them of recordings and supervisions (`lhotse cut simple`)"
            raise InvalidRow(f"type = {show(kind)}", "not a cut", fix)
        try:
            cut = self._deserialize(line)
        except Exception as e:  # lhotse makes objects of whatever stands there
            problem = f"lhotse cannot read it: {show_text(one_line(e))}"
            raise InvalidRow(f"id = {show(line.get('id'))}", problem, "write the cuts again") from e
        if cut.recording is None:
            raise InvalidRow(f"id = {show(cut.id)}", "a cut without a recording", "save the cuts with their recordings")
        changed = [
            each["name"] if isinstance(each, dict) else type(each).__name__ for each in cut.recording.transforms or ()
        ]
        if others := [name for name in changed if name != "Resample"]:  # every row is resampled anyway
            problem = f"its audio is changed when it is loaded ({', '.join(others)})"
            raise InvalidRow(f"id = {show(cut.id)}", problem, _FIX)
        return cut

    def _audio_fields(self, cut: Any) -> dict[str, Any]:
        # `MultiCut` has a list of channels, `MonoCut` one number.
        channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
        found = [source for source in cut.recording.sources if set(channels) & set(source.channels)]
        if len(found) != 1 or not set(channels) <= set(found[0].channels):
            problem = f"{len(found)} files hold its channels {show(channels)}"
            raise InvalidRow(f"id = {show(cut.id)}", problem, "several clips in one row are not supported; " + _FIX)
        (source,) = found
        if source.type not in ("file", "url", "command"):
            raise InvalidRow(f"id = {show(cut.id)}", f"audio of type {show(source.type)} is not supported", _FIX)
        path = source.source
        if source.type == "command":
            path = check_pipe("recording", path, self._allow_pipes)
        fields = {"audio_filepath": path, "offset": cut.start, "duration": cut.duration}
        if len(channels) == 1 and len(source.channels) > 1:
            # lhotse numbers channels by recording, a decoder by file.
            fields["channel"] = source.channels.index(channels[0])
        elif len(channels) < len(source.channels):
            fix = "give one channel, or all of them to have their mean"
            raise InvalidRow(f"id = {show(cut.id)}", f"some of the channels ({show(channels)})", fix)
        fields["recording"] = cut.recording.id
        return fields

    def _base_of(self, path: str) -> str:
        if self._base is None and path.startswith(PIPE):
            self._base = os.getcwd()  # where lhotse would run it
        elif self._base is None and is_relative(path):
            self._base = folder_of_first(path, self.base_folder)
        return self._base or self.base_folder


def _transcript(supervisions: list[Any]) -> dict[str, Any]:
    """Text, language and speaker of a cut; where it has several, the texts joined in order."""
    fields: dict[str, Any] = {}
    # A cut may hold several utterances; supervisions stand in any order.
    texts = [s.text for s in sorted(supervisions, key=lambda s: s.start) if s.text]
    if texts:
        fields["text"] = " ".join(texts)
    languages = {s.language for s in supervisions if s.language}
    if len(languages) == 1:
        (language,) = languages
        # What is no language that can be looked up tells a person something.
        fields["lang" if _CODE.fullmatch(primary(language)) else "language_name"] = language
    speakers = {s.speaker for s in supervisions if s.speaker}
    if len(speakers) == 1:
        fields |= {"speaker": speakers.pop()}
    return fields


def is_lhotse(path: str, head: bytes, options: SourceOptions) -> bool:
    """Whether a text that begins so holds cuts."""
    line = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    return b'"audio_filepath"' not in line and (_CUT.match(line) is not None or _CUT_TYPE.search(line) is not None)


LHOTSE = TextFormat(is_lhotse, LhotseReader)
