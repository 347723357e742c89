"""One HTML page about a score: the worst rows (`rows.py`), the page (`page.py`), whole (`make.py`)."""
