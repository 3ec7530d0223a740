"""The torture, for some seconds; ``python -m tests.torture`` goes on for as long as one likes.

``HX_TORTURE_SEED`` repeats a seed.
"""

from __future__ import annotations

import os
import random

import pytest
from torture import torture

RUNS = 6


@pytest.mark.parametrize("run", range(RUNS))
def test_random_tasks_keep_the_contract(run: int) -> None:
    """Each run has other seeds, so that all of them are tried in the end."""
    given = os.environ.get("HX_TORTURE_SEED")
    seed = random.randrange(2**32) if given is None else int(given)
    print(f"seed={seed}")
    status, output = torture(seed, 300, 30)
    print(output)
    assert status == 0, f"HX_TORTURE_SEED={seed}: {output[:2000]}"
