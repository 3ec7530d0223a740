"""The project itself: what its documents promise about its files and commands."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import hybridexec

ROOT = Path(__file__).parents[2]

# Every command that a document tells people to type, and who runs it.
RUN_BY = {
    "make demo": "tests/cli/test_cli.py",
    "make test": ".ci/run",
    "make lint types": ".ci/run",
    "make lowest": ".ci/run",
    "make hunt": "Makefile",
    "make conformance": ".ci/run",
    "make compatibility": ".ci/hunt",
    "make applications": ".ci/hunt",
    "pytest --hybridexec-mode=raise": "tests/pytest_plugin/test_pytest_plugin.py",
    "python -m benchmarks": "tests/project/test_benchmarks.py",
}

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), *ROOT.glob("*/README.md")]

pytestmark = pytest.mark.slow


def commands(document: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", document.read_text(), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_documented_command_is_run(document: Path) -> None:
    for command in commands(document):
        known = [name for name in RUN_BY if command == name or command.startswith(name + " ")]
        assert known, f"{command!r}: nobody runs it"
        assert (ROOT / RUN_BY[known[0]]).exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_make_has_the_documented_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for command in commands(document):
            if command.startswith("make "):
                for target in (word for word in command.split()[1:] if "=" not in word):
                    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_each_application_that_is_tested_has_its_command_in_the_page() -> None:
    page = (ROOT / "docs/applications.md").read_text()
    named = re.findall(r"`make applications APPLICATIONS=(\S+)`", page)
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/applications/test_*.py"))


def test_version_is_in_the_changelog() -> None:
    assert f"## {hybridexec.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_package_is_typed_and_small() -> None:
    assert (ROOT / "hybridexec/py.typed").exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(re.split(r"[><=;]", name)[0] for name in project["dependencies"]) == ["anyio", "uvloop"]
    assert all(">=" in name for name in project["dependencies"])


def test_no_lock_file_is_kept() -> None:
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in kept if name.endswith((".lock", "-lock.json", "requirements.txt"))]
