"""Signals anywhere: a handler that raises leaves the protocol whole, at whichever of its instructions the signal comes.

The program that does it is ``signals_anywhere.py``, and says there what is looked at.  The gate tries some places of
each scene, always the same ones; the hunt tries them all.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

PROGRAM = Path(__file__).with_name("signals_anywhere.py")

SCENES = ("explicit", "marked", "discovered", "pinned", "sure", "unfinished", "preempted")


def strike(scene: str, *options: str, timeout: float) -> None:
    """Play a scene again and again, struck at another place each time."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), scene, *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-2:], done.stderr)
    assert lines[-1] == "done"
    _, _, reached, chosen, struck = lines[-2].split()
    assert int(reached) > 300
    assert int(struck) > int(chosen) / 3  # some places are not reached in each play


@pytest.mark.parametrize("scene", SCENES)
def test_a_signal_at_some_places_of_the_protocol(scene: str) -> None:
    strike(scene, "--most", "20", timeout=100)


@pytest.mark.hunt
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scene", SCENES)
def test_a_signal_at_every_place_of_the_protocol(scene: str) -> None:
    strike(scene, timeout=1700)
