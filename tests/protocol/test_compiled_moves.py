"""Defects in the compiled moves: the explorer plays the binary, and finds each.  (docs/protocol.md)"""

from __future__ import annotations

import shutil
from pathlib import Path

import mutated
import pytest

from hybridexec import _core

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_core.compiled is None or shutil.which("cc") is None, reason="nothing can be compiled"),
    pytest.mark.unsanitized(reason="the copy is compiled without them"),
]

MUTATIONS = {
    "a forgotten wake-up": ("do_leave", "send_to(record, successor)", "0", "one_blocks_and_another_ends_it"),
    "a return that nobody hears of": (
        "queue_as_returning",
        "expect(record, since + moves->return_bound);",
        "(void)moves;",
        "two_return_at_once",
    ),
    "a call that is retaken after its end": (
        "leave_locked",
        "truth(PyObject_CallNoArgs(still)) <= 0",
        "truth(PyObject_CallNoArgs(still)) < 0",
        "a_marked_call_is_retaken",
    ),
    "a step that stays detached": (
        "take",
        "PySet_Discard(record->detached, (PyObject *)lwp) < 0 ||",
        "",
        "one_blocks_and_another_ends_it",
    ),
    "a return without the loop": ("rejoin_locked", "if (!late)", "if (true)", "two_return_at_once"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_defect_is_found(name: str, tmp_path: Path) -> None:
    where, old, new, scene = MUTATIONS[name]
    mutated.build(tmp_path, where, old, new)
    assert mutated.play(tmp_path, scene).startswith("found:")


def test_without_a_defect_nothing_is_found(tmp_path: Path) -> None:
    """Else the others would prove nothing."""
    mutated.build(tmp_path, "unlock", "release_name", "release_name")
    assert mutated.play(tmp_path, "one_blocks_and_another_ends_it").startswith("not found")
