"""Word and character error rates, two runs compared, and a page about both.

Begin with `score.py` and `compare.py`, and with `common.py` for what they share. `predictions.py` and `references.py`
read what is scored; `text_rules.py` and `normalizers.py` have the rules for texts, `alignment.py` counts their edits;
`row_counter.py` and `pair_counter.py` count rows. `stats/` is what is counted and drawn, `report/` the page. May import
`cluster`, `manifest`, `storage` and the root modules.
"""
