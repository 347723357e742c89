"""What a run will take and cost, at the speed that is given or at that of an earlier run: for `plan` and `submit`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from asrbatch.config import RunConfig
from asrbatch.errors import UsageError
from asrbatch.formatting import amount, show_text
from asrbatch.options import CheckedOptions, option

if TYPE_CHECKING:
    from asrbatch.manifest.survey import Estimate

NO_SPEED = (
    "no {what} is estimated without --rtfx: give a number, or the output of an earlier run, such as that "
    "of some hundred rows"
)

ALL_DEVICES = (
    "--devices all: the time is that of one device per process; divide it by their number. The cost holds one start-up "
    "per process"
)


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(CheckedOptions):
    """How fast the run is taken to be."""

    rtfx: str | None = option(
        None, "Seconds of audio a device does per second, or the output of an earlier run, to estimate from.",
        metavar="RTFX|OUTPUT",
    )  # fmt: skip
    startup: float | None = option(
        None, "Seconds until an engine is ready, for the estimate. [default: as in that run, or 0]",
        minimum=0.0, maximum=86400.0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.startup is not None and self.rtfx is None:
            raise UsageError(f"--startup {self.startup:g}: is a part of an estimate; give --rtfx as well")


class Speed(NamedTuple):
    """How fast one device is.

    Attributes:
        rtfx: seconds of audio per second, start-up aside.
        startup_s: until an engine is ready.
        source: who says so.
    """

    rtfx: float
    startup_s: float
    source: str


def speed_of(options: EstimateOptions) -> Speed | None:
    """None where none is given. Raises UsageError, OutputError: what is given is no speed, nor a run that has one."""
    if options.rtfx is None:
        return None
    try:
        rtfx = float(options.rtfx)
    except ValueError:
        speed = _speed_of_run(options.rtfx)
        return speed if options.startup is None else speed._replace(startup_s=options.startup)
    # Put so that NaN is refused, too.
    if not 0 < rtfx < float("inf"):
        raise UsageError(f"--rtfx {rtfx:g}: must be above 0; a run's summary states it")
    return Speed(rtfx, options.startup or 0.0, "--rtfx")


def _speed_of_run(given: str) -> Speed:
    from asrbatch.storage.metrics import device_seconds, total, versions
    from asrbatch.storage.run_files import read_run

    if not given.endswith(".jsonl"):
        raise UsageError(f"--rtfx {show_text(given)}: is neither a number nor the output of an earlier run, X.jsonl")
    found = read_run(Path(given).expanduser().absolute())
    if problem := next((part.problem for part in found.parts if part.problem), None):
        raise problem
    sessions = [session for part in found.parts if part.record for session in part.record["sessions"]]
    audio_s, worked_s = total(sessions, "audio_s"), device_seconds(sessions, "loop_s")
    if not audio_s or not worked_s:
        why = "its chunks are gone" if not found.parts else "it has written nothing yet"
        number = found.merged and found.merged.record.get("rtfx_end_to_end")
        give = f"--rtfx {number:g}, its rtfx_end_to_end" if number else "a number"
        raise UsageError(f"--rtfx {show_text(given)}: does not say how fast it was, as {why}; give {give}")
    started = [session["startup_s"] for session in sessions if session.get("startup_s") is not None]
    devices = ", ".join(versions(sessions)["device"])
    return Speed(round(audio_s / worked_s, 3), round(sum(started) / len(started), 1), f"{given}, on {devices}")


def estimate_text(estimate: dict[str, Any]) -> dict[str, str]:
    """The lines of an estimate, by what they are called."""
    devices = f" on {estimate['devices_per_process']} devices" if estimate["devices_per_process"] > 1 else ""
    source = "" if estimate["rtfx_from"] == "--rtfx" else f" (that of {show_text(estimate['rtfx_from'])})"
    lines = {
        "time": f"{estimate['wall_h']:,.3f} h for the longest process{devices}, {estimate['gpu_h']:,.3f} GPU-hours in "
        f"all: {estimate['audio_h']:,.3f} h of audio at RTFx {estimate['rtfx_per_device']:g} per device{source}, "
        f"{estimate['startup_s']:g} s start-up"
    }
    if estimate["cost"] is not None:
        per = estimate["cost_per_1000_audio_h"]
        each = "" if per is None else f", {amount(per)} per 1,000 h of audio"
        lines["cost"] = (
            f"{amount(estimate['cost'])}: {estimate['gpu_h']:,.3f} device-hours at {estimate['price_per_hour']:g}{each}"
        )
    return lines


def estimate_of(config: RunConfig, chunks: Sequence[int], speed: Speed, num_devices: int) -> "Estimate":
    """Of some chunks of a run, by what its manifest states. Raises ManifestError."""
    from asrbatch.manifest.survey import ManifestStats, estimate

    balance = ManifestStats(config.manifest, reading=config.reading).balance(config.num_chunks or 1, config.strategy)
    ids = list(chunks)
    parts = {name: getattr(balance, name)[ids] for name in ("num_rows", "audio_s", "num_unknown")}
    return estimate(
        replace(balance, **parts), speed.rtfx, speed.source, num_devices=num_devices, startup_s=speed.startup_s,
        price_per_hour=config.price_per_hour,
    )  # fmt: skip


def num_devices_of(config: RunConfig) -> int | None:
    """How many devices work on a process's rows; None when only the machine knows. Raises UsageError."""
    from asrbatch.engine.devices import check_names, num_ranks
    from asrbatch.engine.settings import parse_engine_args

    engine_args = parse_engine_args(config.engine.args)
    if config.devices is None:
        return num_ranks(engine_args)
    names = check_names(config.devices, engine_args)
    return None if names == ["all"] else len(names)
