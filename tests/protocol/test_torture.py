"""The torture, with seeds that are kept; ``make hunt`` and ``python -m tests.torture`` try fresh ones.

What a seed decides is in ``torture_tasks.py``.  A seed that has found something joins ``SEEDS``.
"""

from __future__ import annotations

import sys

import pytest
from torture import torture

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]

SEEDS = [
    3722693763,  # uvloop before 0.23 closed a descriptor twice after a cancelled create_connection()
    1,
    2,
    3,
    4,
    5,
]
ON_EVERY_PYTHON = 3
"""So many of them are run where not all tests are."""


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.slow if n >= ON_EVERY_PYTHON else []) for n, seed in enumerate(SEEDS)]
)
def test_random_tasks_keep_the_contract(seed: int) -> None:
    status, output = torture(seed, 300, 80)
    print(output)
    assert status == 0, f"seed {seed} on {sys.version}: {output[:2000]}"
