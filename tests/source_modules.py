"""The modules of the package as syntax trees, and what the rules of test_architecture.py ask of
them: imports, calls, lengths, nesting."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "weft"
SRC = Path(__file__).parents[1] / "src" / PACKAGE

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    path: Path
    name: str
    """Dotted, with the package."""
    layer: str
    tree: ast.Module
    text: str

    @property
    def where(self) -> str:
        return self.path.relative_to(SRC).as_posix()


def read_modules() -> list[Module]:
    found = []
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        dotted = ".".join([PACKAGE, *(part for part in parts if part != "__init__")])
        layer = parts[0] if len(parts) > 1 or parts[0] != "__init__" else ""
        found.append(Module(path, dotted, layer, ast.parse(path.read_text()), path.read_text()))
    return found


ALL = read_modules()
NAMES = {module.name for module in ALL}
each_module = pytest.mark.parametrize("module", ALL, ids=[module.where for module in ALL])


def imported(module: Module) -> Iterator[str]:
    """Full names; of `from a import b` it is `a.b` where that is a module, else `a`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.where}: relative import"
            base = node.module or ""
            yield from (
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in NAMES else base
                for alias in node.names
            )


def ours(module: Module) -> set[str]:
    return {name for name in imported(module) if name.split(".")[0] == PACKAGE and name != PACKAGE}


def is_fake(module: Module) -> bool:
    """A fake stands beside the port that it keeps, for tests; it is not in the wheel."""
    return module.path.name == "fake.py" or module.path.name.startswith("fake_")


def functions(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def calls(tree: ast.AST) -> Iterator[str]:
    """What is called, as written: `setns`, `os.setns`."""
    yield from (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))


MUTATORS = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update",
}  # fmt: skip


def changes_in(function: Function) -> Iterator[str]:
    """Names of which an item is set or removed, or a method is called that changes a container."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Store | ast.Del)
            and isinstance(node.value, ast.Name)
        ):
            yield node.value.id
        method = node.func if isinstance(node, ast.Call) else None
        if (
            isinstance(method, ast.Attribute)
            and method.attr in MUTATORS
            and isinstance(method.value, ast.Name)
        ):
            yield method.value.id


def length(function: Function) -> int:
    """Lines of a function, its docstring not counted."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= (function.body[0].end_lineno or 0) - function.body[0].lineno + 1
    return lines


def parameters(function: Function) -> list[str]:
    """Names of all parameters, `self` included."""
    given = function.args
    named = (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg)
    return [each.arg for each in named if each is not None]


BLOCKS = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Deepest block in a function; an `elif` is not one level deeper than its `if`."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child, depth + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest
