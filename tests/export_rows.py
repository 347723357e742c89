"""Output rows to export, as a run writes them, and what an export wrote."""

import json
from pathlib import Path


def ok_row(
    row_id: str, text: str = "Hello there, how are you?", *, index: int | None = None, audio_s: float = 5.0, **fields
) -> dict:
    """A row as a run writes it, with one window and one segment over all of its audio."""
    window = {
        "start": 0.0,
        "end": audio_s,
        "text": text,
        "num_tokens": 7,
        "finish_reason": "stop",
        "avg_logprob": -0.25,
    }
    return {
        "id": row_id,
        "index": index if index is not None else abs(hash(row_id)) % 10**9,
        "audio_filepath": f"talks/{row_id}.wav",
        "status": "ok",
        "error": None,
        "pred_text": text,
        "audio_s": audio_s,
        "language": "en",
        "windows": [{**window, "flags": [], "attempts": []}],
        "segments": [{"start": 0.0, "end": audio_s, "text": text}] if text else [],
        "flags": [],
        **fields,
    }


def failed_row(row_id: str, kind: str = "missing") -> dict:
    error = {"kind": kind, "message": "gone"}
    return {
        **ok_row(row_id),
        "status": "failed",
        "error": error,
        "pred_text": None,
        "audio_s": None,
        "segments": [],
        "windows": [],
    }


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def files(folder: Path) -> dict[str, bytes]:
    """What stands in a folder and those below it, without indexes."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".index.jsonl")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
