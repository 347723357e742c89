"""Output rows to write, shortened to what the storage looks at."""

import random


def row(index: int, text: str = "one two", **more) -> dict:
    """An output row, shortened to what counting needs and something to lose."""
    result = {"status": "ok", "error": None, "pred_text": text, "audio_s": 1.5, "flags": []}
    return {"id": f"u{index}", "index": index, "text": text, **result, **more}


def failed(index: int, kind: str = "missing") -> dict:
    error = {"kind": kind, "message": "gone"}
    return row(index, status="failed", error=error, pred_text=None, audio_s=None)


def big_rows() -> list[dict]:
    """Up to 300 kB each, so that a kill may fall inside a write."""
    sizes = random.Random(3)
    return [row(i, chr(0x20AC) * sizes.choice([10, 10, 100_000])) for i in range(400)]
