"""The compiled core: that it is there where it can be, and that nobody has to guess which one runs."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

import hybridexec
from hybridexec import _core
from hybridexec.platform.own import DIRECTORY

pytestmark = pytest.mark.differs_by_version

ROOT = Path(DIRECTORY).parent

BUILDS = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"

PRINTS = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s")
import asyncio, hybridexec
for _ in range(2):
    hybridexec.run(asyncio.sleep(0))
loop = hybridexec.new_event_loop()
print(loop.stats().core)
loop.close()
try:
    hybridexec.new_event_loop(engine="native").close()
except RuntimeError as exc:
    print(exc)
"""


def prints(**variables: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], env=environment(**variables), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(_core.ASKED_FOR == "python", reason="the Python core is asked for")
def test_it_is_compiled_where_there_is_a_compiler() -> None:
    assert _core.compiled is not None, _core.why_not
    assert prints() == ["c"]


def test_the_python_core_can_be_chosen() -> None:
    said = 'engine="native": there is no compiled core (HYBRIDEXEC_CORE=python is set); use engine="selector"'
    assert prints(HYBRIDEXEC_CORE="python") == ["python", said]


def test_one_that_is_asked_for_and_missing_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_core, "compiled", None)
    monkeypatch.setattr(_core, "why_not", "there was no compiler")
    monkeypatch.setattr(_core, "ASKED_FOR", "c")
    monkeypatch.setattr(_core, "_complained", False)

    async def main() -> None:
        pass

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            hybridexec.run(main(), engine="selector")
    assert caplog.messages == ["HYBRIDEXEC_CORE=c is set, and the Python core runs: there was no compiler"]


def test_a_wrong_name_is_refused() -> None:
    environ = {"HYBRIDEXEC_CORE": "rust"}
    said = "HYBRIDEXEC_CORE=<str of length 4>: allowed are c, python"
    with pytest.raises(hybridexec.WrongEnvironmentError, match=said):
        hybridexec.Config.from_env(environ)


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "is_compiled"), [("cc", True), ("false", False)])
def test_the_package_is_built_with_a_compiler_and_without(compiler: str, is_compiled: bool, tmp_path: Path) -> None:
    """Without one it installs all the same."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tree)
    for package in ("hybridexec", "pytest_hybridexec"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", BUILDS, str(tmp_path)],
        cwd=tree,
        env=environment(CC=compiler, PYTHONPATH=""),
        capture_output=True,
        text=True,
        check=True,
    )
    wheel = tmp_path / done.stdout.splitlines()[-1]
    names = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
    ).stdout
    assert ("hybridexec/_core/compiled" in names) is is_compiled
    assert "hybridexec/py.typed" in names
    assert "hybridexec/_core/__init__.py" in names
