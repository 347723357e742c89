"""Which engine arguments the installed vLLM has, by its source: a run that names another is refused before anything is
made, and importing vLLM takes seconds, cannot be undone, and may need a device that is not here."""

import ast
import difflib
import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from asrbatch.engine.devices import installed_vllm
from asrbatch.errors import UsageError


def check_engine_args(names: Iterable[str]) -> None:
    """Raises UsageError for a name that this vLLM has no engine argument of; nothing where none is installed."""
    for name in names:
        if (known := engine_arg_names()) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--engine-arg {name}: vLLM {installed_vllm()[1]} has no such engine argument{hint}")


@functools.cache
def engine_arg_names() -> tuple[str, ...]:
    """Fields of vLLM's `EngineArgs`; none where they cannot be found."""
    spec = importlib.util.find_spec("vllm")
    for folder in spec.submodule_search_locations or () if spec else ():
        try:
            tree = ast.parse((Path(folder) / "engine/arg_utils.py").read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        body = next((n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "EngineArgs"), [])
        return tuple(n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))
    return ()
