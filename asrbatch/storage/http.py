"""One request over HTTP, told as it went: what is missing, what failed, and whether the server knows ranges.

fsspec's own look at a URL calls every failure a file that does not exist, so reads go through its session directly.
Knows nothing about tries or limits at a time. Imports neither fsspec nor aiohttp: both come with the file system it is
given."""

import asyncio
import re
from typing import Any, NamedTuple

SCHEMES = ("http", "https")
_MISSING = (404, 410)
_PIECE_BYTES = 1 << 20
# Of a server that sends the whole file whatever range is asked for: a start so near is taken, and the connection
# dropped.
_NEAR_BYTES = 64 << 10
_RANGE = re.compile(r"bytes (\d+)-")


class TooLargeError(Exception):
    """A file that is not read, however often it is tried."""

    def __init__(self, size: int | str, most: int):
        super().__init__(f"{size} bytes; at most {most} are read, cut it or copy it to a local disk")


class HttpResponse(NamedTuple):
    """What a server gave: `data` is all of the file where `whole`, otherwise what was asked for."""

    data: bytes
    whole: bool


def get(system: Any, url: str, most: int, start: int | None = None, end: int | None = None) -> HttpResponse:
    """Bytes of a URL.

    Args:
        system: fsspec's HTTP file system.
        most: bytes that are read at most.
        start, end: the range [start, end) to ask for; None for all of the file.

    Raises:
        FileNotFoundError: the server says that it is not there (404) or no longer (410).
        TooLargeError: there is more than `most`.
        Exception: aiohttp's errors for all else; OSError for another range than was asked for.
    """
    # fsspec runs one event loop in a thread of its own, and its session belongs to that loop.
    return asyncio.run_coroutine_threadsafe(_get(system, url, most, start, end), system.loop).result()


def info(system: Any, url: str) -> dict[str, Any]:
    """What fsspec knows of a URL. Raises what really went wrong; FileNotFoundError only as `get` does."""
    try:
        known: dict[str, Any] = system.info(url)
        return known
    except FileNotFoundError as e:
        # fsspec raises FileNotFoundError for every failure; the cause tells a missing file from a server that is down.
        if e.__cause__ is None or getattr(e.__cause__, "status", None) in _MISSING:
            raise
        raise e.__cause__ from None


async def _get(system: Any, url: str, most: int, start: int | None, end: int | None) -> HttpResponse:
    # What is packed for the way would have other lengths and other ranges.
    headers = {"Accept-Encoding": "identity"}
    if end is not None:
        headers["Range"] = f"bytes={start}-{end - 1}"
    session = await system.set_session()
    async with session.get(system.encode_url(url), headers=headers) as answer:
        if answer.status in _MISSING:
            raise FileNotFoundError(url)
        answer.raise_for_status()
        if end is not None and answer.status == 206:
            match = _RANGE.match(answer.headers.get("Content-Range", ""))
            # A proxy may answer 206 with another range than was asked for: such bytes would be decoded as audio.
            if match is None or int(match[1]) != start:
                raise OSError(f"asked for byte {start}, the server gave {answer.headers.get('Content-Range')}")
            return HttpResponse(await _body(answer, end - start), whole=False)
        if end is not None and end <= _NEAR_BYTES:
            return HttpResponse((await _body(answer, end, drop_rest=True))[start:], whole=False)
        # Refused by the length the server states, before a gigabyte has travelled.
        if (answer.content_length or 0) > most:
            raise TooLargeError(answer.content_length, most)
        return HttpResponse(await _body(answer, most), whole=True)


async def _body(answer: Any, most: int, *, drop_rest: bool = False) -> bytes:
    pieces, size = [], 0
    async for piece in answer.content.iter_chunked(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        # A server need not state a length, nor keep to it.
        if size > most and not drop_rest:
            raise TooLargeError(f"more than {most}", most)
        if size >= most and drop_rest:
            break
    return b"".join(pieces)[:most]
