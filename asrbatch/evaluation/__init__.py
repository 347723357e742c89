"""Word and character error rates, two runs compared, and a page about both.

Begin with `score.py` and `compare.py`; `normalizers.py` has the rules for texts, `stats/` what is counted and drawn,
`report/` the page. May import `cluster`, `manifest`, `storage` and the root modules.
"""
