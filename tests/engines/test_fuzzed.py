"""Transports do the same as asyncio's own, whatever is done with them (``fuzzing.py``)."""

from __future__ import annotations

import asyncio
import functools
import random
import ssl

import pytest
from fuzzing import Kind, Script, play

import hybridexec

SEEDS = 40
"""The gate's; what has once failed is among them."""

pytestmark = [
    pytest.mark.differs_by_engine,
    pytest.mark.engine("selector", reason="uvloop's transports say other things, at other times"),
]


def compare(seed: int, kind: Kind, certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    script = Script.made(seed, kind)
    theirs = play(script, asyncio.SelectorEventLoop, certificates)
    ours = play(script, functools.partial(hybridexec.new_event_loop), certificates)
    assert ours == theirs, (seed, script)


@pytest.mark.parametrize("kind", Kind)
def test_transports_do_as_asyncios(kind: Kind, certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    for seed in range(SEEDS):
        compare(seed, kind, certificates)


@pytest.mark.hunt
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", Kind)
def test_transports_do_as_asyncios_with_fresh_seeds(
    kind: Kind, certificates: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    for _ in range(2000):
        compare(random.randrange(1 << 40), kind, certificates)
