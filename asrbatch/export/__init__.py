"""Transcripts for other tools: subtitles, CTM, text, NeMo's and the Open ASR Leaderboard's files.

Begin with `exporter.py`; a new format is a function and a line in `formats.py`. May import `evaluation`, `manifest`,
`pipeline` (names of fields), `storage` and the root modules.
"""

import sys
from types import ModuleType

from asrbatch import export as _export


class _CallablePackage(ModuleType):
    """Python puts this package in the place of the function `asrbatch.export` once it is imported: it is called so."""

    __call__ = staticmethod(_export)


sys.modules[__name__].__class__ = _CallablePackage
