"""Files over HTTP from a process of its own, with ranges, and as unreliable as is asked for; S3 (moto), Google (an
emulator).
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HTTP = "import sys; sys.path.insert(0, sys.argv[1]); import file_server; file_server.serve(sys.argv[2])"
_S3 = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
import threading; threading.Event().wait()
"""
_GS = """
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="speech")
server.start()
print("http://127.0.0.1:%d" % server._api._httpd.server_address[1], flush=True)
import threading; threading.Event().wait()
"""


@contextmanager
def http(folder: Path) -> Iterator[str]:
    """URL of the folder's files, also under names that make trouble the first three times, say, whatever the method:
    `/x/fail3/a.wav` is too busy, `/x/reset3/a.wav` resets the connection, `/x/cut3/a.wav` breaks off. `/x/gone0/a.wav`
    is no longer there, `/x/deny403/a.wav` is answered with 403, `/x/plain0/a.wav` knows no ranges, `/x/unsized0/a.wav`
    does not say how long it is either.

    What was asked for stands in `requests.log`, a line each.
    """
    (folder / "requests.log").touch()
    with _running(_HTTP, str(Path(__file__).parent), str(folder)) as url:
        yield url


@contextmanager
def s3() -> Iterator[str]:
    """Endpoint of an empty S3."""
    with _running(_S3) as url:
        yield url


@contextmanager
def gs() -> Iterator[str]:
    """Endpoint of a Google Cloud Storage with an empty bucket `speech`."""
    with _running(_GS) as url:
        yield url


@contextmanager
def _running(code: str, *arguments: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def serve(folder: str) -> None:
    import socket
    import threading
    from collections import Counter
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    asked, lock = Counter(), threading.Lock()

    class Files(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            trouble = re.match(r"/x/([a-z]+)(\d+)(/.*)", self.path)
            kind = trouble and trouble[1]
            wanted = self.headers.get("Range", "")
            with lock:
                asked[self.path] += 1
                number = asked[self.path]
                with open(Path(folder, "requests.log"), "a") as log:
                    log.write(f"{self.command} {self.path} {wanted}\n")
            path = Path(folder, (trouble[3] if trouble else self.path).lstrip("/").partition("?")[0])
            is_bad = trouble and number <= int(trouble[2])
            if is_bad and kind == "fail":
                self.send(503, b"busy")
            elif is_bad and kind == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.connection.close()
                self.close_connection = True
            elif kind == "deny":
                self.send(int(trouble[2]), b"no")
            elif kind == "gone":
                self.send(410, b"no more")
            elif not path.is_file():
                self.send(404, b"not here")
            else:
                data, headers, status = path.read_bytes(), {"Accept-Ranges": "bytes"}, 200
                if kind in ("plain", "unsized"):
                    headers = {} if kind == "plain" else {"Content-Length": None, "Connection": "close"}
                elif match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
                    first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                    data, status = data[first : last + 1], 206
                self.send(status, data, headers, end=len(data) // 2 if is_bad else None)

        def send(self, status: int, data: bytes, headers: dict | None = None, end: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[:end])
            if end is not None:
                self.close_connection = True

        def log_message(self, *_) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_) -> None:
            """Who asks may hang up at any time."""

    server = Server(("127.0.0.1", 0), Files)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
