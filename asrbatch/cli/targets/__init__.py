"""Where `submit` hands a run to: one module for each target.

Begin with `tasks.py`, which they share. A new one is a module with one function, a line in `commands/submit.py`, its
options in `cluster/`, and a line of `TARGETS` in `options.py`. May import `cli`, `cluster`, `manifest`, `runs`,
`storage` and the root modules.
"""
