"""A hub of one's own: serves data set repositories from a folder over HTTP, as far as reading them goes.

The clients (huggingface_hub, datasets, fsspec) are the real ones; HF_ENDPOINT sends them here.
"""

import hashlib
import json
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_REPO = r"/api/datasets/([^/]+(?:/[^/]+)?)(?:/revision/(.+))?"
_SERVER = "import sys; sys.path.insert(0, sys.argv[1]); import hub_server; hub_server.serve(sys.argv[2])"


@contextmanager
def serving(folder: Path):
    """(its URL, a function that lists the requests so far as `GET /path bytes=0-99`), in a process of its own."""
    log = folder / "requests.log"
    log.touch()
    command = [sys.executable, "-c", _SERVER, str(Path(__file__).parent), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip(), lambda: log.read_text().splitlines()
    finally:
        process.kill()
        process.wait()


def serve(folder: str) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            paths = json.loads(self.rfile.read(int(self.headers["Content-Length"]))).get("paths", [])
            repo = Path(folder, re.fullmatch(r"/api/datasets/(.+?)/paths-info/.+", self.path)[1])
            self.send(200, [entry(repo, path) for path in paths if (repo / path).exists()])

        def answer(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            with open(Path(folder, "requests.log"), "a") as log:
                log.write(f"{self.command} {path} {self.headers.get('Range', '')}\n")
            if match := re.fullmatch(r"/datasets/(.+?)/resolve/([^/]+|refs/.+?)/(.+)", path):
                self.send_file(Path(folder, match[1], match[3]))
            elif match := re.fullmatch(r"/api/datasets/(.+?)/tree/([^/]+)(?:/(.+))?", path):
                repo = Path(folder, match[1])
                is_deep = parse_qs(url.query).get("recursive", [""])[0].lower() == "true"
                found = (repo / (match[3] or "")).glob("**/*" if is_deep else "*")
                self.send(200, [entry(repo, str(each.relative_to(repo))) for each in sorted(found)])
            elif (match := re.fullmatch(_REPO, path)) and Path(folder, match[1]).is_dir():
                repo = Path(folder, match[1])
                if match[2] not in (None, "main", COMMIT):
                    self.send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
                    return
                files = [{"rfilename": str(p.relative_to(repo))} for p in sorted(repo.rglob("*")) if p.is_file()]
                self.send(200, {"id": match[1], "sha": COMMIT, "siblings": files, "private": False, "tags": []})
            else:
                self.send(404, {"error": "not here"}, {"X-Error-Code": "RepoNotFound"})

        def send_file(self, path: Path) -> None:
            if not path.is_file():
                self.send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
                return
            data, headers, status = path.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(path)}"'}, 200
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                data, status = data[first : last + 1], 206
            self.send(status, data, headers)

        def send(self, status: int, body, headers: dict | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_) -> None:
            pass

    def entry(repo: Path, path: str) -> dict:
        at = repo / path
        if at.is_dir():
            return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        return {"type": "file", "path": path, "oid": digest(at), "size": at.stat().st_size}

    def digest(path: Path) -> str:
        return hashlib.sha1(path.read_bytes()).hexdigest()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
