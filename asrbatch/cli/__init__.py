"""The command line: `asrbatch <command>` is `commands/<command>.py`; `display/` is what a person sees.

Begin with `app.py`. May import everything; nothing imports it.
"""
