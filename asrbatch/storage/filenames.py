"""Names of files as people and systems write them: `~`, and the two Unicode forms of one letter.

A Mac may write `ü` as `u` and a combining mark (NFD), nearly all else writes one character (NFC); to Linux these are
two names. Knows nothing of manifests, and lists no folder.
"""

import os
import unicodedata

_MOST_BYTES = 255  # of one name, on nearly every file system


def is_too_long(name: str, more: int) -> bool:
    """Whether a name of so many more bytes would be."""
    return len(os.fsencode(name)) + more > _MOST_BYTES


def same_name(name: str) -> str:
    """Equal for names that differ in their Unicode form alone."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def forms_of(name: str) -> list[str]:
    """The name as it is, then in its other forms."""
    if name.isascii():
        return [name]
    return list(dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))))


def find_file(path: str) -> str:
    """The path under which a file is there, in whichever Unicode form each part of it is; the path itself where none
    is."""
    if path.isascii() or os.path.lexists(path):
        return path
    found = ""
    for part in path.split(os.sep):
        places = [found + form for form in forms_of(part)]
        # "" is the root, or the current folder.
        here = next((place for place in places if os.path.lexists(place or os.sep)), None)
        if here is None:
            return path
        found = here + os.sep
    return found.removesuffix(os.sep)


def expand_home(path: str) -> str:
    """`~/a.wav` as a path below the home folder; what else begins with `~` may be called so."""
    return os.path.expanduser(path) if path.startswith("~") else path
