"""Bytes that must survive: atomic files, URLs, JSON Lines, the rows file, the run record, the lease.

Begin with `journal.py` (the rows file), `lease.py` (one writer) and `paths.py` (which files a run has); `run_files.py`
reads what stands beside an output. May import the root modules only; knows nothing of audio, models or engines."""
