"""Names that options choose from, where more than one part of the program must know them and some parts must stay light."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
ENGINE_MODES = ("auto", "thread", "process")
STRATEGIES = ("balanced", "contiguous", "strided", "consecutive")
TASKS = ("transcribe", "translate")
