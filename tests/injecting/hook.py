"""The import hook: a probe before each statement of the package's functions, one of which raises once.

Not by ``sys.monitoring``: it has no events for what runs in its own callbacks, which is half of what this is about.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "hybridexec"

PROBED = (
    "detector", "engines", "following", "loop", "observing", "platform", "protocol", "reactions", "signals",
)  # fmt: skip
"""The floors that a block passes through."""


class Site(NamedTuple):
    """A statement with a probe.

    Attributes:
        module: the module, without the package's name.
        function: the qualified name of the function.
        line: the number of its line.
        entry: whether it is the first statement of the function.
    """

    module: str
    function: str
    line: int
    entry: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line}:{self.function}"


probes: Any = None
"""The :class:`probe.Probes` of this process."""


class _Instrument(ast.NodeTransformer):
    """Puts a probe before each statement of each function."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._names: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self._names.append(node.name)
        node.body = [
            self.visit(each) if isinstance(each, ast.FunctionDef | ast.ClassDef) else each for each in node.body
        ]
        self._names.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._names.append(node.name)
        node.body = self._block(node.body, entry=True)
        self._names.pop()
        return node

    def _block(self, body: Sequence[ast.stmt], *, entry: bool = False) -> list[ast.stmt]:
        probed: list[ast.stmt] = []
        for statement in body:
            if not _is_docstring(statement) and not isinstance(statement, ast.Global | ast.Nonlocal):
                number = len(probes.sites)
                probes.sites.append(Site(self._module, ".".join(self._names), statement.lineno, entry))
                entry = False
                call = ast.Call(ast.Name("_passed", ast.Load()), [ast.Constant(number)], [])
                probed.append(ast.copy_location(ast.Expr(call), statement))
            probed.append(self._inside(statement))
        return probed

    def _inside(self, statement: ast.stmt) -> Any:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            return self.visit(statement)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(statement, field, None)
            if block:
                setattr(statement, field, self._block(block))
        for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            part.body = self._block(part.body)
        return statement


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        instrument = _Instrument(fullname.removeprefix(f"{PACKAGE}."))
        tree.body = [
            instrument.visit(each) if isinstance(each, ast.FunctionDef | ast.ClassDef) else each for each in tree.body
        ]
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["_passed"] = probes.passed
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, rest = name.partition(".")
        if package != PACKAGE or rest.split(".")[0] not in PROBED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            spec.loader = _Loader(name, spec.origin)
        return spec


def install() -> None:
    """Put probes into what is imported of the package from now on.

    What they call passes for the package's own code: a trap lets a thread be there, too.
    """
    global probes
    assert PACKAGE not in sys.modules
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    floors = {path.name for path in Path(spec.origin).parent.iterdir()}
    assert floors.issuperset(PROBED), "a floor has another name now, and would not be probed"
    source = (Path(__file__).parent / "probe.py").read_text()
    names: dict[str, Any] = {"__name__": "probe"}
    exec(compile(source, Path(spec.origin).parent / "probe.py", "exec"), names)
    probes = names["Probes"]()
    sys.meta_path.insert(0, _Finder())
