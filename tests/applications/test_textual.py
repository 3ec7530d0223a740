"""Textual, in a terminal: what one key starts blocks until another key is pressed."""

from __future__ import annotations

import signal

import pytest

from applications.terminal import terminal


@pytest.mark.parametrize("ending", ["q", signal.SIGINT, signal.SIGTERM])
def test_keys_wait_for_each_other(engine: str, ending: str | signal.Signals) -> None:
    with terminal("with_textual.py", engine=engine) as screen:
        screen.wait_for("ready")
        screen.press("ttt")
        screen.press("ppp")
        screen.wait_for("3 taken")  # the others may be painted over
        if isinstance(ending, str):
            screen.press(ending)
        else:
            screen.process.kill(ending)
        expected = (None, signal.SIGTERM) if ending == signal.SIGTERM else (0, None)
        assert screen.wait_for_its_end() == expected
