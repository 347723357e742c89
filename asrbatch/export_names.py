"""A file name for every utterance: made from its row alone, another one for every id, good on every file system.

A name depends on nothing but the row, so it stays the same whatever other rows there are and in whatever order they come.
Two names differ also where the file system takes capitals for small letters (macOS, Windows) or writes letters with accents
in another way (macOS). Knows nothing of folders and of what is there already.
"""

import hashlib
import re
import string
import unicodedata

# What Windows keeps for devices, with any extension ("Naming Files, Paths, and Namespaces").
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\.|$)", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# With .json added these would be the names of a run's own files: its record and its completion mark.
_OF_A_RUN = re.compile(r"\.(run|done)$", re.IGNORECASE)
_MADE_ID = re.compile(r"[0-9a-f]{16}(-\d+)?")  # of a row that the manifest gave none; see rows.py
_DIGITS = string.digits + string.ascii_lowercase

# So that name, digest, extension and what a temporary file adds stay under 143 bytes, the least that file systems in use
# allow (eCryptfs; 255 elsewhere).
MAX_READABLE_BYTES = 80


def file_name(row_id: str, audio_path: str | None) -> str:
    """What the files of an utterance are called, before the dot and the extension.

    * A plain id (letters without accents, digits, `_`, `-`, `.`) is its own name: `talk-1`.
    * With capitals in it, `~~` and a number that tells which letters they are are added: `TED-1` becomes `TED-1~~7`.
    * Any other id is made readable, and `~` and 16 hexadecimal digits of its hash are added: `train/17` becomes
      `train_17~` and those digits.
    * So is the name of the audio file when the manifest gave no id.
    """
    if audio_path and _MADE_ID.fullmatch(row_id):
        readable = audio_path.replace("\\", "/").rstrip("/").rpartition("/")[2]
        return f"{_readable(readable.rpartition('.')[0] or readable)}~{_digest(row_id)}"
    if _is_plain(row_id):
        return f"{row_id}~~{capitals}" if (capitals := _capitals(row_id)) else row_id
    return f"{_readable(row_id)}~{_digest(row_id)}"


def column(text: str) -> str:
    """Text as a column that ends at white space can hold it: white space, control characters, `%` and a leading `;` as in URLs.

    Other texts give other columns, and `urllib.parse.unquote` gives the text back.
    """
    if text.isascii() and text.isprintable() and not {" ", "%"} & set(text) and text[:1] != ";":
        return text
    escaped = "".join(_escape(c) if c.isspace() or c == "%" or not c.isprintable() else c for c in text)
    return "%3B" + escaped[1:] if escaped.startswith(";") else escaped


def _is_plain(row_id: str) -> bool:
    return (
        len(row_id) <= MAX_READABLE_BYTES
        and _PLAIN.fullmatch(row_id) is not None
        and row_id[-1] != "."
        and not _DEVICES.match(row_id)
        and not _OF_A_RUN.search(row_id)
    )


def _capitals(row_id: str) -> str:
    """Which of the letters are capitals, as a number in base 36 with the first letter as its lowest bit; empty for none."""
    bits = sum(1 << place for place, letter in enumerate(filter(str.isalpha, row_id)) if letter.isupper())
    digits = ""
    while bits:
        bits, digit = divmod(bits, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _readable(text: str) -> str:
    """The letters and digits of a text, the rest as underscores; cut to `MAX_READABLE_BYTES`."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isalnum() or c in "-." else "_" for c in text[:MAX_READABLE_BYTES])
    kept = kept.encode("utf-8", "replace")[:MAX_READABLE_BYTES].decode("utf-8", "ignore").strip("-.")
    return f"_{kept}" if not kept or _DEVICES.match(kept) else kept


def _digest(row_id: str) -> str:
    return hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
