"""Manifests and audio behind URLs: a real HTTP server that fails as asked, and the protocols of S3 and Google."""

import io
import json
import tarfile
import time

import file_server
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from object_stores import amazon, forget_s3, google

from asrbatch.errors import ManifestError, RowError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.storage import remote


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    there = tmp_path_factory.mktemp("served")
    sf.write(there / "a.wav", 0.1 * np.sin(np.arange(16000) / 20), 16000)
    return there


@pytest.fixture(scope="module")
def url(folder):
    with file_server.http(folder) as url:
        yield url


@pytest.fixture
def no_pauses(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def write(path, *audio):
    path.write_text("".join(json.dumps({"audio_filepath": a}) + "\n" for a in audio))
    return path


def requests_of(folder, name):
    return [line for line in (folder / "requests.log").read_text().splitlines() if name in line]


def test_audio_behind_a_url_is_read_late_and_tried_again(folder, url, tmp_path, no_pauses):
    names = ["a.wav", "x/fail3/a.wav", "x/cut2/a.wav", "x/fail4/a.wav", "none.wav"]
    manifest = open_manifest(write(tmp_path / "m.jsonl", *(f"{url}/{name}" for name in names)))
    rows = [manifest.read(n) for n in range(5)]
    assert not requests_of(folder, "a.wav")
    for row in rows[:3]:
        assert row.audio.resolve() == (folder / "a.wav").read_bytes()
    assert no_pauses == [0.5, 1.0, 2.0, 0.5, 1.0]
    with pytest.raises(RowError, match=rf"unreadable: {url}/x/fail4/a.wav: .*503.*; tried 4 times"):
        rows[3].audio.resolve()
    assert len(requests_of(folder, "GET /x/fail4/")) == 4
    with pytest.raises(RowError, match=rf"missing: {url}/none.wav: no such file"):
        rows[4].audio.resolve()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x/reset99/a.wav", "Disconnected|[Rr]eset"),
        ("127.0.0.1:9/a.wav", "Cannot connect to host 127.0.0.1:9"),
        ("no-such-host.invalid/a.wav", "Cannot connect to host no-such-host.invalid"),
    ],
)
def test_a_network_that_fails_is_no_missing_file(url, path, says, no_pauses):
    address = f"{url}/{path}" if path.startswith("x/") else f"http://{path}"
    with pytest.raises(RowError, match=says) as caught:
        remote.read_remote(address, "a.wav")
    assert caught.value.kind == "unreadable" and no_pauses == [0.5, 1.0, 2.0]
    with pytest.raises(ManifestError, match=f"{address}: cannot be read: .*({says}).*; tried 4 times"):
        remote.RemoteFile(address)


def test_a_network_that_comes_back_is_waited_for(folder, url, no_pauses):
    assert remote.read_remote(f"{url}/x/reset2/a.wav", "a.wav") == (folder / "a.wav").read_bytes()
    assert no_pauses  # how many is not sure: aiohttp tries a connection once more that it had kept open
    no_pauses.clear()
    # Each try looks twice: HEAD, and GET where that fails.
    assert remote.RemoteFile(f"{url}/x/fail4/a.wav?looked").size == (folder / "a.wav").stat().st_size
    assert no_pauses == [0.5, 1.0]


def test_what_is_no_longer_there_is_missing(url, no_pauses):
    with pytest.raises(RowError, match="missing: a.wav: no such file"):
        remote.read_remote(f"{url}/x/gone0/a.wav", "a.wav")
    with pytest.raises(ManifestError, match="gone0/a.wav: no such file"):
        remote.RemoteFile(f"{url}/x/gone0/a.wav")
    assert not no_pauses


@pytest.mark.parametrize(
    ("status", "fix"), [(401, "credentials that may"), (403, "credentials that may"), (400, "not tried again")]
)
def test_an_answer_that_will_not_change_is_not_asked_for_again(folder, url, no_pauses, status, fix):
    with pytest.raises(RowError, match=rf"unreadable: a\.wav: .*{status}.*; .*{fix}"):
        remote.read_remote(f"{url}/x/deny{status}/a.wav", "a.wav")
    assert requests_of(folder, f"/x/deny{status}/") == [f"GET /x/deny{status}/a.wav "]
    with pytest.raises(ManifestError, match=rf"deny{status}/a\.wav: cannot be read: .*{status}.*; .*{fix}"):
        remote.RemoteFile(f"{url}/x/deny{status}/a.wav")
    assert len(requests_of(folder, f"/x/deny{status}/")) <= 3 and not no_pauses  # HEAD, and GET where that fails
    with pytest.raises(RowError, match="429.*; tried 4 times"):  # too many requests is another matter
        remote.read_remote(f"{url}/x/deny429/a.wav?{status}", "a.wav")
    assert no_pauses == [0.5, 1.0, 2.0]


def test_a_bucket_that_may_not_be_read_is_asked_once(folder, url, no_pauses, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{url}/x/deny403")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    forget_s3()
    with pytest.raises(
        RowError, match="unreadable: b.wav: PermissionError: .*; give this process credentials that may read it"
    ):
        remote.read_remote("s3://speech/b.wav", "b.wav")
    with pytest.raises(ManifestError, match="s3://speech/m/.*: cannot be .*PermissionError"):
        open_manifest("s3://speech/m/*.jsonl")
    forget_s3()
    assert not no_pauses


@pytest.mark.parametrize("path", ["a.wav", "x/unsized0/a.wav"])
def test_more_than_is_allowed_is_not_read(url, path, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "MOST_BYTES", 1000)
    row = open_manifest(write(tmp_path / "m.jsonl", f"{url}/{path}")).read(0)
    with pytest.raises(RowError, match="unreadable: .*bytes; at most 1000 are read, cut it or copy it to a local disk"):
        row.audio.resolve()


def test_manifests_behind_urls(folder, url):
    data = (folder / "a.wav").read_bytes()
    write(folder / "m.jsonl", "a.wav", f"{url}/a.wav", "data:audio/wav;base64,UklG")
    rows = pa.table({"audio": [{"bytes": data, "path": None}] * 40, "n": range(40)})
    pq.write_table(rows, folder / "m.parquet", row_group_size=1)
    with tarfile.open(folder / "m.tar", "w") as tar:
        for n in range(3):
            info = tarfile.TarInfo(f"k{n}.wav")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    lines = open_manifest(f"{url}/m.jsonl")
    assert [lines.read(n).audio.resolve() for n in range(3)] == [data, data, b"RIF"]
    assert lines.where(1) == f"{url}/m.jsonl:2"
    table = open_manifest(f"{url}/m.parquet")
    assert len(table) == 40 and not requests_of(folder, "GET /m.parquet \n")
    (folder / "requests.log").write_text("")
    assert table.read(30).fields["n"] == 30 and table.read(30).audio.resolve() == data
    sizes = [line.rpartition("=")[2].split("-") for line in requests_of(folder, "GET /m.parquet")]
    assert sum(int(last) - int(first) for first, last in sizes) < 3 * len(data)  # of one row, not of 40
    tars = open_manifest(f"{url}/m.tar")
    assert [tars.read(n).id for n in range(3)] == ["k0", "k1", "k2"] and tars.read(2).audio.resolve() == data


def test_a_server_without_ranges_sends_a_file_once(folder, url, monkeypatch):
    data = (folder / "a.wav").read_bytes()
    rows = [{"audio_filepath": f"{url}/a.wav", "id": f"r{n}", "text": "x" * 1000} for n in range(3000)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"audio": [{"bytes": data, "path": None}] * 40, "n": range(40)}), folder / "long.parquet")
    (folder / "requests.log").write_text("")
    lines = open_manifest(f"{url}/x/plain0/long.jsonl")
    assert [lines.read(n).id for n in (0, 1500, 2999)] == ["r0", "r1500", "r2999"]
    table = open_manifest(f"{url}/x/plain0/long.parquet")
    assert table.read(30).fields["n"] == 30 and table.read(30).audio.resolve() == data
    # Beside looks at its first bytes, after which the connection is dropped.
    asked = [line.rpartition("=")[2] for line in requests_of(folder, "GET /x/plain0/long.jsonl")]
    assert [each for each in asked if each not in ("0-4095", "0-3")] == ["0-1048575"]
    monkeypatch.setattr(remote, "MOST_KEPT_BYTES", 1 << 20)
    with pytest.raises(
        ManifestError, match=r"long\.jsonl: the server sends it only as a whole, and that is \d+ bytes; at most"
    ):
        open_manifest(f"{url}/x/plain0/long.jsonl")


def test_urls_that_cannot_be_read_are_named(url, tmp_path, no_pauses):
    with pytest.raises(ManifestError, match=f"{url}/none.jsonl: no such file"):
        open_manifest(f"{url}/none.jsonl")
    with pytest.raises(ManifestError, match=f"{url}/x/fail9/m.jsonl: .*; tried 4 times"):
        open_manifest(f"{url}/x/fail9/m.jsonl")
    with pytest.raises(
        ManifestError, match=r'm\.jsonl:1: audio_filepath = "gopher://x/a.wav": gopher:// is not supported'
    ):
        open_manifest(write(tmp_path / "m.jsonl", "gopher://x/a.wav"))


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    import fsspec

    real = fsspec.get_filesystem_class

    def without_gcsfs(scheme):
        if scheme == "gs":
            raise ImportError("gcsfs")
        return real(scheme)

    monkeypatch.setattr(fsspec, "get_filesystem_class", without_gcsfs)
    remote.why_not.cache_clear()
    with pytest.raises(
        ManifestError,
        match=r"gs:// needs gcsfs, which is not installed; pip install '\.\[gs\]' where asrbatch was cloned",
    ):
        open_manifest(write(tmp_path / "m.jsonl", "gs://bucket/a.wav"))
    remote.why_not.cache_clear()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_buckets(folder, tmp_path, monkeypatch, scheme):
    serve, client = {"s3": (file_server.s3, amazon), "gs": (file_server.gs, google)}[scheme]
    with serve() as endpoint:
        files = client(monkeypatch, endpoint)
        files.pipe_file("speech/audio/a.wav", (folder / "a.wav").read_bytes())
        for n, name in enumerate(("a.wav", "none.wav")):
            manifest = write(tmp_path / "m.jsonl", "../audio/a.wav", f"{scheme}://speech/audio/{name}")
            files.pipe_file(f"speech/m/{n}.jsonl", manifest.read_bytes())
        manifest = open_manifest(f"{scheme}://speech/m/*.jsonl")
        places = [f"{scheme}://speech/m/{n}.jsonl:{line}" for n in (0, 1) for line in (1, 2)]
        assert [manifest.where(n) for n in range(4)] == places
        for n in range(3):
            assert manifest.read(n).audio.resolve() == (folder / "a.wav").read_bytes()
        with pytest.raises(RowError, match=rf"missing: {scheme}://speech/audio/none\.wav: no such file"):
            manifest.read(3).audio.resolve()
    remote._system.cache_clear()


def test_googles_buckets_that_may_not_be_read_are_asked_once(url, no_pauses, monkeypatch, caplog):
    google(monkeypatch, f"{url}/x/deny403")
    with pytest.raises(RowError, match="OSError: Forbidden: .*; give this process credentials that may read it"):
        remote.read_remote("gs://speech/b.wav", "b.wav")
    google(monkeypatch, f"{url}/x/deny400")
    with pytest.raises(RowError, match="because such an answer does not change"):
        remote.read_remote("gs://speech/b.wav", "b.wav")
    assert not no_pauses
    assert "gcsfs" not in {
        record.name for record in caplog.records
    }  # it would add a traceback to what the message says
    remote._system.cache_clear()


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize("path", ["", "x/plain0/"])
def test_a_file_is_looked_up_once_however_often_it_is_entered(folder, url, kind, path):
    """Twice with the look at its first bytes, thrice with `open_manifest`'s look at what it is.

    Before, tars were looked up once more, Parquet files for every row group; of a server without ranges each of these
    looks brought all of the file again.
    """
    data, name = (folder / "a.wav").read_bytes(), f"often.{kind}"
    table = pa.table({"audio": [{"bytes": data, "path": None}] * 40, "n": range(40)})
    pq.write_table(table, folder / "often.parquet", row_group_size=10)
    with tarfile.open(folder / "often.tar", "w") as tar:
        for n in range(40):
            info = tarfile.TarInfo(f"k{n}.wav")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (folder / "requests.log").write_text("")
    manifest = open_manifest(f"{url}/{path}{name}")
    for n in range(len(manifest)):
        assert manifest.read(n).audio.resolve() == data
    heads, gets = requests_of(folder, "HEAD "), requests_of(folder, "GET ")
    assert len(heads) <= 3
    if path:
        assert len([line for line in gets if not line.endswith("bytes=0-4095")]) <= 2
