"""Makes loading vLLM and its processors cheaper, with the same results.

A start is most of what a short array task costs. vLLM loads a checkpoint's processor three times, each time copies the
tokenizer's 50,000 words and merges one by one, and Python looks for garbage among a million objects that all stay. Of
a start of tiny.en, 15.0 s of processor time, this leaves 8.7 s, and of the first one on a machine 10.7 of 21.8. Imports
neither vllm nor transformers before `after_imports`.
"""

import contextlib
import copy
import functools
import gc
import inspect
import threading
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any

# Held while copies are quick.
_loading = threading.Lock()
# Smaller ones are copied quickly as they are.
_LARGE = 1000
_IMMUTABLE = {str, int, float, bool, bytes, type(None)}


@contextlib.contextmanager
def quick_loading() -> Iterator[None]:
    """While it lasts, Python collects no garbage in cycles, and `copy.deepcopy` is quick with vocabularies.

    Does nothing where another thread is at it."""
    if not _loading.acquire(blocking=False):
        yield
        return
    was_enabled = gc.isenabled()
    gc.collect()  # of an earlier engine: `after_imports` would keep it for ever
    gc.disable()
    try:
        with _quick_copies():
            yield
    finally:
        if was_enabled:
            gc.enable()
        _loading.release()


def after_imports() -> None:
    """Call between vLLM's imports and its start."""
    # vLLM does this itself when an engine is up, but looks through all objects twice before, half a second each.
    gc.freeze()
    _load_no_tokenizer_twice()
    _look_at_models_here()


def _load_no_tokenizer_twice() -> None:
    """vLLM hands its tokenizer to a processor that it loads; transformers loads another, which it then drops."""
    from transformers import ProcessorMixin

    load = getattr(ProcessorMixin, "_load_tokenizer_from_pretrained", None)  # private
    if not inspect.ismethod(load) or hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_once(cls: type, kind: str, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get(kind)
        return load.__func__(cls, kind, *args, **kwargs) if given is None else given

    ProcessorMixin._load_tokenizer_from_pretrained = classmethod(load_once)


def _look_at_models_here() -> None:
    """What a model's class can do, vLLM finds out in a new process the first time, so that CUDA is not initialised in
    this one. Where there is none, that is 6 s of importing vLLM for nothing."""
    from vllm.model_executor.models import registry
    from vllm.platforms import current_platform

    def look_here(look: Callable[[], Any]) -> Any:
        try:
            return look()
        except SystemExit as e:  # of a plugin's module; vLLM's process would have ended alone
            raise RuntimeError(f"it ends the process: {e}") from e

    if current_platform.is_cpu() and hasattr(registry, "_run_in_subprocess"):  # private
        registry._run_in_subprocess = look_here


@contextlib.contextmanager
def _quick_copies() -> Iterator[None]:
    # Private, but the one place that all copies pass: tokenizers are copied in transformers and in vLLM.
    copiers: dict[type, Callable[..., Any]] = getattr(copy, "_deepcopy_dispatch", {})
    before = {kind: copiers[kind] for kind in (dict, list) if kind in copiers}

    def copy_dict(value: dict[Any, Any], memo: dict[int, Any]) -> dict[Any, Any]:
        if len(value) < _LARGE or not (_never_change(value) and _never_change(value.values())):
            return before[dict](value, memo)
        return memo.setdefault(id(value), value.copy())

    def copy_list(value: list[Any], memo: dict[int, Any]) -> list[Any]:
        if len(value) < _LARGE or not _never_change(value):
            return before[list](value, memo)
        return memo.setdefault(id(value), value.copy())

    copiers.update({dict: copy_dict, list: copy_list} if before else {})
    try:
        yield
    finally:
        copiers.update(before)


def _never_change(entries: Collection[Any]) -> bool:
    """Whether a deep copy would hold the very same objects: plain values, or tuples of them."""
    kinds = set(map(type, entries))
    if tuple in kinds:
        kinds.remove(tuple)
        kinds.update(map(type, chain.from_iterable(entry for entry in entries if type(entry) is tuple)))
    return kinds <= _IMMUTABLE
