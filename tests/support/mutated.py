"""A copy of the package whose compiled core has a defect: is it found, by the explorer or by tests?

    python mutated.py FOLDER SCENE

Plays a scene on the package in FOLDER, which comes before any other, and prints what was found.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from shutil import copytree, ignore_patterns

import hybridexec

SOURCES = Path(hybridexec.__file__).parent


def build(folder: Path, where: str, old: str, new: str, *, file: str = "moves.c") -> None:
    """Copy the package, and compile its core with another text in one function of a file."""
    package = folder / "hybridexec"
    copytree(SOURCES, package, ignore=ignore_patterns("__pycache__", "*.so"))
    source = package / "_core" / file
    parts = source.read_text().split("\n}\n")
    begins = re.compile(rf"^\w[^;{{]*[ *]{where}\([^;{{]*\n{{$", re.MULTILINE)
    (number,) = (n for n, part in enumerate(parts) if begins.search(part))
    assert parts[number].count(old) == 1, f"{where}() has changed: fix the mutation"
    parts[number] = parts[number].replace(old, new)
    source.write_text("\n}\n".join(parts))
    include = sysconfig.get_path("include")
    headers = [f"-I{include}", f"-I{Path(include).parent}"]
    target = package / "_core" / f"compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = sorted(map(str, package.joinpath("_core").glob("*.c")))
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-shared", "-fPIC", "-std=c11", "-fwrapv", "-w", *headers, *sources, "-o", str(target)]
    subprocess.run(command, check=True)


def play(folder: Path, scene: str) -> str:
    """What a process prints that plays a scene there."""
    path = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, __file__, str(folder), scene]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=True
    ).stdout


def test(folder: Path, tests: str) -> int:
    """How a process ends that runs tests on the package there; those that hang are ended."""
    path = os.pathsep.join([str(folder), *sys.path])
    options = ["-q", "-x", "-p", "no:cacheprovider", "--timeout", "60"]
    command = [sys.executable, "-P", "-m", "pytest", *options, *tests.split()]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, env=environment, cwd=SOURCES.parent, capture_output=True, timeout=300).returncode


def _main(folder: str, scene: str) -> None:
    import test_protocol
    from exploring import Exhaustive, Failed, Grain, explore, pct
    from instrumented import Protocol

    assert Path(hybridexec.__file__).is_relative_to(folder)
    play = test_protocol.played(getattr(test_protocol, scene), Protocol(compiled=True), claimable=True)
    try:
        explore(play, Exhaustive(1), Grain.SYNC)
        explore(play, pct(range(2000)), Grain.SYNC)
    except Failed as exc:
        print("found:", str(exc).splitlines()[0])
    else:
        print("not found")


if __name__ == "__main__":
    _main(*sys.argv[1:])
