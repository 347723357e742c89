"""The loop: preprocess rows beside the engine, keep it full, write each row when its last window returns.

Begin with `loop.py`, which reads as the algorithm; `preprocess.py` is the pool beside it, `budget.py` bounds what is
held, `longform.py` is for windows that depend on each other, `given_text.py` for texts that are there and aligned,
`result.py` makes the output row. May import `audio`, `engine`, `models` and the root modules; knows nothing of the
files of a run."""
