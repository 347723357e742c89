"""What our code uses of a library, read from our source, and whether an imported version of that library has it.

Follows each name from its import: attributes, calls with the number and names of their arguments, what is returned,
iterated over or kept in an attribute. What an object is, it learns from annotations, ours and the library's (those
behind `TYPE_CHECKING` as well); where there is none it stops. `getattr` with a default asks for nothing. Runs none of
the library's functions.
"""

import ast
import collections.abc
import functools
import importlib
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Known:
    """This very object: a module, a class, a function."""

    value: Any


@dataclass(frozen=True)
class Of:
    """Some object with this annotation."""

    annotation: Any


@dataclass(frozen=True)
class Method:
    """A function of a class, called on an object of it."""

    function: Any
    owner: type


Value = Known | Of | Method | None


@dataclass
class Findings:
    """Attributes:
    used: what was checked, as `module.Class.name`, or with brackets for a call.
    problems: `file:line: what is wrong`.
    """

    used: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def check_folder(folder: Path, library: str, package: str) -> Findings:
    """Checks all modules below a folder.

    Args:
        library: name of the library's package.
        package: dotted name of ours, below which the folder's modules can be imported; imports from it are followed.
    """
    findings = Findings()
    for path in sorted(folder.rglob("*.py")):
        inside = ".".join(path.relative_to(folder).with_suffix("").parts)
        module = None
        with suppress(ImportError):  # the name that is missing is found below
            module = importlib.import_module(f"{package}.{inside}".removesuffix(".__init__"))
        _Reader(path.name, module, findings, (library, package)).visit(ast.parse(path.read_text(encoding="utf-8")))
    return findings


class _Reader(ast.NodeVisitor):
    """Reads one module. Every `visit` returns what the expression is, as far as that can be known."""

    def __init__(self, name: str, module: Any, findings: Findings, packages: tuple[str, ...]):
        self._name, self._module, self._findings, self._packages = name, module, findings, packages
        self._names: list[dict[str, Value]] = [{}]
        self._class: type | None = None

    # What names stand for.

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if self._is_followed(alias.name):
                module = self._imported(node, alias.name)
                first = alias.name.partition(".")[0]
                self._names[-1][alias.asname or first] = Known(module if alias.asname else sys.modules.get(first))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not self._is_followed(node.module or ""):
            return
        module = self._imported(node, node.module)
        for alias in node.names if module is not None else ():
            with suppress(ImportError):  # it may be a module itself
                importlib.import_module(f"{node.module}.{alias.name}")
            if hasattr(module, alias.name):
                self._use(f"{node.module}.{alias.name}")
                self._names[-1][alias.asname or alias.name] = Known(getattr(module, alias.name))
            else:
                self._report(node, f"{node.module} has no {alias.name}")

    def _imported(self, node: ast.AST, name: str) -> Any:
        try:
            return importlib.import_module(name)
        except ImportError as e:
            self._report(node, f"{name} cannot be imported: {e}")
            return None

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [base.value for base in map(self.visit, node.bases) if isinstance(base, Known)]
        ours = getattr(self._module, node.name, None)
        self._class, before = ours, self._class
        self._names[-1][node.name] = Known(ours) if ours else None
        if ours is not None and any(self._is_librarys(base) for base in bases):
            self._check_overrides(node, ours)
        self._names.append({})
        for statement in node.body:
            self.visit(statement)
        self._names.pop()
        self._class = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        if len(self._names) == 1 and hasattr(self._module, node.name):
            self._names[0][node.name] = Known(getattr(self._module, node.name))
        self._names.append({})
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            self._names[-1][argument.arg] = self._annotated(argument.annotation)
        if self._class is not None and arguments and arguments[0].arg == "self":
            self._names[-1]["self"] = Of(self._class)
        for statement in node.body:
            self.visit(statement)
        self._names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
        if isinstance(node.target, ast.Name):
            self._names[-1][node.target.id] = self._annotated(node.annotation)

    def visit_For(self, node: ast.For | ast.AsyncFor | ast.comprehension) -> None:
        found = _element(self.visit(node.iter))
        if isinstance(node.target, ast.Name):
            self._names[-1][node.target.id] = found
        for statement in [*getattr(node, "body", ()), *getattr(node, "orelse", ()), *getattr(node, "ifs", ())]:
            self.visit(statement)

    visit_AsyncFor = visit_comprehension = visit_For

    def visit_GeneratorExp(self, node: Any) -> None:
        self._names.append({})
        for part in [*node.generators, *(getattr(node, name, None) for name in ("elt", "key", "value"))]:
            if part is not None:
                self.visit(part)
        self._names.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        both = isinstance(target, ast.Tuple | ast.List), isinstance(value, ast.Tuple | ast.List)
        if all(both) and len(target.elts) == len(value.elts):
            for each, of in zip(target.elts, value.elts, strict=True):
                self._bind(each, of)
            return
        found = self.visit(value)
        if isinstance(target, ast.Name):
            self._names[-1][target.id] = found
        elif both[0] and len(target.elts) == 1 and isinstance(target.elts[0], ast.Name):
            self._names[-1][target.elts[0].id] = _element(found)
        else:  # an attribute that is set must be there, too
            self.visit(target)

    def _annotated(self, annotation: ast.expr | None) -> Value:
        if annotation is None:
            return None
        text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
        known = {k: v.value for names in self._names for k, v in names.items() if isinstance(v, Known)}
        with suppress(Exception):  # of what is not followed
            return Of(eval(str(text), {**vars(typing), **vars(collections.abc), **known}))
        return None

    # What expressions are.

    def visit_Name(self, node: ast.Name) -> Value:
        return next((names[node.id] for names in reversed(self._names) if node.id in names), None)

    def visit_Await(self, node: ast.Await) -> Value:
        return self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> Value:
        self.visit(node.slice)
        return _element(self.visit(node.value))

    def visit_IfExp(self, node: ast.IfExp) -> Value:
        self.visit(node.test)
        one, other = self.visit(node.body), self.visit(node.orelse)
        return one or other

    def visit_Attribute(self, node: ast.Attribute) -> Value:
        base = self.visit(node.value)
        if isinstance(base, Known):
            owner = base.value
            if not hasattr(owner, node.attr):
                return self._missing(node, owner)
            if self._is_librarys(owner):
                self._use(f"{_name(owner)}.{node.attr}")
            return _of_static(owner, node.attr)
        if not isinstance(base, Of):
            return None
        found = [(owner, _attribute(owner, node.attr)) for owner in _members(base.annotation)]
        for owner, one in found:
            if one is Ellipsis:
                return self._missing(node, owner)
            if self._is_librarys(owner):
                self._use(f"{_name(owner)}.{node.attr}")
        return next((one for _, one in found if one is not None), None)

    def visit_Call(self, node: ast.Call) -> Value:
        callee = self._super(node) or self.visit(node.func)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.visit(argument)
        if isinstance(callee, Of) or callee is None:
            return callee if self._super(node) else None
        function = callee.function if isinstance(callee, Method) else callee.value
        self._check_call(node, function, is_method=isinstance(callee, Method))
        return _returned(function, callee.owner if isinstance(callee, Method) else getattr(function, "__self__", None))

    def visit_Starred(self, node: ast.Starred) -> Value:
        return self.visit(node.value)

    def _super(self, node: ast.Call) -> Value:
        """What `super()` is: of a mixin, the library's class that it is mixed into."""
        if not (isinstance(node.func, ast.Name) and node.func.id == "super" and self._class):
            return None
        heirs = [c for c in _classes_of(self._packages[-1]) if issubclass(c, self._class)]
        found = (c for heir in heirs for c in heir.__mro__ if self._is_librarys(c))
        return Of(next(found, None)) if heirs else None

    # What is wrong.

    def _check_call(self, node: ast.Call, function: Any, *, is_method: bool) -> None:
        try:
            signature = inspect.signature(function)
        except (ValueError, TypeError):  # built in, or no function
            return
        is_open = any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords)
        given = [None] * (is_method + sum(not isinstance(a, ast.Starred) for a in node.args))
        named = {k.arg: None for k in node.keywords if k.arg is not None}
        try:
            (signature.bind_partial if is_open else signature.bind)(*given, **named)
        except TypeError as e:
            self._report(node, f"{_name(function)}(): {e}")
        if self._is_librarys(function):
            self._use(f"{_name(function)}()")

    def _check_overrides(self, node: ast.ClassDef, ours: type) -> None:
        if missing := getattr(ours, "__abstractmethods__", None):
            self._report(node, f"{ours.__name__} lacks {', '.join(sorted(missing))}")
        parents = [c for c in ours.__mro__ if self._is_librarys(c)]
        for name, mine in vars(ours).items():
            theirs = next((vars(c)[name] for c in parents if name in vars(c)), None)
            if theirs is None or not isinstance(getattr(theirs, "__func__", theirs), types.FunctionType):
                continue
            self._use(f"{_name(parents[0])}.{name}")
            theirs, mine = (getattr(each, "__func__", each) for each in (theirs, mine))
            given = [p for p in inspect.signature(theirs).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
            try:
                inspect.signature(mine).bind(*given)
            except TypeError as e:
                self._report(node, f"{ours.__name__}.{name} as {_name(parents[0])} calls it: {e}")

    def _missing(self, node: ast.Attribute, owner: Any) -> None:
        if self._is_librarys(owner):
            self._report(node, f"{_name(owner)} has no {node.attr}")

    def _is_followed(self, module: str) -> bool:
        return any(f"{module}.".startswith(f"{package}.") for package in self._packages)

    def _is_librarys(self, value: Any) -> bool:
        module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        return f"{module}.".startswith(f"{self._packages[0]}.")

    def _use(self, name: str) -> None:
        if name.startswith(f"{self._packages[0]}."):
            self._findings.used.add(name)

    def _report(self, node: ast.AST, what: str) -> None:
        self._findings.problems.append(f"{self._name}:{node.lineno}: {what}")


def _classes_of(package: str) -> Iterator[type]:
    """Classes of our imported modules."""
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(f"{package}."):
            yield from (c for c in vars(module).values() if isinstance(c, type) and c.__module__ == name)


def _name(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__
    of = value if hasattr(value, "__qualname__") else type(value)
    return f"{of.__module__}.{of.__qualname__}"


def _members(annotation: Any) -> list[type]:
    """The classes of an annotation; without None, and without the built-in ones, which no library changes."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [c for member in typing.get_args(annotation) for c in _members(member)]
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    annotation = typing.get_origin(annotation) or annotation
    return [annotation] if isinstance(annotation, type) and annotation.__module__ != "builtins" else []


def _element(value: Value) -> Value:
    """What a list, a dictionary or a generator holds."""
    if not isinstance(value, Of):
        return None
    for member in typing.get_args(value.annotation) if not typing.get_origin(value.annotation) else (value.annotation,):
        origin, inside = typing.get_origin(member), typing.get_args(member)
        if isinstance(origin, type) and inside:
            if issubclass(origin, collections.abc.Mapping):
                return Of(inside[1])
            if issubclass(origin, collections.abc.Iterable | collections.abc.AsyncIterable):
                return Of(inside[0])
    return None


def _of_static(owner: Any, name: str) -> Value:
    """An attribute of a known module, class or object."""
    value = getattr(owner, name)
    return Known(value) if isinstance(value, types.ModuleType) or callable(value) else Of(type(value))


def _attribute(owner: type, name: str) -> Any:
    """An attribute of an object of a class; Ellipsis where it has none, None where nobody says what it is."""
    static = inspect.getattr_static(owner, name, Ellipsis)
    if isinstance(static, property | functools.cached_property):
        return _returned(static.fget if isinstance(static, property) else static.func, owner)
    if isinstance(static, types.FunctionType):
        return Method(static, owner)
    if isinstance(static, classmethod | staticmethod):
        return Known(getattr(owner, name))
    for c in owner.__mro__:
        if name in (annotations := inspect.get_annotations(c)):
            return _evaluated(annotations[name], c, owner)
    if static is not Ellipsis or name in getattr(owner, "__struct_fields__", ()):
        return None
    if inspect.getattr_static(owner, "__getattr__", None) is not None:
        return None  # it answers to any
    kept = [_kept(c, name) for c in owner.__mro__ if c is not object]
    return next((one for one in kept if one is not Ellipsis), Ellipsis)


@functools.cache
def _kept(owner: type, name: str) -> Any:
    """An attribute that methods of a class set, by their source; as `_attribute`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError, SyntaxError):
        return Ellipsis
    found: Any = Ellipsis
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        arguments = {a.arg: a.annotation for a in [*function.args.args, *function.args.kwonlyargs]}
        for target, value, annotation in _assignments(function):
            if not (isinstance(target, ast.Attribute) and target.attr == name and ast.unparse(target.value) == "self"):
                continue
            annotation = annotation or (arguments.get(value.id) if isinstance(value, ast.Name) else None)
            if annotation is not None:
                return _evaluated(ast.unparse(annotation).strip("'"), owner, owner)
            if isinstance(value, ast.Call):
                maker = _evaluated(ast.unparse(value.func), owner, owner)
                if maker is not None and isinstance(maker.annotation, type):
                    found = Of(found.annotation | maker.annotation) if isinstance(found, Of) else maker
            found = None if found is Ellipsis else found
    return found


def _assignments(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, ast.expr | None, ast.expr | None]]:
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign):
            yield node.target, node.value, node.annotation
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Tuple):
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [None] * len(target.elts)
                yield from ((one, value, None) for one, value in zip(target.elts, values, strict=False))
            else:
                yield target, node.value, None


def _returned(function: Any, owner: Any) -> Value:
    """What a call gives."""
    if isinstance(function, type):
        return Of(function)
    annotation = getattr(getattr(function, "__func__", function), "__annotations__", {}).get("return")
    owner = owner if isinstance(owner, type) else type(owner)
    return None if annotation is None else _evaluated(annotation, function, owner)


def _evaluated(annotation: Any, place: Any, owner: type) -> Value:
    """An annotation that may be text, of a class or function, as it would be read where that stands."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(_namespace(sys.modules[place.__module__])))
        except Exception:
            return None
    if typing.get_origin(annotation) is type:
        return Known(typing.get_args(annotation)[0])
    if isinstance(annotation, typing.TypeVar):
        return Of(annotation.__bound__)
    return Of(owner if annotation is typing.Self else annotation)


@functools.cache
def _namespace(module: types.ModuleType) -> dict[str, Any]:
    """A module's names, those that it imports for type checkers alone included."""
    names = dict(vars(module))
    tree = ast.parse(inspect.getsource(module))
    for branch in (n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)):
        for node in (n for n in branch.body if isinstance(n, ast.ImportFrom)):
            for alias in node.names:
                with suppress(Exception):  # packages that are not here
                    names[alias.asname or alias.name] = getattr(importlib.import_module(node.module), alias.name)
    return names
