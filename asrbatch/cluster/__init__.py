"""A run over many tasks: SLURM scripts, Jobs of Kubernetes, how far all chunks are, and the merge that proves the run
complete.

Begin with `merge.py`, `status.py`, or `jobs.py` and `slurm.py`. May import `manifest`, `runs` (a run's fingerprint,
and reading its rows), `storage` and the root modules; needs no engine."""
