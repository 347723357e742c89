"""One module for each command, named as it; none imports another.

Begin with `transcribe.py`, or `score.py`, the shortest. May import `cli`, `cluster`, `engine`, `evaluation`, `export`,
`manifest`, `models`, `runs`, `storage` and the root modules, most of them late: `--help` answers at once."""
