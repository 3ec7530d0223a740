"""Nothing grows with what has come and gone (``soak.py``), in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soak
from helpers import ENGINES, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is held is read from /proc")
on_every_engine = pytest.mark.parametrize("engine", ENGINES)
UNSANITIZED = pytest.mark.unsanitized(reason="AddressSanitizer keeps what is freed")


def run(steps: int, engine: str, patience: float) -> str:
    """Run the soak; what it says."""
    command = [sys.executable, str(Path(soak.__file__)), str(steps), engine]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=patience)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@UNSANITIZED
@on_every_engine
def test_a_short_while(engine: str) -> None:
    assert "nothing has grown" in run(20_000, engine, 100)


@pytest.mark.hunt
@UNSANITIZED
@pytest.mark.timeout(4 * 3600)
@on_every_engine
def test_a_million_steps(engine: str) -> None:
    assert "nothing has grown" in run(1_000_000, engine, 4 * 3600)


def test_what_grows_is_named() -> None:
    """Else the soak would prove nothing."""
    early = soak.held(100)
    kept = [[number] for number in range(1000)]
    late = soak.held(1000)
    assert any(text.startswith("objects has grown") for text in soak.grown(early, late))
    assert len(kept) == 1000
    assert not [text for text in soak.grown(late, soak.held(2000)) if "objects" in text]
