"""What people run beside a service: a debugger, a sampler of stacks, coverage.

``python -m asyncio ps`` is newer than the Python of this folder: ``tests/loop/test_tools.py`` has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compatibility.dap import Adapter
from compatibility.service import APPS, LIMIT, free_port

PROGRAM = APPS / "comes_back.py"
BREAKPOINT = next(
    number for number, line in enumerate(PROGRAM.read_text().splitlines(), 1) if "# the breakpoint" in line
)


@contextlib.contextmanager
def program(*arguments: str, engine: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the interpreter; killed if it has not come to its end."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HYBRIDEXEC_ENGINE": engine},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):  # a debugger's other process may still have them
            assert pipe is not None
            pipe.close()


@pytest.mark.compatibility("debugpy", "a breakpoint in a step that comes back from a block; its variables; stepping")
def test_a_breakpoint_after_a_block(engine: str) -> None:
    port = free_port()
    command = [
        "-Xfrozen_modules=off",
        "-m",
        "debugpy",
        "--listen",
        f"127.0.0.1:{port}",
        "--wait-for-client",
        str(PROGRAM),
    ]
    with program(*command, engine=engine) as process:
        adapter = Adapter(port)
        adapter.ask("initialize", adapterID="test", linesStartAt1=True, pathFormat="path")
        attached = adapter.send("attach", justMyCode=False)
        adapter.event("initialized")
        adapter.ask("setBreakpoints", source={"path": str(PROGRAM)}, breakpoints=[{"line": BREAKPOINT}])
        adapter.ask("configurationDone")
        adapter.answer(attached)
        stopped = adapter.event("stopped")
        assert stopped["reason"] == "breakpoint"
        frame = adapter.ask("stackTrace", threadId=stopped["threadId"])["stackFrames"][0]
        assert (frame["name"], frame["line"]) == ("blocks", BREAKPOINT)
        assert adapter.ask("evaluate", expression="seen", frameId=frame["id"])["result"] == "'after the block'"
        adapter.ask("next", threadId=stopped["threadId"])
        assert adapter.event("stopped")["reason"] == "step"
        adapter.ask("continue", threadId=stopped["threadId"])
        adapter.event("terminated")
        adapter.ask("disconnect")
        adapter.close()
        assert process.wait(LIMIT) == 0
        assert process.stdout is not None
        assert process.stdout.readline() == "after the block\n"


@pytest.mark.compatibility("py-spy", "shows where each LWP is, by its name; the process goes on")
def test_the_stacks_of_a_service(engine: str) -> None:
    with program(str(PROGRAM), "--hold", engine=engine) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("held")
        spy = Path(sys.executable).parent / "py-spy"
        dump = subprocess.run(
            [spy, "dump", "--json", "--pid", str(process.pid)], capture_output=True, text=True, timeout=LIMIT
        )
        if "Permission" in dump.stderr:
            pytest.skip("py-spy may not look at other processes here")
        assert not dump.returncode, dump.stderr
        threads = json.loads(dump.stdout)
        where = {thread["thread_name"]: [frame["name"] for frame in thread["frames"]] for thread in threads}
        blocked = [name for name, frames in where.items() if "blocks" in frames]
        holding = [name for name, frames in where.items() if "main" in frames]
        assert len(blocked) == len(holding) == 1
        assert blocked != holding
        assert any(name.startswith("hybridexec-lwp") for name in blocked + holding), where
        said, _ = process.communicate("\n", timeout=LIMIT)
    assert process.returncode == 0
    assert said == "after the block\n"


@pytest.mark.compatibility("coverage", "every line of a step that moves, by each of its cores")
@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
def test_every_line_is_covered(engine: str, core: str, tmp_path: Path) -> None:
    environment = {
        **os.environ, "HYBRIDEXEC_ENGINE": engine, "COVERAGE_CORE": core, "COVERAGE_FILE": str(tmp_path / "data"),
    }  # fmt: skip
    for arguments in (["run", str(PROGRAM)], ["json", "-o", str(tmp_path / "report")]):
        subprocess.run([sys.executable, "-m", "coverage", *arguments], env=environment, check=True, timeout=LIMIT)
    files = json.loads((tmp_path / "report").read_text())["files"]
    (report,) = [report for name, report in files.items() if name.endswith(PROGRAM.name)]
    missing = [PROGRAM.read_text().splitlines()[line - 1].strip() for line in report["missing_lines"]]
    assert missing == ['print("held", os.getpid(), flush=True)', "sys.stdin.readline()"]
