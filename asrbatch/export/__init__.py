"""Transcripts for other tools: subtitles, CTM, text, NeMo's and the Open ASR Leaderboard's files.

Begin with `exporter.py`; a new format is a function and a line in `formats.py`. May import `evaluation`, `manifest`,
`pipeline` (names of fields), `storage` and the root modules.
"""
