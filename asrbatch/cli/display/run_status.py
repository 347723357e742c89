"""What is said of a run, whoever shows it: one line while it goes on, a few lines and a table at its end."""

import sys
from collections.abc import Sequence

from rich.table import Column, Table

from asrbatch.formatting import clock
from asrbatch.storage.cost import cost_lines


def starting_line(step: str, seconds: float) -> str:
    return f"{step}, {seconds:.0f} s"


def done_of(progress) -> tuple[float, float]:
    """How much is done, and of how much: in seconds of audio where every row states its duration, in rows otherwise."""
    if progress.total_audio_s is None:
        return progress.tally.rows + progress.open_rows, progress.total_rows
    # As the total is: of what was really decoded, the bar would not end at its end.
    return progress.stated_s + progress.open_s, progress.total_audio_s or progress.total_rows


def plain_line(progress) -> str:
    """All parts in one line, for a log."""
    return fitted(parts_of(progress), sys.maxsize)


def parts_of(progress) -> list[tuple[int, str]]:
    """What is said of a run, in this order; where there is too little room, the highest number is left out first."""
    tally = progress.tally
    return [
        (0, f"{tally.rows}/{progress.total_rows} rows"),
        (1, f"{tally.failed} failed" if tally.failed else ""),
        (3, _audio(progress.tally.audio_s + progress.open_s, progress.total_audio_s)),
        (4, f"RTFx {_number(_rtfx(progress))}"),
        (2, f"ETA {_eta(progress)}"),
        (5, _slots(progress)),
    ]


def fitted(parts: Sequence[tuple[int, str]], room: int) -> str:
    """The parts that fit into `room` columns with two spaces between them, those with the lowest numbers first."""
    kept = [part for part in parts if part[1]]
    while len(kept) > 1 and sum(len(text) + 2 for _, text in kept) - 2 > room:
        kept.remove(max(kept))
    return "  ".join(text for _, text in kept)


def headline(summary) -> list[str]:
    tally, figures = summary.progress.tally, summary.figures
    of = f"{tally.rows} of {summary.progress.total_rows} rows"
    ends = {
        "already_complete": f"already complete: {tally.rows} rows; nothing was run",
        "interrupted": f"interrupted: {of}; run the same command to continue",
        "complete": f"complete: {tally.rows} rows, {tally.audio_s / 3600:.3f} h of audio",
    }
    lines = [ends[summary.outcome]]
    if figures.get("rtfx_engine"):
        lines.append(
            f"RTFx of one device: {figures['rtfx_engine']:g} while the engine worked, "
            f"{figures['rtfx_end_to_end']:g} end to end, start-up included"
        )
    lines += cost_lines(figures)
    if summary.progress.workers_died:
        lines.append(f"{summary.progress.workers_died} workers died; what they held was done again")
    if tally.errors:
        lines.append("failed: " + ", ".join(f"{n} {kind}" for kind, n in tally.errors.most_common()))
    if tally.flags:
        lines.append("flags: " + ", ".join(f"{n} {flag}" for flag, n in tally.flags.most_common()))
    return lines


def stage_table(progress) -> Table:
    stage_times = progress.stage_times
    heads = "stage", Column("seconds", justify="right"), "what it is"
    table = Table(*heads, title="where this session's time went", title_justify="left")
    for stage, seconds, meaning in (
        ("start-up", progress.startup_s, "until the engine was ready"),
        *((f"· {step}", seconds, "") for step, seconds in progress.startup_steps.items() if seconds >= 0.5),
        ("transcribing", stage_times.wall, "from the first row taken to the last written"),
        ("· engine", stage_times.engine, "of that: the engine held at least one window"),
        ("· engine full", stage_times.full, "of that: it held as many as it works on at once"),
        ("· starved", stage_times.engine_idle, "of transcribing: the engine had nothing to do"),
        ("read", stage_times.read, "decoding and resampling, summed over workers, beside the engine"),
        ("prepare", stage_times.prepare, "features, summed over workers, beside the engine"),
        ("write", stage_times.write, "appending rows"),
    ):
        table.add_row(stage, f"{seconds:.1f}", meaning)
    return table


def _audio(answered_s: float, total_s: float | None) -> str:
    """Audio that is answered, in seconds where all of it is less than an hour."""
    per_unit, unit, places = (1, "s", 0) if max(answered_s, total_s or 0.0) < 3600 else (3600, "h", 2)
    of = "" if total_s is None else f"/{total_s / per_unit:.{places}f}"
    return f"{answered_s / per_unit:.{places}f}{of} {unit}"


def _slots(progress) -> str:
    """How many windows the engine works on, of how many it could, and how many wait for it; or that it waits."""
    queued = max(0, progress.in_engine - progress.capacity)
    busy = f"{progress.in_engine - queued}/{progress.capacity} slots busy"
    unread = progress.total_rows - progress.tally.rows - progress.in_engine
    starved = progress.in_engine < progress.capacity and unread > 0
    return f"{busy}, waiting for audio" if starved else f"{busy}, {queued} waiting"


def _rtfx(progress) -> float | None:
    answered_s = progress.session_audio_s + progress.open_s
    return answered_s / progress.stage_times.engine if answered_s and progress.stage_times.engine > 0 else None


def _eta(progress) -> str:
    """From this session's pace so far, in what `done_of` counts."""
    done, total = done_of(progress)
    if progress.total_audio_s is None:
        by_session = progress.session_rows + progress.open_rows
    else:
        by_session = progress.session_stated_s + progress.open_s
    # The pace of less than a second is chance.
    if not by_session or progress.stage_times.wall < 1:
        return "-"
    return clock(progress.stage_times.wall * max(0.0, total - done) / by_session)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
