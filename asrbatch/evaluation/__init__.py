"""Word and character error rates, two runs compared, and a page about both.

Begin with `score.py` and `compare.py`. `inputs.py` opens what they are given: `predictions.py`, and `references.py`
that these belong to. `rows.py` has each row with its edits, `counting.py` counts rows. `text_rules.py`
and `normalizers.py` have the rules for texts, `alignment.py` counts their edits. `stats/` is what is counted and drawn,
`report/` the page. May import `manifest`, `pipeline` (names of fields), `storage` and the root modules.
"""
