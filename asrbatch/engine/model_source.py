"""What the source of a model class says, where the class itself cannot be imported or will not tell. No vllm here."""

import ast
import importlib.util
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSource:
    """Attributes:
    mentions_audio: its module does.
    has_interface: the class, or one of the same module that it is made from, implements `SupportsTranscription`.
    has_placeholder: it says what stands for audio in a prompt.
    only_embeds: it writes no text.
    fields: of `SpeechToTextParams`, those that its prompt is made from.
    """

    mentions_audio: bool
    has_interface: bool = False
    has_placeholder: bool = False
    only_embeds: bool = False
    fields: frozenset[str] = frozenset()


def read(module: str, class_name: str) -> ModelSource | None:
    """None where there is no source to read."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    with open(spec.origin, encoding="utf-8") as file:
        source = file.read()
    if "audio" not in source:
        return ModelSource(mentions_audio=False)
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    family, bases, waiting = [], set(), [class_name]
    while waiting:
        if (node := classes.get(waiting.pop())) is not None and node not in family:
            family.append(node)
            names = [base.id for base in node.bases if isinstance(base, ast.Name)]
            bases.update(names)
            waiting += names
    methods = {m.name: m for node in reversed(family) for m in node.body if isinstance(m, ast.FunctionDef)}
    said, prompt = methods.get("get_placeholder_str"), methods.get("get_generation_prompt")
    return ModelSource(
        mentions_audio=True,
        has_interface="SupportsTranscription" in bases,
        has_placeholder=said is not None and "audio" in ast.unparse(said),
        only_embeds="VllmModelForPooling" in bases,
        fields=frozenset(fields_used(ast.unparse(prompt))) if prompt is not None else frozenset(),
    )


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
