"""The command line: `asrbatch <command>` is `commands/<command>.py`; `display/` is what a person sees,
`targets/` where `submit` hands a run to.

Begin with `app.py`, then `options.py`. Nothing imports it. May import `cluster`, `engine`, `evaluation`, `export`,
`manifest`, `models`, `runs`, `storage` and the root modules.
"""
