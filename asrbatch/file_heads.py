"""What people give by mistake instead of text, told by its first bytes, and what to do about it."""

KNOWN_HEADS = {
    b"\x1f\x8b": ("gzip data", "unpack it first"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("zstandard data", "unpack it first"),
    b"BZh": ("bzip2 data", "unpack it first"),
    b"\xfd7zXZ": ("xz data", "unpack it first"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
    b"ARROW1": ("an Arrow file", "transcribe reads it as a manifest, from a file of its own"),
    b"\xff\xff\xff\xff": ("an Arrow stream", "transcribe reads it as a manifest, from a file of its own"),
    b"RIFF": ("an audio file", "write a manifest that names it"),
    b"fLaC": ("an audio file", "write a manifest that names it"),
    b"OggS": ("an audio file", "write a manifest that names it"),
    b"ID3": ("an audio file", "write a manifest that names it"),
}


def known_head(head: bytes) -> tuple[str, str] | None:
    """What the file is and what to do; None where its first bytes say nothing."""
    return next((what for magic, what in KNOWN_HEADS.items() if head.startswith(magic)), None)
