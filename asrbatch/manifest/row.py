"""One manifest row, checked: what each of its fields means, and which fields it may not have.

Knows a row as the dict of its fields, wherever that came from. Knows nothing about files of rows, about what other rows
say, about the model, or about audio beyond how a path or a `data:` URI is written.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from json.encoder import encode_basestring_ascii
from math import isfinite, isnan
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from asrbatch.errors import AsrbatchError, RowError
from asrbatch.formatting import is_data_uri, one_line, shorten_data_uri, show, show_text
from asrbatch.storage.filenames import expand_home
from asrbatch.storage.remote import is_remote, join_url, read_remote, scheme_of, why_not
from asrbatch.types import AudioRef

# Sampling is fixed per run, and so are the prompts of the system; a value here would be ignored, which would be a lie.
# Names of vLLM's SamplingParams, of transformers' generation, of Whisper's options and of chats. Not `n`, `stop` and
# `logprobs`, which are as often data: those are carried.
REFUSED_FIELDS = frozenset((
    "temperature", "top_p", "top_k", "min_p", "seed", "best_of", "max_tokens", "min_tokens", "max_new_tokens",
    "min_new_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty", "repetition_detection",
    "length_penalty", "no_repeat_ngram_size", "stop_token_ids", "bad_words", "ignore_eos", "logit_bias",
    "allowed_token_ids", "logits_processors", "structured_outputs", "guided_decoding", "thinking_token_budget",
    "skip_special_tokens", "include_stop_str_in_output", "watermarking", "sampling_params", "generation_config",
    "generation_kwargs", "generate_kwargs", "extra_args", "do_sample", "num_beams", "beam_size", "beam_width",
    "use_beam_search", "num_return_sequences", "suppress_tokens", "forced_decoder_ids",
    "condition_on_previous_text", "system", "system_prompt", "user_prompt", "initial_prompt", "messages",
    "chat_template_kwargs",
))  # fmt: skip
SEVERAL_CLIPS_FIELDS = frozenset(("audio_filepaths", "audios"))
# Every field this module looks at. A reader that skips columns must not skip these.
KNOWN_FIELDS = REFUSED_FIELDS | SEVERAL_CLIPS_FIELDS | {
    "audio_filepath", "id", "offset", "duration", "channel", "track", "text", "lang", "prompt",
}  # fmt: skip
MOST_LEVELS = 100  # of lists and objects in each other: what is written must be read again, also inside deep calls
MAX_SECONDS = 1e9  # 31 years: beyond any recording, and far inside float32, in which durations are kept
IN_CELL = object()  # parse_row's `audio` for encoded audio stored in the row itself

_T = TypeVar("_T")
_NESTED = frozenset((dict, list, tuple))
_SUSPECT_FIELDS = REFUSED_FIELDS | SEVERAL_CLIPS_FIELDS
_HALF_OF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can write one; no file name in UTF-8, and no terminal, can
_SEVERAL, _GIVE_PATH = "several clips in one row are not supported", "give the path of one audio file"
_OF_PANDAS = "pandas: df.convert_dtypes() before writing makes 1.0 a 1 and NaN a null, in columns with gaps"


class InvalidRow(Exception):
    """A row that cannot be run: what it says, what is wrong with that, and how to mend it; one line in all.

    Attributes:
        kind: the problem without what is particular to this row, for counting.
        fields: the row, as far as it could be read.
        row_id: the id that the reader gives it where the row itself has none; None where it gives none.
    """

    def __init__(self, value: str, problem: str, fix: str):
        super().__init__(f"{value}: {problem}; {fix}")
        field, equals, _ = value.partition(" = ")
        self.kind = f"{field}: {problem}" if equals and field.isidentifier() else problem.partition(":")[0]
        self.fields: dict[str, Any] = {}
        self.row_id: str | None = None

    def row(self) -> "Row":
        """What stands in its place where bad rows are to be failed rows: its id, or a hash of what is wrong with it."""
        # A given id is kept: the failed row is then found again in the output by who wrote it.
        given = self.fields.get("id")
        if given is None:
            given = self.row_id
        is_given = type(given) is int or (type(given) is str and given != "")
        made = hashlib.blake2b(str(self).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        # What is nested too deeply could not be written.
        fields = {name: value for name, value in self.fields.items() if not _is_too_deep(value)}
        return Row(str(given) if is_given else made, not is_given, *[None] * 6, fields)


@contextmanager
def annotate(fields: dict[str, Any]) -> Iterator[None]:
    """Tells an InvalidRow the fields of its row, as far as they were read, for the output row of a failed one."""
    try:
        yield
    except InvalidRow as invalid:
        invalid.fields = fields
        raise


def of_row(read: Callable[..., _T], *arguments: object) -> _T:
    """Makes any exception over what a row says that row's own: nothing that one row holds may end a run."""
    try:
        return read(*arguments)
    except InvalidRow:
        raise
    except Exception as e:
        raise invalid_of(e) from e


def invalid_of(error: Exception) -> InvalidRow:
    """What is wrong with the row over which this was raised. Raises what is not a row's own."""
    if isinstance(error, AsrbatchError | OSError | MemoryError):
        raise error
    return InvalidRow("this row", f"cannot be read: {one_line(error)}", "correct it, or drop it")


class Row(NamedTuple):
    """A row that passed.

    Attributes:
        id: as given, or made by the reader, or (when `hashed`) the hash of the row, not numbered yet.
        hashed: two rows may share this id, and then get a number each.
        path: `audio_filepath` as written; None when the row holds the audio itself.
        offset_s, duration_s: seconds; None where the row does not say.
        channel, track, lang, prompt: None where the row does not say.
        fields: all fields of the row, in order, as parsed.
    """

    id: str
    hashed: bool
    path: str | None
    offset_s: float | None
    duration_s: float | None
    channel: int | None
    lang: str | None
    prompt: str | None
    fields: dict[str, Any]
    track: int | None = None


def parse_row(fields: dict[str, Any], audio: Any, row_id: str | None = None) -> Row:
    """Check the fields of one row.

    Args:
        fields: the row; not changed.
        audio: what it says about its audio, checked as a path or `data:` URI; `IN_CELL` if there is none to check.
        row_id: the id of a row that has none. None: a hash of (path as written, offset, duration, channel, track).

    Raises:
        InvalidRow: the first thing found wrong.
    """
    try:
        return _parse_row(fields, audio, row_id)
    except InvalidRow as invalid:
        invalid.fields, invalid.row_id = fields, row_id
        raise


def _parse_row(fields: dict[str, Any], audio: Any, row_id: str | None) -> Row:
    # One set operation for the many rows that have none of them, and another for refused fields.
    if not _NESTED.isdisjoint(map(type, fields.values())):
        for name in filter(lambda name: _is_too_deep(fields[name]), fields):
            fix = "write it flat, or as a string"
            raise InvalidRow(show_text(name), f"nested more than {MOST_LEVELS} levels deep", fix)
    if not _SUSPECT_FIELDS.isdisjoint(fields):
        _check_refused(fields)
    if audio is IN_CELL:
        path = None
    else:
        path = audio
        # The common path has none of these and needs no further check: this runs for every row.
        if type(path) is not str or ":" in path or "\0" in path or not path.strip() or not path.isascii():
            _check_path(fields, path)
    get = fields.get
    offset_s = get("offset")
    if offset_s is not None:
        offset_s = _seconds("offset", offset_s, "leave it out to start at 0")
    duration_s = get("duration")
    if duration_s is not None:
        duration_s = _seconds("duration", duration_s, "leave it out to read to the end")
        # It may mean nothing, or that nobody knows: which of the two is not ours to guess.
        if duration_s == 0:
            raise InvalidRow("duration = 0", "must be above 0", "leave it out to read to the end, or drop the row")
    channel, track = get("channel"), get("track")
    if channel is not None or track is not None:
        _check_numbers(channel=channel, track=track)
    lang = get("lang")
    if lang is not None and (type(lang) is not str or not lang):
        raise invalid_field("lang", lang, 'must be a language code such as "en"', "leave it out when unknown")
    prompt = get("prompt")
    if prompt is not None and (type(prompt) is not str or (not prompt.isascii() and _HALF_OF_PAIR.search(prompt))):
        problem = (
            "must be a string"
            if type(prompt) is not str
            else "holds half of a surrogate pair, which is not a character"
        )
        raise invalid_field("prompt", prompt, problem, "leave it out for the prompt of the run")
    text = get("text")
    if text is not None and type(text) is not str:
        fix = "write the reference in quotes, or null when there is none"
        raise invalid_field("text", text, "must be a string", fix)

    given = get("id")
    hashed = False
    if given is None:
        hashed = row_id is None
        given = hash_row(path, offset_s, duration_s, channel, track) if hashed else row_id
    elif type(given) is int:
        given = str(given)
    elif type(given) is not str or not given:
        fix = "leave it out to have one made"
        if type(given) is float and given.is_integer():  # 1 or 1.0? The same data set elsewhere says one of them
            fix = f'write {show(int(given))} or "{show(given)}", whichever it is, or {fix}'
        raise invalid_field("id", given, "must be a non-empty string or a whole number", fix)
    return Row(given, hashed, path, offset_s, duration_s, channel, lang, prompt, fields, track)


def _is_too_deep(value: Any) -> bool:
    level = [value]
    # Level by level, not by recursion, which is what runs out.
    for _ in range(MOST_LEVELS + 1):
        nests = [nest.values() if type(nest) is dict else nest for nest in level if type(nest) in _NESTED]
        level = [*chain.from_iterable(nests)]
        if not level:
            return False
    return True


def canonical_row(row_id: str, tail: str) -> str:
    """The line that stands for a row in the manifest's digest: a JSON list in ASCII, and a newline.

    `[id, offset, duration, channel, lang, prompt]` exactly as `json.dumps(..., separators=(",", ":"))` writes it, with
    seconds as floats, an absent offset as 0.0, and the track behind the channel if there is one.
    """
    # Put together by hand: `json.dumps` is slower, and this runs for every row.
    return f"[{encode_basestring_ascii(row_id)},{tail}"


def canonical_tail(row: Row) -> str:
    """All of `canonical_row` that follows the id."""
    lang = "null" if row.lang is None else encode_basestring_ascii(row.lang)
    prompt = "null" if row.prompt is None else encode_basestring_ascii(row.prompt)
    return f"{_json_numbers(row.offset_s, row.duration_s, row.channel, row.track)},{lang},{prompt}]\n"


def audio_ref(path: str, folder: str) -> AudioRef:
    """Where the audio of a checked `audio_filepath` lives; a relative path is relative to `folder`, which may be a URL,
    and `~` is the home folder.

    The `load` of a `data:` URI raises RowError `unreadable` when its payload is not base64; that of a URL as
    `read_remote`."""
    if is_data_uri(path):
        name = shorten_data_uri(path)
        return AudioRef(name, load=partial(_decode_data_uri, path, name), url=path)
    # A folder may be a URL: that of a manifest behind one, or of a data set on the hub.
    if "://" in path:
        place = path
    else:
        place = join_url(folder, path) if is_remote(folder) else os.path.join(folder, expand_home(path))
    if "://" in place:
        if is_remote(place):
            return AudioRef(path, load=partial(read_remote, place, path), url=place)
        if scheme_of(place) == "file":
            return AudioRef(path, unquote(urlsplit(place).path))
    return AudioRef(path, place)


def invalid_field(field: str, value: Any, problem: str, fix: str) -> InvalidRow:
    """A row of which one field cannot be what it is."""
    if type(value) is float and (isnan(value) or (field in ("id", "channel", "track") and value.is_integer())):
        fix += f" ({_OF_PANDAS})"
    return InvalidRow(f"{field} = {show(value)}", problem, fix)


def _seconds(field: str, value: Any, otherwise: str) -> float:
    if type(value) is not float and type(value) is not int:  # not isinstance: true is an int to Python
        if type(value) is str and _is_number(value):
            raise invalid_field(field, value, "is a string", "remove the quotes")
        raise invalid_field(field, value, "is not a number of seconds, e.g. 12.5", otherwise)
    if not 0 <= value <= MAX_SECONDS:  # NaN fails as well
        raise invalid_field(field, value, f"must be a number of seconds from 0 to {MAX_SECONDS:.0e}", otherwise)
    return value + 0.0  # a float, and 0.0 for -0.0


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _check_refused(fields: dict[str, Any]) -> None:
    for field in fields:
        # Null is fine: a table has its columns in every row, also where most are empty.
        if fields[field] is None or field not in _SUSPECT_FIELDS:
            continue
        if field in SEVERAL_CLIPS_FIELDS:
            raise invalid_field(field, fields[field], _SEVERAL, "write one row per clip")
        problem = "is set for the whole run, not per row"
        fix = "remove the field, and give the option to the run"
        raise invalid_field(field, fields[field], problem, fix)


def _check_path(fields: dict[str, Any], path: Any) -> None:
    if path is None and "audio_filepath" in fields:
        raise InvalidRow("audio_filepath = null", "is empty", "give the path of one audio file, or drop the row")
    if path is None:
        found = ", ".join(fields) if fields else "no fields"
        raise InvalidRow(f"has {show_text(found)}", "no audio_filepath", "name the field with the path audio_filepath")
    if type(path) is list:
        raise invalid_field("audio_filepath", path, _SEVERAL, "write one row per clip, with one path as a string")
    if type(path) is not str:
        raise invalid_field("audio_filepath", path, "must be a string", _GIVE_PATH)
    if not path.strip():
        raise invalid_field("audio_filepath", path, "is empty", _GIVE_PATH)
    if _HALF_OF_PAIR.search(path):
        problem = "holds half of a surrogate pair, which is not a character"
        raise invalid_field("audio_filepath", path, problem, "rename the file in UTF-8")
    if is_data_uri(path):
        header, comma, payload = path.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            fix = "write data:audio/wav;base64,… or give a path"
            raise invalid_field("audio_filepath", path, "a data: URI must be base64 encoded", fix)
        if not payload.strip():
            raise invalid_field("audio_filepath", path, "the data: URI holds no audio", "drop the row or give a path")
        return
    scheme = scheme_of(path)
    if scheme is not None and scheme != "file" and (reason := why_not(scheme)):
        raise invalid_field("audio_filepath", path, *reason)
    if scheme == "file":
        try:
            urlsplit(path)
        except ValueError as e:
            raise invalid_field("audio_filepath", path, f"is not a URL: {e}", _GIVE_PATH) from e
    if "\0" in path:
        raise invalid_field("audio_filepath", path, "a path cannot hold a zero character", _GIVE_PATH)


def _check_numbers(**numbers: Any) -> None:
    without = {"channel": "leave it out for the mean of all channels", "track": "leave it out for the default track"}
    for field, value in numbers.items():
        # `true` is an int to Python; a channel it is not.
        if value is not None and (type(value) is not int or value < 0):
            raise invalid_field(field, value, "must be a whole number from 0", without[field])


def _json_numbers(offset_s: float | None, duration_s: float | None, channel: int | None, track: int | None) -> str:
    duration = "null" if duration_s is None else repr(duration_s)
    of_track = "" if track is None else f",{track}"  # ids and digests of before there were tracks stay
    return f"{offset_s or 0.0!r},{duration},{'null' if channel is None else channel}{of_track}"


def hash_row(
    path: str, offset_s: float | None, duration_s: float | None, channel: int | None, track: int | None = None
) -> str:
    """The id of a row that has none: 16 hexadecimal digits of what it says about its audio."""
    # By what the row says, not by where its manifest lies: a copied data set keeps its ids.
    key = f"[{encode_basestring_ascii(path)},{_json_numbers(offset_s, duration_s, channel, track)}]"
    return hashlib.blake2b(key.encode("ascii"), digest_size=8).hexdigest()


def _decode_data_uri(uri: str, name: str) -> bytes:
    payload = "".join(uri.partition(",")[2].split())  # MIME tools break base64 into lines
    try:
        # Padding may be left out in a data: URI (WHATWG forgiving-base64).
        return base64.b64decode(payload.rstrip("=") + "=" * (-len(payload.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as e:
        raise RowError("unreadable", f"{name}: not base64 ({e}); encode the audio file again", has_fix=True) from e
