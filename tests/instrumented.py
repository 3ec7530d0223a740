"""Instrumented: the protocol's own source, run on the machine of ``exploring.py``.

``hybridexec/lwp.py``, ``pool.py``, ``handling.py`` and ``carrying.py`` are compiled from the files that ship, into
modules of their own whose ``_thread``, ``threading``, identities and clock are the machine's; nothing of the installed
package changes.  On the way each access to an attribute that threads share becomes a point, ``x.state`` reading as
``(point() or x.state)``: that is how races on what is read without the lock are found.  A *mutation* replaces a piece
of the source, which has to be there once: a checker that does not find it would find nothing else either.
"""

from __future__ import annotations

import ast
import itertools
import sys
import types
from pathlib import Path
from typing import Any

from exploring import Grain, Lock, Machine, RLock

import hybridexec
import hybridexec.carrying

_SOURCES = Path(hybridexec.__file__).parent
_FIXED = {"home", "mutex", "inside", "changed", "_rest", "ident", "name", "thread"}
"""What is set before others look, or changes only while they do not."""


class Mutation:
    """A defect: in the method ``where`` of ``carrying.py`` one piece of the source is another."""

    def __init__(self, name: str, where: str, old: str, new: str) -> None:
        self.name = name
        self._where, self._old, self._new = where, old, new

    def __repr__(self) -> str:
        return self.name

    def apply(self, source: str) -> str:
        head, rest = source.split(f"    def {self._where}(")
        body, *others = rest.split("\n    def ", 1)
        assert body.count(self._old) == 1, f"{self._where}() has changed: mend the mutation {self.name!r}"
        return "\n    def ".join([f"{head}    def {self._where}({body.replace(self._old, self._new)}", *others])


class _Points(ast.NodeTransformer):
    """Makes accesses to shared attributes points."""

    def __init__(self, shared: set[str]) -> None:
        self._shared = shared

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr not in self._shared or not isinstance(node.ctx, ast.Load):
            return node
        return ast.copy_location(ast.BoolOp(ast.Or(), [_call("_point"), node]), node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        written = {target.attr for target in ast.walk(node) if isinstance(target, ast.Attribute) and _stored(target)}
        if not written & self._shared:
            return node
        return [ast.copy_location(ast.Expr(_call("_point")), node), node]


def _stored(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def _call(name: str) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [], [])


def _shared(tree: ast.Module) -> set[str]:
    """The attributes that anything but an ``__init__`` assigns."""
    found: set[str] = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name != "__init__":
            found |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute) and _stored(node)}
    return found - _FIXED


class Protocol:
    """The protocol's modules, as they are or with a mutation."""

    def __init__(self, mutation: Mutation | None = None) -> None:
        self._machine: Machine = None  # type: ignore[assignment]  # set by boot()
        self.lwp = self._load("lwp")
        self.lwp.LWP.__hash__ = lambda lwp: sum(lwp.name.encode())  # sets of them have the same order each time
        self.pool = self._load("pool")
        self.handling = self._load("handling")
        self.carrying = self._load("carrying", mutation)

    def _load(self, name: str, mutation: Mutation | None = None) -> Any:
        path = _SOURCES / f"{name}.py"
        source = path.read_text()
        if mutation is not None:
            source = mutation.apply(source)
        tree = ast.parse(source)
        if name != "lwp":
            tree = ast.fix_missing_locations(_Points(_shared(tree)).visit(tree))
        module: Any = types.ModuleType(f"hybridexec.{name}")
        module.__package__ = "hybridexec"
        done = {
            f"hybridexec.{name}": getattr(self, name) for name in ("lwp", "pool", "handling") if hasattr(self, name)
        }
        before = {name: sys.modules[name] for name in done}
        sys.modules.update(done)
        try:
            exec(compile(tree, path, "exec"), module.__dict__)
        finally:
            sys.modules.update(before)
        for replaced, stand_in in self._system().items():
            if hasattr(module, replaced):
                setattr(module, replaced, stand_in)
        return module

    def boot(self, machine: Machine) -> None:
        """Run on this machine from now on."""
        self._machine = machine
        for module in (self.carrying, self.pool, self.handling):
            looks = machine.grain >= Grain.READS or machine.fault is not None
            module._point = machine.look if looks else bool  # which says False, and costs little
        self.lwp.current.clear()
        self.pool._serials = itertools.count(1)

    # ---------------------------------------------------------------- what stands for the system

    def _system(self) -> dict[str, object]:
        return {
            "_thread": types.SimpleNamespace(
                RLock=lambda: RLock(self._machine),
                allocate_lock=lambda: Lock(self._machine),
            ),
            "_acquire": Lock.acquire,
            "os_ident": lambda: self._machine.current.ident,
            "os_thread": lambda: self._machine.current,
            "threading": types.SimpleNamespace(get_native_id=lambda: self._machine.current.ident),
            "OsThread": self._thread,
            "monotonic": lambda: self._machine.time,
            "say": lambda *_, **__: None,
            "events": types.SimpleNamespace(_get_running_loop=lambda: None, _set_running_loop=lambda _: None),
        }

    def _thread(self, target: Any, name: str, ended: Any) -> Any:
        thread = self._machine.thread(target, name=name)
        thread.ended = ended
        return thread
