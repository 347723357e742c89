"""One HTML page about a score: worst rows (`rows.py`), plots (`plots.py`), the page (`page.py`), whole (`make.py`).

Begin with `make.py`. May import `evaluation`, `manifest`, `storage` and the root modules."""
