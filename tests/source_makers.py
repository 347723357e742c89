"""One data set written in every format: the same rows, ids and audio, for tests that hold the readers against each
other.
"""

import base64
import csv
import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # id, text, duration (s), lang, and `file`: a Path


def make_jsonl(folder: Path, rows: list[Row]) -> Path:
    return _write_lines(folder / "m.jsonl", [_with_path(row, str(row["file"])) for row in rows])


def make_jsonl_gz(folder: Path, rows: list[Row]) -> Path:
    path = folder / "m.jsonl.gz"
    path.write_bytes(gzip.compress(make_jsonl(folder, rows).read_bytes()))
    (folder / "m.jsonl").unlink()
    return path


def make_jsonl_zst(folder: Path, rows: list[Row]) -> Path:
    import zstandard

    path = folder / "m.jsonl.zst"
    path.write_bytes(zstandard.compress(make_jsonl(folder, rows).read_bytes()))
    (folder / "m.jsonl").unlink()
    return path


def make_json_array(folder: Path, rows: list[Row]) -> Path:
    """As `DataFrame.to_json(orient="records", indent=1)` writes it."""
    path = folder / "m.json"
    path.write_text(json.dumps([_with_path(row, str(row["file"])) for row in rows], ensure_ascii=False, indent=1))
    return path


def make_several(folder: Path, rows: list[Row]) -> str:
    for number, row in enumerate(rows):
        _write_lines(folder / f"part_{number:03}.json", [_with_path(row, str(row["file"]))])
    return str(folder / "part_*.json")


def make_data_uris(folder: Path, rows: list[Row]) -> Path:
    uris = [f"data:audio/wav;base64,{base64.b64encode(row['file'].read_bytes()).decode()}" for row in rows]
    return _write_lines(folder / "m.jsonl", [_with_path(row, uri) for row, uri in zip(rows, uris, strict=True)])


def make_csv(folder: Path, rows: list[Row]) -> Path:
    return _write_table(folder / "m.csv", rows, ",")


def make_tsv(folder: Path, rows: list[Row]) -> Path:
    return _write_table(folder / "m.tsv", rows, "\t")


def make_folder(folder: Path, rows: list[Row]) -> Path:
    """Audio and metadata.jsonl."""
    names = [shutil.copy(row["file"], folder / f"{n}{row['file'].suffix}").name for n, row in enumerate(rows)]
    lines = [{"file_name": name, **_plain(row)} for name, row in zip(names, rows, strict=True)]
    _write_lines(folder / "metadata.jsonl", lines)
    return folder


def make_folder_csv(folder: Path, rows: list[Row]) -> Path:
    names = [shutil.copy(row["file"], folder / f"{n}{row['file'].suffix}").name for n, row in enumerate(rows)]
    _write_table(folder / "metadata.csv", rows, ",", "file_name", names)
    return folder


def make_kaldi(folder: Path, rows: list[Row]) -> Path:
    """One segment for each recording, as long as the row states."""
    lines = {name: [] for name in ("wav.scp", "segments", "text", "utt2lang")}
    for number, row in enumerate(rows):
        lines["wav.scp"].append(f"rec{number} {row['file']}")
        lines["segments"].append(f"{row['id']} rec{number} 0.0 {row['duration']}")
        lines["text"].append(f"{row['id']} {row['text']}")
        lines["utt2lang"].append(f"{row['id']} {row['lang']}")
    for name, text in lines.items():
        (folder / name).write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder


def make_nemo_tar(folder: Path, rows: list[Row]) -> Path:
    """Two shards."""
    manifest = []
    for shard in range(2):
        with tarfile.open(folder / f"audio_{shard}.tar", "w") as tar:
            for number in range(shard, len(rows), 2):
                name = f"clip{number}{rows[number]['file'].suffix}"
                tar.add(rows[number]["file"], name)
                manifest.append((number, {**_with_path(rows[number], name), "shard_id": shard}))
    _write_lines(folder / "tarred_audio_manifest.json", [row for _, row in sorted(manifest, key=lambda pair: pair[0])])
    return folder


def make_webdataset(folder: Path, rows: list[Row]) -> Path:
    """The key is the id; the text has a member of its own, the rest is in JSON."""
    path = folder / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for row in rows:
            fields = {name: value for name, value in _plain(row).items() if name not in ("id", "text")}
            audio = (row["file"].suffix[1:], row["file"].read_bytes())
            for ending, data in (audio, ("txt", row["text"].encode()), ("json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(f"{row['id']}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def make_parquet(folder: Path, rows: list[Row]) -> Path:
    import pyarrow.parquet as pq

    path = folder / "m.parquet"
    pq.write_table(_arrow(rows), path)
    return path


def make_saved(folder: Path, rows: list[Row]) -> Path:
    import datasets

    datasets.Dataset(_arrow(rows)).save_to_disk(folder / "saved")
    return folder / "saved"


def make_arrow(folder: Path, rows: list[Row]) -> Path:
    import pyarrow as pa

    table = _arrow(rows)
    with pa.OSFile(str(folder / "m.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return folder / "m.arrow"


def make_hub(folder: Path, rows: list[Row]) -> Path:
    """A copy of a hub data set: two shards in a folder that the card names."""
    import pyarrow.parquet as pq

    (folder / "clean").mkdir()
    table, half = _arrow(rows), len(rows) // 2
    pq.write_table(table.slice(0, half), folder / "clean" / "test-00000-of-00002.parquet")
    pq.write_table(table.slice(half), folder / "clean" / "test-00001-of-00002.parquet")
    card = "configs:\n- config_name: clean\n  data_files:\n  - split: test\n    path: clean/test-*\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")
    return folder


def make_lhotse(folder: Path, rows: list[Row]) -> Path:
    """Cuts as lhotse writes them."""
    return _write_cuts(folder / "cuts.jsonl.gz", rows)


def make_lhotse_json(folder: Path, rows: list[Row]) -> Path:
    """The same as one JSON array."""
    return _write_cuts(folder / "cuts.json", rows)


def make_lhotse_pair(folder: Path, rows: list[Row]) -> Path:
    """Recordings and supervisions, as recipes write them."""
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

    recordings = [Recording.from_file(row["file"], recording_id=f"r-{row['id']}") for row in rows]
    supervisions = [
        SupervisionSegment(row["id"], f"r-{row['id']}", 0.0, row["duration"], text=row["text"], language=row["lang"])
        for row in rows
    ]
    RecordingSet.from_recordings(recordings).to_file(folder / "x_recordings_test.jsonl.gz")
    SupervisionSet.from_segments(supervisions).to_file(folder / "x_supervisions_test.jsonl.gz")
    return folder / "x_supervisions_test.jsonl.gz"


def _write_cuts(path: Path, rows: list[Row]) -> Path:
    from lhotse import CutSet, Recording, SupervisionSegment

    cuts = []
    for row in rows:
        cut = Recording.from_file(row["file"]).to_cut().with_id(row["id"])
        cut.duration = row["duration"]
        said = {"text": row["text"], "language": row["lang"]}
        cut.supervisions = [SupervisionSegment(f"s-{row['id']}", cut.recording.id, 0.0, row["duration"], **said)]
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(path)
    return path


MAKERS = {
    "jsonl": make_jsonl, "jsonl.gz": make_jsonl_gz, "jsonl.zst": make_jsonl_zst, "several": make_several,
    "data-uri": make_data_uris, "csv": make_csv, "tsv": make_tsv, "folder": make_folder, "folder-csv": make_folder_csv,
    "kaldi": make_kaldi, "nemo-tar": make_nemo_tar, "webdataset": make_webdataset, "parquet": make_parquet,
    "saved": make_saved,
    "arrow": make_arrow, "hub": make_hub, "lhotse": make_lhotse, "lhotse-json": make_lhotse_json,
    "lhotse-pair": make_lhotse_pair, "json-array": make_json_array,
}  # fmt: skip


def _plain(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "file"}


def _with_path(row: Row, path: str) -> Row:
    return {"audio_filepath": path, **_plain(row)}


def _write_lines(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _write_table(
    path: Path, rows: list[Row], delimiter: str, column: str = "audio_filepath", names: list[str] = ()
) -> Path:
    names = names or [str(row["file"]) for row in rows]
    with open(path, "w", encoding="utf-8", newline="") as file:
        # In TSV a quote is a plain character.
        plain = {"quoting": csv.QUOTE_NONE, "quotechar": None} if delimiter == "\t" else {}
        writer = csv.DictWriter(file, [column, *_plain(rows[0])], delimiter=delimiter, **plain)
        writer.writeheader()
        writer.writerows({column: name, **_plain(row)} for name, row in zip(names, rows, strict=True))
    return path


def _arrow(rows: list[Row]):
    import pyarrow as pa

    columns = {name: [row[name] for row in rows] for name in _plain(rows[0])}
    cells = [{"bytes": row["file"].read_bytes(), "path": row["file"].name} for row in rows]
    return pa.table({"audio": cells, **columns})
