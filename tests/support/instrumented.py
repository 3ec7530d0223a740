"""Instrumented: the protocol's own source, run on the machine of ``exploring.py``.

The files of ``hybridexec/protocol/``, and ``signals/handlers.py``, are compiled from the sources that ship, into
modules of their own whose ``_thread``, ``threading``, identities and clock are the machine's; nothing of the installed
package changes.  On the way each access to an attribute that threads share becomes a point, ``x.state`` reading as
``(point() or x.state)``: that is how races on what is read without the lock are found.  A *mutation* replaces a piece
of the source, which has to be there once: a checker that does not find it would find nothing else either.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
import types
from pathlib import Path
from typing import Any

from exploring import Grain, Lock, Machine, RLock

import hybridexec

_SOURCES = Path(hybridexec.__file__).parent
MODULES = (
    "protocol.lwp",
    "protocol.handler",
    "protocol.host",
    "protocol.pool",
    "protocol.record",
    "protocol.order",
    "protocol.waking",
    "protocol.repair",
    "protocol.homes",
    "protocol.polling",
    "protocol.carrying",
    "protocol.compiled_carrying",
    "protocol.excused",
    "protocol.borrowing",
    "protocol.suspending",
    "protocol.ending",
    "signals.handlers",
)
"""In the order in which they build on each other."""

_FIXED = {"home", "mutex", "inside", "changed", "unheld", "ident", "name", "thread", "host", "watch", "luggage"}
"""What is set before others look, or changes only while they do not."""


class Mutation:
    """A defect: in the function ``where`` of the protocol one piece of the source is another."""

    def __init__(self, name: str, where: str, old: str, new: str) -> None:
        self.name = name
        self._where, self._old, self._new = where, old, new

    def __repr__(self) -> str:
        return self.name

    def concerns(self, source: str) -> bool:
        """Whether the piece is in this source, in that function."""
        return any(self._old in part for part in _parts(source) if self._is_in(part))

    def _is_in(self, part: str) -> bool:
        return part.lstrip().startswith(f"def {self._where}(")

    def apply(self, source: str) -> str:
        parts = _parts(source)
        (number,) = (n for n, part in enumerate(parts) if self._is_in(part))
        assert parts[number].count(self._old) == 1, f"{self._where}() has changed: fix the mutation {self.name!r}"
        parts[number] = parts[number].replace(self._old, self._new)
        return "".join(parts)


def _parts(source: str) -> list[str]:
    return re.split(r"^(?= *(?:def|class) )", source, flags=re.MULTILINE)


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
    """The protocol's modules, as they are or with a mutation.

    Args:
        mutation: what is wrong in them.
        compiled: whether the hot moves are those of the compiled core, the very binary that is installed.
    """

    carrying_class: Any

    def __init__(self, mutation: Mutation | None = None, *, compiled: bool = False) -> None:
        self._machine: Machine = None  # type: ignore[assignment]  # set by boot()
        self._modules: dict[str, Any] = {}
        sources = {name: _SOURCES.joinpath(*name.split(".")).with_suffix(".py").read_text() for name in MODULES}
        if mutation is not None:
            (name,) = (name for name, source in sources.items() if mutation.concerns(source))
            sources[name] = mutation.apply(sources[name])
        trees = {name: ast.parse(source) for name, source in sources.items()}
        shared = set().union(*(_shared(tree) for name, tree in trees.items() if name != "protocol.lwp"))
        for name, tree in trees.items():
            if name != "protocol.lwp":
                ast.fix_missing_locations(_Points(shared).visit(tree))
            module = self._load(name, tree)
            setattr(self, name.partition(".")[2], module)
            if name == "protocol.lwp":
                module.LWP.__hash__ = lambda lwp: sum(lwp.name.encode())  # sets of them have the same order each time

        self.carrying_class = self.carrying.Carrying
        if compiled:
            self.carrying_class = self.compiled_carrying.compiled_carrying(lambda: self._machine.time)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # what is there was set by __init__()

    def _load(self, name: str, tree: ast.Module) -> Any:
        module: Any = types.ModuleType(f"hybridexec.{name}")
        module.__package__ = f"hybridexec.{name.partition('.')[0]}"
        before = {known: sys.modules[f"hybridexec.{known}"] for known in self._modules}
        package = sys.modules["hybridexec.protocol"]
        attributes = {known: getattr(package, known.partition(".")[2], None) for known in self._modules}
        for known, loaded in self._modules.items():
            sys.modules[f"hybridexec.{known}"] = loaded
            setattr(package, known.partition(".")[2], loaded)  # for "from . import"
        try:
            exec(compile(tree, str(_SOURCES.joinpath(*name.split(".")).with_suffix(".py")), "exec"), module.__dict__)
        finally:
            sys.modules.update({f"hybridexec.{known}": module for known, module in before.items()})
            for known, attribute in attributes.items():
                setattr(package, known.partition(".")[2], attribute)
        for replaced, stand_in in self._system().items():
            if hasattr(module, replaced):
                setattr(module, replaced, stand_in)
        self._modules[name] = module
        return module

    def boot(self, machine: Machine) -> None:
        """Run on this machine from now on."""
        self._machine = machine
        for name, module in self._modules.items():
            if name != "protocol.lwp":
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
