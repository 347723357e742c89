"""The command line: `asrbatch <command>` is `commands/<command>.py`; `display/` is what a person sees,
`targets/` where `submit` hands a run to.

Begin with `app.py`, then `options.py`; `functions.py` is what the functions of `asrbatch/__init__.py` do, and nothing
else imports it. May import `cluster`, `engine`, `evaluation`, `export`, `manifest`, `models`, `runs`, `storage` and the
root modules.
"""
