"""What the source of a model class says, where the class itself cannot be imported or will not tell. No vllm here."""

import ast
import functools
import importlib.util
import textwrap
from dataclasses import dataclass

# What every model is made from: these mention audio, and say nothing of one model.
_COMMON = ("interfaces", "interfaces_base", "torch.nn", "typing")


@dataclass(frozen=True)
class ModelSource:
    """Attributes:
    mentions_audio: its module does, or that of a class it is made from.
    has_interface: the class, or one that it is made from, implements `SupportsTranscription`.
    has_placeholder: it says what stands for audio in a prompt.
    only_embeds: it writes no text.
    fields: of `SpeechToTextParams`, those that its prompt is made from.
    languages: codes it states.
    """

    mentions_audio: bool
    has_interface: bool = False
    has_placeholder: bool = False
    only_embeds: bool = False
    fields: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()


def read(module: str, class_name: str) -> ModelSource | None:
    """None where there is no source to read."""
    if _module(module) is None:
        return None
    family, bases, waiting = [], set(), [(module, class_name)]
    while waiting:
        found = _find(*waiting.pop(0))
        if found is None or found in family:
            continue
        family.append(found)
        names = [base.id for base in found.node.bases if isinstance(base, ast.Name)]
        bases.update(names)
        waiting += [(found.module.name, name) for name in names]
    if not any("audio" in found.module.source for found in family):
        return ModelSource(mentions_audio=False)
    methods = {m.name: m for found in reversed(family) for m in found.node.body if isinstance(m, ast.FunctionDef)}
    said, prompt = methods.get("get_placeholder_str"), methods.get("get_generation_prompt")
    return ModelSource(
        mentions_audio=True,
        has_interface="SupportsTranscription" in bases,
        has_placeholder=said is not None and "audio" in ast.unparse(said),
        only_embeds="VllmModelForPooling" in bases or any(_is_pooling(found.node) for found in family),
        fields=frozenset(fields_used(ast.unparse(prompt))) if prompt is not None else frozenset(),
        languages=next((codes for found in family if (codes := _languages(found))), frozenset()),
    )


@dataclass(frozen=True)
class _Module:
    name: str
    source: str
    tree: ast.Module
    is_package: bool

    @property
    def imports(self) -> dict[str, tuple[str, str]]:
        """What it calls something, to the module that has it and its name there."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2] not in _COMMON:
                parts = self.name.split(".")
                above = parts[: len(parts) - node.level + self.is_package] if node.level else []
                where = ".".join([*above, *filter(None, [node.module])])
                found.update({alias.asname or alias.name: (where, alias.name) for alias in node.names})
        return found


@dataclass(frozen=True)
class _Class:
    module: _Module
    node: ast.ClassDef


@functools.lru_cache(maxsize=512)
def _module(name: str) -> _Module | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # its package is not there
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    with open(spec.origin, encoding="utf-8") as file:
        source = file.read()
    return _Module(name, source, ast.parse(source), spec.submodule_search_locations is not None)


def _find(module: str, name: str) -> _Class | None:
    """A class of vLLM's, wherever a module has it from."""
    for _ in range(4):
        at = _module(module) if module.startswith("vllm.") or "." not in module else None
        if at is None:
            return None
        for node in at.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return _Class(at, node)
        if name not in at.imports:
            return None
        module, name = at.imports[name]
    return None


def _languages(found: _Class) -> frozenset[str]:
    """The keys of `supported_languages`, where they are written down as a dictionary."""
    at, value = found.module, _assigned(found.node.body, "supported_languages")
    for _ in range(4):
        if isinstance(value, ast.Dict):
            return frozenset(key.value for key in value.keys if isinstance(key, ast.Constant))
        if not isinstance(value, ast.Name):
            break
        name = value.id
        while at is not None and (value := _assigned(at.tree.body, name)) is None and name in at.imports:
            module, name = at.imports[name]
            at = _module(module)
    return frozenset()


def _is_pooling(node: ast.ClassDef) -> bool:
    """Heirs of models that write may say so of themselves."""
    value = _assigned(node.body, "is_pooling_model")
    return isinstance(value, ast.Constant) and value.value is True


def _assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value
    return None


def fields_used(source: str) -> set[str]:
    """The fields of `stt_params` that the source of a `get_generation_prompt` makes its prompt from.

    A field that is merely compared with None does not count: a class that demands a language need not use it.
    """
    tree = ast.parse(textwrap.dedent(source))
    field_of: dict[str, str] = {}
    used: set[str] = set()
    compared = {
        id(node)
        for compare in ast.walk(tree)
        if isinstance(compare, ast.Compare) and any(isinstance(c, ast.Constant) and c.value is None for c in compare.comparators)
        for node in ast.walk(compare)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (field := _field(node.value)) is not None and isinstance(node.targets[0], ast.Name):
            field_of[node.targets[0].id] = field
            compared.add(id(node.value))
    for node in ast.walk(tree):
        if id(node) in compared:
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in field_of:
            used.add(field_of[node.id])
        elif (field := _field(node)) is not None:
            used.add(field)
    return used


def _field(node: ast.AST) -> str | None:
    is_field = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "stt_params"
    return node.attr if is_field else None
