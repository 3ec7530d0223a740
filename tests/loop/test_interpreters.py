"""Other interpreters in the process, with a GIL of their own, while a loop runs: the sampler leaves them alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers import run_script

pytestmark = pytest.mark.skipif(sys.version_info < (3, 13), reason="anyio uses other interpreters from 3.13 on")


@pytest.mark.parametrize("mode", ["handoff", "observe"])
def test_interpreters_begin_and_end_beside_a_loop(tmp_path: Path, mode: str) -> None:
    """What goes wrong is memory, so it is a process of its own that dies of it."""
    (tmp_path / "script.py").write_text("""
import sys
import anyio, hybridexec
from anyio import to_interpreter

async def main():
    for _ in range(5):
        assert await to_interpreter.run_sync(divmod, 7, 2) == (3, 1)

for _ in range(3):
    anyio.run(main, backend_options={"loop_factory": getattr(hybridexec, sys.argv[1])})
print("done")
""")
    factory = {"handoff": "new_event_loop", "observe": "observe_event_loop"}[mode]
    assert run_script("-X", "faulthandler", "script.py", factory, cwd=tmp_path) == "done\n"
