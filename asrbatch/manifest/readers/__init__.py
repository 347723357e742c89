"""One reader for each kind of source, behind the protocol in `base.py`: rows in order, any row by number, where its
audio is.

`sniff.py` tells what a file or folder is. Readers know nothing of the checks, ids and chunks that are the same for all
of them."""
