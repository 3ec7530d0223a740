"""Processes in which gevent or eventlet has put greenlets in the place of threads: a sentence, and never a hang."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import execute, write
from helpers import start

import hybridexec
from hybridexec.loop import patched

PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "gevent's threads": "import gevent.monkey; gevent.monkey.patch_thread()",
    "gevent's select": "import gevent.monkey; gevent.monkey.patch_all(thread=False)",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "eventlet's select": "import eventlet; eventlet.monkey_patch(thread=False)",
}

PROGRAM = """
import asyncio, time

async def other():
    await asyncio.sleep(0)

async def main():
    task = asyncio.create_task(other())
    time.sleep(0.01)
    await task

def refused(call):
    try:
        call()
    except RuntimeError as exc:
        print("refused:", exc)
    else:
        print("not refused")
"""

CALLS = """
refused(lambda: hybridexec.run(main()))
refused(hybridexec.new_event_loop)
refused(hybridexec.HybridExecutor)
asyncio.run(main())
print("asyncio's own works")
"""


def says(source: str) -> list[str]:
    """The lines that a program prints, less what eventlet says of itself."""
    process = start(source, PYTHONWARNINGS="ignore")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return [line for line in output.splitlines() if line.startswith(("refused", "not refused", "asyncio's"))]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("library", PATCHES)
def test_a_sentence(library: str, before: bool) -> None:
    pytest.importorskip(library.partition("'")[0])
    patch, package = PATCHES[library], "import hybridexec"
    first, second = (patch, package) if before else (package, patch)
    *refusals, last = says("\n".join([first, second, PROGRAM, CALLS]))
    assert last == "asyncio's own works"
    assert len(refusals) == 3
    for line in refusals:
        assert line.startswith(f"refused: {library.partition("'")[0]} has patched")


def test_a_loop_that_was_made_before() -> None:
    source = [
        "import hybridexec",
        PROGRAM,
        "loop = hybridexec.new_event_loop()",
        PATCHES["gevent"],
        "later = main()",
        "refused(lambda: loop.run_until_complete(later)); later.close(); loop.close()",
    ]
    (line,) = says("\n".join(source))
    assert line.startswith("refused: gevent has patched")


def test_no_coroutine_is_left_that_was_never_awaited(tmp_path: Path) -> None:
    lines = [PATCHES["gevent"], "import hybridexec", PROGRAM, "hybridexec.run(main())"]
    script = write(tmp_path / "script.py", "\n".join(lines))
    found = execute(sys.executable, script, cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("RuntimeError: gevent has patched")
    assert "never awaited" not in found.stderr


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_doctor_says_so_and_does_not_hang(tmp_path: Path, library: str) -> None:
    lines = [PATCHES[library], "from hybridexec.cli import main", "main()"]
    script = write(tmp_path / "script.py", "\n".join(lines))
    shown = execute(sys.executable, script, "doctor", cwd=tmp_path, PYTHONWARNINGS="ignore")
    assert shown.returncode == 1
    (line,) = (line for line in shown.stdout.splitlines() if "broken" in line)
    assert f"{library} has patched" in line


def test_a_tool_that_wraps_the_start_of_threads_is_none_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """pydevd does so, and others wrap select."""
    import _thread
    import select

    real_start, real_select = _thread.start_new_thread, select.select
    monkeypatch.setattr(_thread, "start_new_thread", lambda *args, **kwargs: real_start(*args, **kwargs))
    monkeypatch.setattr(select, "select", lambda *args: real_select(*args))
    assert patched.complaint() is None
    hybridexec.new_event_loop().close()
