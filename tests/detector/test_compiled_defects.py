"""Defects in what the compiled core does in the plain case, which it may take for plain: tests find each."""

from __future__ import annotations

import shutil
from pathlib import Path

import mutated
import pytest

from hybridexec import _core

pytestmark = [
    pytest.mark.hunt,
    pytest.mark.skipif(_core.compiled is None or shutil.which("cc") is None, reason="nothing can be compiled"),
    pytest.mark.unsanitized(reason="the copy is compiled without them"),
]

MUTATIONS = {
    "a protocol's method that leaves alone": (
        "following.c",
        "detaches_plainly",
        "is_step_of_task(follows->lwp)",
        "1",
        "tests/engines/test_transports.py",
    ),
    "a current task that stays": (
        "following.c",
        "put_down",
        "return PyDict_DelItem(current_tasks, loop);",
        "return 0;",
        "tests/contract tests/loop/test_asyncio_features.py",
    ),
    "a current task that is lost": (
        "following.c",
        "pick_up",
        "PyDict_SetItem(current_tasks, following->loop, luggage->task) < 0",
        "0",
        "tests/contract tests/loop/test_asyncio_features.py",
    ),
    "RLocks that stay": (
        "following.c",
        "attaches_plainly",
        "PyDict_GET_SIZE(follows->following->held) > 0 ||",
        "",
        "tests/following/test_rlocks.py",
    ),
    "marks that are not given back": (
        "following.c",
        "attaches_plainly",
        "|| PyDict_GET_SIZE(marks->kept) > 0",
        "",
        "tests/following tests/loop/test_trio_guest.py",
    ),
    "thread-locals of a spare's own": (
        "following.c",
        "attaches_plainly",
        "is > 0 && follows->lwp->handle == Py_None",
        "false",
        "tests/following",
    ),
    "bound tasks that run anywhere": (
        "after_step.c",
        "is_free",
        "is_false_attribute(affinity, bound_name)",
        "1",
        "tests/contract/test_rule6_affinity.py",
    ),
    "bindings that nobody looks at": (
        "after_step.c",
        "after_step",
        "|| luggage->check_bindings",
        "",
        "tests/following/test_rlocks.py",
    ),
    "a loop that leaves, whatever keeps it": (
        "calls.c",
        "leaves_plainly",
        "!((RecordFields *)lwp->carrying)->leaves_plainly ||",
        "",
        "tests/reactions/test_modes.py",
    ),
    "a call in the middle of the protocol": (
        "calls.c",
        "is_plain",
        "is_inside(lwp)",
        "0",
        "tests/loop/test_finalizers.py tests/protocol/test_mutex.py",
    ),
    "a step beside one that is in its context": (
        "turns.c",
        "defer",
        "int entered = is_entered(object, handle);",
        "int entered = 0; (void)object, (void)handle;",
        "tests/contract tests/engines/test_native.py",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_defect_is_found(name: str, tmp_path: Path) -> None:
    file, where, old, new, tests = MUTATIONS[name]
    mutated.build(tmp_path, where, old, new, file=file)
    assert mutated.test(tmp_path, tests) == pytest.ExitCode.TESTS_FAILED
