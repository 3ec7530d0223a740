"""Rule 1: one carrier.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest
from helpers import (
    LIBC,
    here,
    pipe,
    quick_switches,
    running_loop,
)

import hybridexec
from hybridexec.protocol.lwp import LWP

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


def test_rule1_no_two_steps_of_a_loop_run_at_once() -> None:
    inside = 0
    entered = 0
    seed = random.randrange(2**32)
    print(f"seed={seed}")

    def section() -> None:
        nonlocal inside, entered
        assert inside == 0, f"seed={seed}"
        inside += 1
        for _ in range(20):
            assert inside == 1, f"seed={seed}"
        inside -= 1
        entered += 1

    async def worker(rng: random.Random) -> None:
        for _ in range(8):
            section()
            match rng.randrange(5):
                case 0:
                    await asyncio.sleep(0)
                case 1:
                    await asyncio.sleep(rng.random() * 0.005)
                case 2:
                    time.sleep(rng.random() * 0.005)
                case 3:
                    LIBC.usleep(rng.randrange(20_000))
                case _:
                    with hybridexec.blocking():
                        LIBC.usleep(rng.randrange(2_000))
            section()

    async def main() -> int:
        await asyncio.gather(*(worker(random.Random(seed + n)) for n in range(25)))
        return running_loop().stats().handoffs

    with quick_switches():
        assert hybridexec.run(main()) > 0
    assert entered == 25 * 8 * 2


def test_rule1_a_blocked_lwp_runs_no_other_step() -> None:
    with pipe() as (reader, writer):
        home: LWP | None = None
        others: list[LWP] = []

        async def blocks() -> None:
            nonlocal home
            home = here()
            os.read(reader, 1)

        async def others_go_on() -> None:
            for _ in range(50):
                others.append(here())
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            others.append(here())
            os.write(writer, b"x")

        async def main() -> None:
            await asyncio.gather(blocks(), others_go_on())

        hybridexec.run(main())
        assert len(others) == 51
        assert home not in others
