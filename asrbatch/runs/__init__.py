"""One resumable run: its plan and fingerprint, what is left to do, one engine here or one worker per device.

Begin with `runner.py`: options in, completion mark out. `plan.py` settles everything that can refuse a run before an
engine is started. May import `audio`, `engine`, `manifest`, `models`, `pipeline`, `storage` and the root modules."""
