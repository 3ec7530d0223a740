"""What the system lets a process have, and how much of it is in use, is read as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import environment

from hybridexec.platform import limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the system tells is read from /proc")


def run_limited(source: str, *options: str) -> str:
    """Run a program under other limits (``prlimit``); what it prints."""
    command = ["prlimit", *options, sys.executable, "-c", source]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_descriptors_are_counted_and_limited() -> None:
    source = """if True:
        import os
        from hybridexec.platform import limits
        before = limits.descriptors()
        kept = [os.pipe() for _ in range(3)]
        after = limits.descriptors()
        print(before.most, after.used - before.used, after.left)
    """
    most, more, left = run_limited(source, "--nofile=200:200").split()
    assert (most, more) == ("200", "6")
    assert 0 < int(left) < 194


@pytest.mark.unsanitized(reason="AddressSanitizer reserves some terabytes")
def test_an_address_space_is_limited() -> None:
    source = """if True:
        import mmap
        from hybridexec.platform import limits
        before = limits.address_space()
        kept = mmap.mmap(-1, 64 << 20)
        after = limits.address_space()
        print(before.most, after.used - before.used >= 64 << 20)
    """
    assert run_limited(source, f"--as={4 << 30}").split() == [str(4 << 30), "True"]


def test_no_limit_is_none() -> None:
    source = "from hybridexec.platform import limits; print(limits.address_space().most, limits.address_space().left)"
    assert run_limited(source, "--as=unlimited").split() == ["None", "inf"]


def test_threads_of_the_user_are_counted() -> None:
    """Others come and go meanwhile; these fifty are there."""
    release = threading.Event()
    threads = [threading.Thread(target=release.wait) for _ in range(50)]
    for thread in threads:
        thread.start()
    try:
        used = limits.processes().used
    finally:
        release.set()
        for thread in threads:
            thread.join()
    assert used is not None
    assert used > 50


@pytest.mark.skipif(os.getuid() != 0, reason="takes another user's identity")
def test_a_limit_of_processes_holds_for_who_is_not_privileged() -> None:
    source = """if True:
        import os
        from hybridexec.platform import limits
        privileged = limits.processes().most
        os.setgid(65534)
        os.setuid(54321)
        limit = limits.processes()
        print(privileged, limit.used, limit.most, limits.why_no_thread(), sep="|")
    """
    privileged, used, most, why = run_limited(source, "--nproc=1:1").strip().split("|")
    assert privileged == "None"
    assert (used, most) == ("1", "1")
    assert "likely cause is RLIMIT_NPROC (RLIMIT_NPROC: 1 of 1" in why
    assert "ulimit -u" in why


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups, in which this process is in /outer/inner."""
    for folder, used, most in ("outer", "40", "50"), ("outer/inner", "30", "max"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pids.current").write_text(f"{used}\n")
        (tmp_path / folder / "pids.max").write_text(f"{most}\n")
    (tmp_path / "mine").write_text("0::/outer/inner\n")
    monkeypatch.setattr(limits, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(limits, "_MINE", str(tmp_path / "mine"))
    return tmp_path


def test_the_tightest_group_counts(cgroups: Path) -> None:
    assert limits.cgroup_pids()[:3] == ("pids.max", 40, 50)
    (cgroups / "outer" / "inner" / "pids.max").write_text("31\n")
    assert limits.cgroup_pids()[:3] == ("pids.max", 30, 31)


def test_a_group_that_is_full_is_the_likely_cause(cgroups: Path) -> None:
    assert "pids.max: 40 of 50" in limits.why_no_thread()
    (cgroups / "outer" / "pids.current").write_text("50\n")
    assert "likely cause is pids.max" in limits.why_no_thread()
    assert "--pids-limit" in limits.why_no_thread()


def test_a_container_sees_its_own_group_at_the_root(cgroups: Path) -> None:
    (cgroups / "mine").write_text("0::/of/the/host\n")
    (cgroups / "pids.current").write_text("7\n")
    (cgroups / "pids.max").write_text("8\n")
    assert limits.cgroup_pids()[:3] == ("pids.max", 7, 8)


def test_the_older_hierarchy_of_groups_is_known(cgroups: Path) -> None:
    (cgroups / "pids" / "a").mkdir(parents=True)
    (cgroups / "pids" / "a" / "pids.current").write_text("3\n")
    (cgroups / "pids" / "a" / "pids.max").write_text("4\n")
    (cgroups / "mine").write_text("9:cpu:/outer\n8:pids:/a\n0::/\n")
    assert limits.cgroup_pids()[:3] == ("pids.max", 3, 4)


def test_what_nobody_tells_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MINE", str(tmp_path / "none"))
    limit = limits.cgroup_pids()
    assert (limit.used, limit.most, limit.left) == (None, None, float("inf"))
    assert str(limit) == "pids.max: ? of unlimited"
