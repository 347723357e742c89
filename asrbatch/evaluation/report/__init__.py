"""One HTML page about a score, of one run or several: their records and metrics (`runs.py`), worst rows (`rows.py`),
plots (`plots.py`, `figures.py`), the page (`page.py`), whole (`make.py`).

Begin with `make.py`. May import `evaluation`, `manifest`, `storage` and the root modules."""
