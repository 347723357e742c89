"""Wrote the files beside it, with lhotse 1.33.0: `python make.py` in this folder. Their audio is not kept."""

import os

import numpy as np
import soundfile as sf
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet

os.makedirs("audio", exist_ok=True)
CHANNELS = {"meeting": 2, "call": 1, "unlabelled": 1}
for name, channels in CHANNELS.items():
    sf.write(f"audio/{name}.wav", np.zeros((48000, channels)), 16000)
recordings = RecordingSet.from_recordings(Recording.from_file(f"audio/{name}.wav") for name in CHANNELS)
supervisions = SupervisionSet.from_segments(
    [
        SupervisionSegment("call-2", "call", 1.5, 1.25, text="zwei", language="German", speaker="B", custom={"k": 1}),
        SupervisionSegment("call-1", "call", 0.25, 1.0, text="eins", language="de", speaker="A"),
        SupervisionSegment("meeting-1", "meeting", 0.0, 2.0, channel=1, text="drei"),
        SupervisionSegment("meeting-2", "meeting", 2.0, 1.0, channel=[0, 1], text="vier"),
    ]
)
recordings.to_file("demo_recordings_test.jsonl.gz")
supervisions.to_file("demo_supervisions_test.jsonl.gz")
recordings.to_file("demo_recordings_dev.json")
supervisions.to_file("demo_supervisions_dev.json")
cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
cuts.to_file("cuts.json")
cuts.trim_to_supervisions(keep_overlapping=False).to_file("trimmed.jsonl")
