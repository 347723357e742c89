"""Every message that asrbatch can print, as a table made from the code: docs/messages.md.

    scripts/messages.py [--check]

Reads the code and runs none of it. A message is what is raised, and any other text of two words or more that is no
docstring and no help. The words above the tables are written by hand. --check: is the committed table the code's?
"""

import argparse
import ast
import builtins
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TABLE = REPO / "docs" / "messages.md"
PROSE = re.compile(r"[^\W\d_]{2,}[,;:]? +([^\W\d_]{2,}|\{)")
NOT_SAID = {"option", "Option", "Argument", "Typer", "compile", "getLogger", "replace", "partition", "split"}
# Of these the argument is shown: its name says more than theirs.
SHOWS = {"show", "show_text", "one_line", "printable", "shorten", "str", "first_of", "len", "sorted", "_reason"}
ECHO = re.compile(r'\b(?:echo|say|give_up) "((?:[^"\\]|\\.)*[^\W\d_]{2,} (?:[^"\\]|\\.)*)"')


def name_of(node: ast.AST) -> str:
    """What a value is called: path for `self.path` and `row["path"]`; a call's function; the first name of a sum."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return name
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return name_of(inner)
    return next((name_of(inner) for inner in ast.walk(node) if isinstance(inner, ast.Name | ast.Attribute)), "…")


def holds_text(node: ast.AST) -> bool:
    return any(type(getattr(part, "value", None)) is str for part in ast.walk(node))


def assignments(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    found = defaultdict(list)
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for name, value in zip(names, values, strict=False):
                    found[name_of(name)].append(value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name].append(value)
    return found


class Code:
    """All modules, and what each exception ends in."""

    def __init__(self, folder: Path):
        trees = {p.relative_to(folder).as_posix(): ast.parse(p.read_text("utf-8")) for p in folder.rglob("*.py")}
        self.classes = {n.name: n for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)}
        self.codes = {k: v[0].value for k, v in assignments(trees["errors.py"].body).items() if k.startswith("EXIT_")}
        self.constants = assignments(node for tree in trees.values() for node in tree.body)
        self.modules = {path: ModuleMessages(self, tree) for path, tree in sorted(trees.items())}
        self.makers = {name: module for module in self.modules.values() for name in module.makers}

    def ends_in(self, exception: str) -> str | None:
        """What stands in the first column; None where it is no exception."""
        if exception not in self.classes:
            built_in = getattr(builtins, exception, None)
            return exception if isinstance(built_in, type) and issubclass(built_in, BaseException) else None
        if code := assignments(self.classes[exception].body).get("exit_code"):
            return f"exit {self.codes[name_of(code[0])]}"
        above = [self.ends_in(name_of(base)) for base in self.classes[exception].bases]
        return next((exception if end == "Exception" else end for end in above if end), None)


class ModuleMessages:
    """The messages of one module, in its order. `makers` are what makes an exception's text: functions, `__init__`s."""

    def __init__(self, code: Code, tree: ast.Module):
        self.code, self.tree, self.used, self.found, self.makers = code, tree, set(), [], {}
        self.constants, self.local = assignments(tree.body), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.returns and not node.decorator_list:
                self.makers |= {node.name: node} if code.ends_in(name_of(node.returns)) else {}
            elif isinstance(node, ast.ClassDef) and code.ends_in(node.name):
                self.makers.update((node.name, f) for f in node.body if getattr(f, "name", "") == "__init__")

    def value_of(self, node: ast.Name, env: dict[str, str]) -> str:
        """What a name holds where it is used: an argument of a maker, or the text last assigned to it before."""
        values = [value for value in self.local.get(node.id, ()) if value.lineno < node.lineno]
        values = values or self.constants.get(node.id) or self.code.constants.get(node.id)
        if values and node.id not in (*env, "__version__") and holds_text(values[-1]):
            text = self.text(values[-1], env)
            if PROSE.search(text) or isinstance(values[-1], ast.Constant):
                self.used.add(values[-1])
                return text
        return env.get(node.id, f"{{{node.id}}}")

    def text(self, node: ast.AST, env: dict[str, str]) -> str:
        match node:
            case ast.Constant(value=value):
                return str(value)
            case ast.JoinedStr(values=parts):
                return "".join(self.text(part, env) for part in parts)
            case ast.FormattedValue() | ast.Starred() | ast.GeneratorExp() | ast.ListComp():
                return self.text(getattr(node, "value", None) or node.elt, env)
            case ast.BinOp(left=left, op=ast.Add(), right=right) if holds_text(node):
                return self.text(left, env) + self.text(right, env)
            case ast.IfExp(body=one, orelse=other) | ast.BoolOp(op=ast.Or(), values=[one, other]):
                return f"[{' / '.join(filter(None, (self.text(one, env), self.text(other, env))))}]"
            case ast.Name():
                return self.value_of(node, env)
            case ast.Call(args=[first, *_]) if name_of(node) in SHOWS:
                return self.text(first, env)
            case ast.Call(args=[number, ast.Constant(value=noun), *verbs]) if name_of(node) == "counted":
                return " ".join([self.text(number, env), f"{noun}s", *(verb.value for verb in verbs[1:])])
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=glue)), args=[one]):
                return f"{self.text(one, env)}{glue}…"
            case ast.Call() if self.is_exception(node):
                return self.made(node, env)[1]
        return f"{{{name_of(node)}}}"

    def is_exception(self, call: ast.Call) -> bool:
        return name_of(call) in self.code.makers or self.code.ends_in(name_of(call)) is not None

    def made(self, call: ast.Call, env: dict[str, str]) -> tuple[str, str]:
        """What an exception ends in, and its text."""
        name, values = name_of(call), [self.text(value, env) for value in call.args]
        if name == "RowError":
            return f"failed: `{values[0]}`", values[1]
        module = self if name in self.makers else self.code.makers.get(name, self)
        if maker := module.makers.get(name):
            names = [each.arg for each in maker.args.args if each.arg != "self"]
            inside = dict(zip(names, values, strict=False)) | {w.arg: self.text(w.value, env) for w in call.keywords}
            made = (n for n in ast.walk(maker) if isinstance(n, ast.Call) and n.args)
            said = next((n for n in made if name_of(n) == "__init__" or self.is_exception(n)), None)
            if said is not None:
                module.used.add(said)
                module.local, before = assignments(ast.walk(maker)), module.local
                kind, text = module.made(said, inside)
                module.local = before
                return (self.code.ends_in(name) or name) if kind == "__init__" else kind, text
        return self.code.ends_in(name) or name, " ⏎ ".join(values)

    def visit(self, node: ast.AST) -> None:
        """Collects what is said, from the outside in."""
        match node:
            case ast.Compare() | ast.arg() | ast.keyword(arg="help" | "metavar") | ast.Expr(value=ast.Constant()):
                return
            case ast.Call(func=called) if name_of(called) in NOT_SAID:
                return
            case ast.Call() if self.is_exception(node):
                return self.add(node, *self.made(node, {}))
            case ast.Constant(value=str()) | ast.JoinedStr() | ast.BinOp(op=ast.Add()) | ast.IfExp():
                if PROSE.search(text := self.text(node, {})):
                    return self.add(node, "note", text)
        before = self.local
        if isinstance(node, ast.FunctionDef):
            self.local = assignments(ast.walk(node))
        for child in node.values if isinstance(node, ast.Dict) else ast.iter_child_nodes(node):
            self.visit(child)
        self.local = before

    def add(self, node: ast.AST, ends_in: str, text: str) -> None:
        text = " ".join(text.replace("\n", " ⏎ ").split()).replace("|", "¦")
        if re.search(r"[^\W\d_]{2,}", re.sub(r"\{\w*\}", "", text)) and not re.match("<|#!|pid=", text):
            self.found.append((node, ends_in, f"`` {text} ``" if "`" in text else f"`{text}`"))


def table() -> str:
    code, packages = Code(REPO / "asrbatch"), defaultdict(dict)  # {message: where it is said first}
    for module in code.modules.values():
        module.visit(module.tree)
    for path, module in code.modules.items():
        for node, *message in module.found:
            if node not in module.used:
                packages[path.rpartition("/")[0]].setdefault(tuple(message), Path(path).name)
    for path in (*sorted((REPO / "asrbatch" / "cluster").glob("*.sbatch")), REPO / "asrbatch/cluster/kubernetes.py"):
        packages["cluster"] |= {("job", f"`{text}`"): path.name for text in ECHO.findall(path.read_text("utf-8"))}
    lines = [TABLE.read_text("utf-8").partition("\n## ")[0]]
    for package, messages in sorted(packages.items()):
        lines += [f"## {package or 'asrbatch'}", "", "| ends in | message | from |", "|---|---|---|"]
        lines += [
            f"| {end.replace('InvalidRow', 'row')} | {text} | {module} |" for (end, text), module in messages.items()
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the committed table differs")
    if not parser.parse_args().check:
        TABLE.write_text(table(), encoding="utf-8")
    elif TABLE.read_text("utf-8") != table():
        sys.exit("docs/messages.md is not what the code says; run scripts/messages.py and commit it")


if __name__ == "__main__":
    main()
