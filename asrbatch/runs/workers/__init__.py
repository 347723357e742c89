"""`--devices`: one worker process per device, served by the parent, which alone writes.

Begin with `pool.py`; `worker.py` is the process, `failures.py` tells a sick device from a row that kills engines.
May import `engine`, `pipeline`, `runs`, `storage` and the root modules."""
