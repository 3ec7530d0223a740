"""IPython's shell, in a terminal: of coroutines that are awaited at its prompt one blocks until another one runs."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from applications.terminal import terminal

SHELL = ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor", "--no-confirm-exit", "--quick"]
LINES = [
    "import asyncio; from awaited import put, take",
    "await asyncio.gather(take(), take(), put('a'), put('b'))",
]


@pytest.mark.parametrize("ending", ["exit()\n", "\x04", signal.SIGTERM])
def test_awaited_at_the_prompt(engine: str, ending: str | signal.Signals, tmp_path: Path) -> None:
    with terminal(*SHELL, engine=engine, IPYTHONDIR=str(tmp_path)) as screen:
        for number, line in enumerate(LINES, 1):
            screen.wait_for(f"In [{number}]: ")
            screen.press(f"{line}\n")
        screen.process.expect(r"Out\[2\]: \['[ab]', '[ab]', None, None\]")
        screen.wait_for("In [3]: ")
        # Ctrl-C while one is blocked
        screen.press("print('blocked'); await take()\n")
        screen.wait_for("\nblocked")
        screen.press("\x03")
        screen.wait_for("KeyboardInterrupt")
        screen.wait_for("In [4]: ")
        if isinstance(ending, str):
            screen.press(ending)
        else:
            screen.process.kill(ending)
        expected = (None, signal.SIGTERM) if ending == signal.SIGTERM else (0, None)
        assert screen.wait_for_its_end() == expected
