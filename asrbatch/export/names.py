"""What the files of an utterance are called: as its id, with a hash where another id would have the same name.

Knows nothing of folders and of what is there already.
"""

import hashlib
import re
import unicodedata
from urllib.parse import quote

_UNSAFE = frozenset('/\\:*?"<>|')
# Stands before a hash, and nowhere else: an id that holds it has `_` there.
_HASHED = "~"
# With .json added these would be the names of a run's own files: its record and its completion mark.
_OF_A_RUN = re.compile(r"\.(run|done)$", re.IGNORECASE)
# Of a row that the manifest gave none (`manifest.row.hash_row`).
_MADE_ID = re.compile(r"[0-9a-f]{16}(-\d+)?")

# So that name, hash, extension and what a temporary file adds stay under 143 bytes, the least that file systems in use
# allow (eCryptfs; 255 elsewhere).
MAX_NAME_BYTES = 100


def file_name(row_id: str, audio_path: str | None, collides: bool) -> str:
    """The name before the dot and the extension.

    It is the id, or that of the audio file where the manifest gave no id; what file systems refuse becomes `_`, and it
    ends after `MAX_NAME_BYTES`.

    Args:
        collides: another id has a name with the same `name_key`: `~` and 16 hexadecimal digits of the id's hash are
            added.
    """
    name = _readable(row_id, audio_path)
    return f"{name}{_HASHED}{_digest(row_id)}" if collides or _OF_A_RUN.search(name) else name


def name_key(row_id: str, audio_path: str | None) -> str:
    """The same for names that one file system or another takes for one: those that differ by capitals, or in how
    accents are written."""
    name = unicodedata.normalize("NFC", _readable(row_id, audio_path)).casefold()
    return unicodedata.normalize("NFD", name).casefold()


def column(text: str) -> str:
    """Text as a column that ends at white space can hold it: white space, control characters, `%` and a leading `;` as
    in URLs.

    Other texts give other columns, and `urllib.parse.unquote` gives the text back.
    """
    if text.isascii() and text.isprintable() and not {" ", "%"} & set(text) and text[:1] != ";":
        return text
    escaped = "".join(
        quote(c, safe="", errors="surrogatepass") if c.isspace() or c == "%" or not c.isprintable() else c for c in text
    )
    return "%3B" + escaped[1:] if escaped.startswith(";") else escaped


def _readable(row_id: str, audio_path: str | None) -> str:
    text = row_id
    if audio_path and _MADE_ID.fullmatch(row_id):
        file = audio_path.replace("\\", "/").rstrip("/").rpartition("/")[2]
        text = file.rpartition(".")[0] or file
    kept = "".join(c if c.isprintable() and c not in _UNSAFE and c != _HASHED else "_" for c in text[:MAX_NAME_BYTES])
    return kept.encode()[:MAX_NAME_BYTES].decode("utf-8", "ignore").lstrip("-. ").rstrip() or "_"


def _digest(row_id: str) -> str:
    return hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
