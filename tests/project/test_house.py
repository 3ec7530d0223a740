"""The house: which floor may use which, what the protocol knows, what is public and patched, how long a block is."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from helpers import ENGINES, environment

import hybridexec
from hybridexec import _core
from hybridexec.following.thread_locals import IN_DICTIONARY
from hybridexec.platform.own import DIRECTORY

PACKAGE = Path(DIRECTORY)

FLOORS = (
    ("errors",),
    ("_core",),
    ("platform",),
    ("observing",),
    ("config",),
    ("protocol",),
    ("following",),
    ("detector",),
    ("signals",),
    ("reactions",),
    ("engines",),
    ("loop",),
    ("instruments",),
    ("runner",),
    ("executor", "cli", "pytest_plugin"),
    ("__init__", "__main__"),
)
"""From the cellar up: a file imports from its own floor and from those below it.  (docs/architecture.md)"""

CIRCLE = {f"executor/{name}" for name in ("bound", "crew", "ending", "future", "listing", "loop_thread", "user_thread")}
"""The executor's parts share one life-cycle, and name each other's types; at run time they import downwards."""

Imports = dict[str, set[str]]


def files() -> dict[str, Path]:
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}


def imports(name: str, path: Path, known: dict[str, Path], *, types: bool) -> Iterator[str]:
    """The files of the package that a file imports; with ``types``, also those that only a type checker looks at."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            node.body = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        package = name.split("/")[:-1]
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            for parts in ([*base, alias.name], [*base, alias.name, "__init__"], base, [*base, "__init__"]):
                if (found := "/".join(parts)) in known and found != name:
                    yield found
                    break


def graph(*, types: bool) -> Imports:
    known = files()
    return {name: set(imports(name, path, known, types=types)) for name, path in known.items()}


def circles(graph: Imports) -> list[set[str]]:
    """Sets of files of which each is reached from each."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for each in graph[waiting.pop()] - seen:
                seen.add(each)
                waiting.append(each)
        reached[start] = seen
    found = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return [set(circle) for circle in found]


def floor(name: str) -> int:
    room = name.partition("/")[0]
    (number,) = (number for number, rooms in enumerate(FLOORS) if room in rooms)
    return number


def test_imports_go_down() -> None:
    """Also those of types: who names what is above him cannot be read alone."""
    up = {(a, b) for a, others in graph(types=True).items() for b in others if floor(b) > floor(a)}
    assert not up


def test_there_is_no_circle_of_files() -> None:
    assert not circles(graph(types=False))
    assert circles(graph(types=True)) == [CIRCLE]


def test_circles_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_the_protocol_knows_nothing_of_asyncio() -> None:
    """Nor of the detector, of what follows the loop, or of the loop: it is plain Python over threads and locks."""
    allowed = {"__future__", "_thread", "collections", "dataclasses", "enum", "itertools", "math", "os", "sys"}
    allowed |= {"threading", "typing", "weakref"}
    for path in PACKAGE.joinpath("protocol").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).partition(".")[0] in allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 2:
                assert str(node.module).partition(".")[0] in ("_core", "platform"), path


def test_the_protocol_proper_can_be_read_in_one_go() -> None:
    assert len(PACKAGE.joinpath("protocol", "carrying.py").read_text().splitlines()) < 400


@pytest.mark.parametrize("engine", ENGINES)
def test_the_loop_has_asyncios_names_and_no_others(engine: Any) -> None:
    """What asyncio gets one day is not hidden by a name of ours.  (docs/api.md lists these three.)"""
    loop = hybridexec.new_event_loop(engine=engine)
    loop.close()
    theirs = {*dir(asyncio.SelectorEventLoop), *dir(uvloop.Loop)}
    assert {name for name in {*dir(loop), *vars(loop)} - theirs if not name.startswith("_")} == {
        "config",
        "engine_name",
        "stats",
    }


def test_the_files_that_a_docstring_names_exist() -> None:
    """A file is named by its path from the folder of who names it, or from the package."""
    library = {"socket.py"}
    wrong = [
        f"{path.relative_to(PACKAGE.parent)}: {name}"
        for folder in (PACKAGE, PACKAGE.parent / "pytest_hybridexec")
        for path in folder.rglob("*.py")
        for name in re.findall(r"``([\w./-]+\.py)``", path.read_text())
        if name not in library and not (path.parent / name).is_file() and not (PACKAGE / name).is_file()
    ]
    assert not wrong


PATCHES = """
import importlib, sys
for name in sys.argv[1].split(","):
    importlib.import_module(name)
def all_there_is():
    return {
        (module.__name__, name): value
        for module in list(sys.modules.values()) if not module.__name__.startswith("hybridexec")
        for name, value in list(vars(module).items()) if callable(value)
    }
before = all_there_is()
import asyncio, hybridexec, time
from hybridexec.platform import patches
async def main():
    time.sleep(0.002)
    assert "signal.pause" in patches.listing()
for engine in ("auto", "selector", "uvloop"):
    hybridexec.run(main(), engine=engine)
after = all_there_is()
changed = sorted(f"{module}.{name}" for module, name in before if after.get((module, name)) is not before[module, name])
print(changed == sorted(patches.listing()), *changed)
"""


def test_importing_patches_what_is_listed() -> None:
    """And running leaves nothing else behind: what the package has imported before is as it was."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, hybridexec, hybridexec.engines.uv; print(','.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    ).stdout.strip()
    names = [name for name in loaded.split(",") if not name.startswith(("hybridexec", "__"))]
    found = subprocess.run(
        [sys.executable, "-c", PATCHES, ",".join(names)], capture_output=True, text=True, check=True, env=environment()
    )
    patched = ["threading.get_ident"]
    if sys.version_info >= (3, 14):
        patched = ["asyncio.all_tasks", "asyncio.tasks.all_tasks", *patched]
    assert found.stdout.split() == ["True", *patched], found.stderr


WALK = """
import contextlib, sys, threading, time
import hybridexec
from hybridexec.platform.own import DIRECTORY

TOOL = 1
frames, out_of_the_protocol = [], []
ident = threading.get_ident()

def started(code, offset):
    file = code.co_filename.removeprefix(DIRECTORY)
    if threading.get_ident() != ident or file == code.co_filename:
        return
    frames.append(f"{file}:{code.co_name}")
    caller = sys._getframe(2).f_code.co_filename
    if caller.startswith(f"{DIRECTORY}protocol") and not file.startswith("protocol") and carrying.inside():
        out_of_the_protocol.append(frames[-1])

@contextlib.contextmanager
def walking():
    events = sys.monitoring.events
    sys.monitoring.use_tool_id(TOOL, "walk")
    sys.monitoring.register_callback(TOOL, events.PY_START, started)
    sys.monitoring.set_events(TOOL, events.PY_START)
    yield
    sys.monitoring.set_events(TOOL, 0)
    sys.monitoring.free_tool_id(TOOL)

async def main():
    global carrying
    carrying = hybridexec.protocol.lwp.current[ident].carrying
    region = hybridexec.blocking()
    for walked in contextlib.nullcontext(), walking():  # the second time the place of the region is known
        with region:
            while not carrying.pollers:
                time.sleep(0.001)
        with walked:
            region.__enter__()
            region.__exit__(None, None, None)

hybridexec.run(main())
print(*frames)
print(*out_of_the_protocol)
"""


def walk(core: str) -> tuple[list[str], list[str]]:
    """The functions that are called out and back, in an idle loop that nobody has to be woken for."""
    command = [sys.executable, "-c", WALK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(HYBRIDEXEC_CORE=core))
    frames, out_of_the_protocol = (line.split() for line in done.stdout.splitlines())
    return frames, out_of_the_protocol


def test_the_walk_of_a_block() -> None:
    frames, out_of_the_protocol = walk("python")
    assert "protocol/carrying.py:leave" in frames
    assert len(frames) <= 34, frames
    assert out_of_the_protocol == ["following/following.py:detach", "following/following.py:attach"]


@pytest.mark.skipif(_core.compiled is None, reason="there is no compiled core")
def test_the_walk_of_a_block_on_the_compiled_core() -> None:
    """The protocol has no frame, and neither has what follows the loop; on 3.12 more follows than is compiled."""
    frames, _ = walk("c")
    followed = ["following/following.py:detach", "following/following.py:attach"]
    compiled = ("protocol", "following/following.py")
    assert [frame for frame in frames if frame.startswith(compiled)] == (followed if IN_DICTIONARY else [])
    assert len(frames) <= 20, frames
