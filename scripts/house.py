"""How big the code is and how it is laid out: a table of its folders, its functions, and what should not be there.

    scripts/house.py [FOLDER] [--compare REV]

Lines of code are all lines without blank ones, those of docstrings, and those that hold only a comment; a blank line in
a docstring counts once, as one of the docstring. "As counted in the plan" is an older way, which took such a line off
twice, and one more line for each file. The length of a function is from its `def` to its end, with its docstring and
the functions inside it. An entry of a folder is what a listing shows: a module (without `__init__.py`) or a folder.
`--compare` puts the same table of a revision of git before.
"""

import argparse
import ast
import io
import statistics
import subprocess
import tarfile
import tokenize
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MOST_WIDE, LONG_FUNCTION = 120, 60
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    sizes: Counter  # files, lines, code, doc, comment, plan, wide
    functions: list[tuple[int, str]]  # lines, name
    classes: list[str]


def read_module(path: str, text: str) -> Module:
    lines, nodes = text.splitlines(), list(ast.walk(ast.parse(text)))
    blank = {n for n, line in enumerate(lines, 1) if not line.strip()}
    doc = set()
    for node in nodes:
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            doc.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    comment = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }
    sizes = Counter(files=1, lines=len(lines), doc=len(doc), comment=len(comment))
    sizes["code"] = len(lines) - len(blank | doc | comment)
    sizes["plan"] = len(lines) - len(blank) - len(doc) - len(comment) - 1
    sizes["wide"] = sum(len(line) > MOST_WIDE for line in lines)
    functions = [
        (node.end_lineno - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return Module(sizes, functions, [node.name for node in nodes if isinstance(node, ast.ClassDef)])


def on_disk(folder: str) -> dict[str, str]:
    return {path.as_posix(): path.read_text(encoding="utf-8") for path in Path(folder).rglob("*.py")}


def at_revision(folder: str, revision: str) -> dict[str, str]:
    done = subprocess.run(["git", "archive", revision, folder], stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = [name for name in archive.getnames() if name.endswith(".py")]
        return {name: archive.extractfile(name).read().decode() for name in names}


def report(files: dict[str, str]) -> str:
    modules = {path: read_module(path, text) for path, text in sorted(files.items())}
    folders, entries, total = defaultdict(Counter), defaultdict(set), Counter()
    for path, module in modules.items():
        folder, *above = (parent.as_posix() for parent in PurePosixPath(path).parents)
        folders[folder].update(module.sizes)
        total.update(module.sizes)
        entries[folder].add(path if not path.endswith("__init__.py") else folder)
        entries[above[0]].add(folder)
    row = "{:32}{:>8}{:>7}{:>8}{:>8}{:>8}{:>9}{:>7}".format
    rows = [row("folder", "entries", "files", "lines", "code", "doc", "comment", "")]
    for folder, sizes in [*folders.items(), ("total", total)]:
        counts = (sizes[name] for name in ("files", "lines", "code", "doc", "comment"))
        own = len(entries[folder] - {folder}) or ""
        rows.append(row(folder, own, *counts, f"{100 * sizes['comment'] / sizes['lines']:.1f} %"))
    functions = sorted(function for module in modules.values() for function in module.functions)
    lengths = [length for length, _ in functions]
    classes = Counter(name for module in modules.values() for name in module.classes)
    return "\n".join(
        [
            *rows,
            f"code: {total['code']}; as counted in the plan: {total['plan']}",
            f"functions: {len(functions)}; lines: median {statistics.median(lengths):g}, "
            f"p90 {lengths[len(lengths) * 9 // 10]}, longest {functions[-1][0]} ({functions[-1][1]}); "
            f"over {LONG_FUNCTION} lines: {sum(length > LONG_FUNCTION for length in lengths)}",
            f"class names used twice: {', '.join(sorted(n for n, times in classes.items() if times > 1)) or 'none'}",
            f"lines over {MOST_WIDE} characters: {total['wide']}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", default="asrbatch")
    parser.add_argument("--compare", metavar="REV", help="a revision of git whose table comes first")
    options = parser.parse_args()
    if options.compare:
        print(f"{options.compare}:\n{report(at_revision(options.folder, options.compare))}\n\nnow:")
    print(report(on_disk(options.folder)))


if __name__ == "__main__":
    main()
