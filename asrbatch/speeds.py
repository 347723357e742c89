"""What the figures of speed and time mean, in the words that stand beside them wherever they are shown."""

SPEEDS = {
    "rtfx_engine": "RTFx of the engine: seconds of audio per second of one device in which it held work",
    "rtfx_end_to_end": "RTFx end to end: seconds of audio per second of one device, start-up and waiting included",
    "rtfx_stated": "RTFx stated: sum of the rows' `duration` over sum of their `time`, as the leaderboard has it",
    "wall_s": "wall time in seconds, summed over sessions",
    "span_s": "seconds from the first start to the last end, waiting in a queue included",
    "device_hours": "device-hours",
}
STAGES_ARE = (
    "the rows' own clocks; `queue` and `generate` are sums over a row's windows and attempts, which may run at the same time, "
    "`first_token` is that of its first window, `total` is wall time"
)
