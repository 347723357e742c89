"""One reader for each kind of source, a `Reader` of `base.py`: rows in order, any row by number, where its audio is.

Begin with `base.py`; to add a format, copy `lhotse.py`, the shortest. `sniff.py` finds what a file or folder is,
`text.py` reads packed and remote text, `table.py` what Parquet and Arrow have in common. Readers know nothing of the
checks, ids and chunks that are the same for all of them. May import `manifest`, `storage` and the root modules."""
