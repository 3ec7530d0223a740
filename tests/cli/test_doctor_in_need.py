"""``hybridexec doctor`` where something is wrong: it says what, and never ends in a traceback."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import HYBRIDEXEC, execute
from helpers import environment as variables

from hybridexec.cli import doctor
from hybridexec.cli.doctor import State

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux'")
ROOT_ONLY = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="takes another user's identity, whose threads are limited"
)

LIMITED = """
import os, resource, sys
import uvloop
from hybridexec.cli import doctor

name, most = sys.argv[1], int(sys.argv[2])
if name != "RLIMIT_AS":
    list(doctor.examine())  # another user may not be able to import, nor who has no descriptor
if name == "RLIMIT_NPROC":
    os.setgid(65534)
    os.setuid(50000 + os.getpid() % 10000)  # nobody else's, or its threads would count
resource.setrlimit(getattr(resource, name), (most, most))
doctor.run(as_json=True)
"""


def limited(name: str, most: int) -> tuple[dict[str, tuple[str, str]], subprocess.CompletedProcess[str]]:
    """What doctor finds under a limit: the state and the text of each check."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, name, str(most)],
        env=variables(HYBRIDEXEC_MAX_LWPS="64"),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    shown = json.loads(done.stdout)
    assert done.returncode == (0 if shown["ok"] else 1)
    return {each["check"]: (each["state"], each["says"]) for each in shown["findings"]}, done


@ROOT_ONLY
@pytest.mark.parametrize("most", [1])
def test_too_few_threads(most: int) -> None:
    findings, done = limited("RLIMIT_NPROC", most)
    assert done.returncode == 1
    state, says = findings["threads"]
    assert state == "broken"
    assert "the likely cause is RLIMIT_NPROC" in says
    assert "ulimit -u" in says
    assert not [check for check in findings if "declared" in check], "nothing would end a trial"


@ROOT_ONLY
def test_fewer_threads_than_a_loop_may_have() -> None:
    findings, done = limited("RLIMIT_NPROC", 40)
    assert done.returncode == 0
    state, says = findings["RLIMIT_NPROC"]
    assert state == "low"
    assert says.startswith("1 of 40; a loop may come to have 64 LWPs (max_lwps): raise it with `ulimit -u`")


@LINUX
@pytest.mark.parametrize("most", [4])
def test_too_few_descriptors(most: int) -> None:
    findings, done = limited("RLIMIT_NOFILE", most)
    assert done.returncode == 1
    assert findings["RLIMIT_NOFILE"][0] == "low"
    state, says = findings["descriptors"]
    assert state == "broken"
    assert "there are too few for a loop (RLIMIT_NOFILE: " in says


@LINUX
@pytest.mark.unsanitized(reason="AddressSanitizer reserves some terabytes")
def test_little_address_space() -> None:
    findings, _ = limited("RLIMIT_AS", 400 << 20)
    state, says = findings["RLIMIT_AS"]
    assert state == "low"
    assert "64 LWPs (max_lwps), with stacks of " in says


@LINUX
@pytest.mark.parametrize("most", [60])
def test_too_little_memory_for_anything(most: int, tmp_path: Path) -> None:
    """Where it ends depends on what the interpreter needs; how it ends does not."""
    bounded = ("prlimit", f"--as={most << 20}", *HYBRIDEXEC, "doctor")
    done = execute(*bounded, cwd=tmp_path)
    if "Fatal Python error" in done.stderr or "hybridexec" not in done.stdout + done.stderr:
        pytest.skip("the interpreter itself does not start")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="by a shell")
@pytest.mark.parametrize(
    ("end", "says"), [(">&-", "it is closed"), (">/dev/full", "No space left on device"), (">&- 2>&-", "")]
)
def test_stdout_is_closed_or_full(end: str, says: str, tmp_path: Path) -> None:
    if "full" in end and not os.path.exists("/dev/full"):
        pytest.skip("there is no such device")
    done = execute("sh", "-c", f"exec {sys.executable} -m hybridexec doctor {end}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (f"hybridexec: cannot write to stdout: {says}\n" if says else "")


@LINUX
@pytest.mark.skipif(sys.platform == "linux" and os.getuid() != 0, reason="mounts")
@pytest.mark.unsanitized(reason="AddressSanitizer warns of what it does not find in /proc")
def test_there_is_no_proc(tmp_path: Path) -> None:
    command = f"mount -t tmpfs none /proc && exec {sys.executable} -m hybridexec doctor --json"
    done = execute("unshare", "--mount", "sh", "-c", command, cwd=tmp_path)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert not done.stderr
    findings = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert findings["RLIMIT_AS"]["says"].startswith("? of")
    assert findings["child processes"]["state"] == "off"
    assert done.returncode == 0


def test_json_says_what_the_table_says(tmp_path: Path) -> None:
    done = execute(*HYBRIDEXEC, "doctor", "--json", cwd=tmp_path, HYBRIDEXEC_MODE="observe")
    shown = json.loads(done.stdout)
    assert shown["ok"] is True
    (environment,) = [each for each in shown["findings"] if each["check"] == "environment"]
    assert environment["state"] == "fine"
    assert "HYBRIDEXEC_MODE=observe" in environment["says"]
    table = execute(*HYBRIDEXEC, "doctor", cwd=tmp_path, HYBRIDEXEC_MODE="observe").stdout
    assert all(each["check"] in table for each in shown["findings"])


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_probes", functools.partial(os.listdir, "/proc/none"))
    findings = {finding.check: finding for finding in doctor.examine()}
    found = findings["what follows the loop"]
    assert found.state is State.BROKEN
    assert found.says == "FileNotFoundError: [Errno 2] No such file or directory: '/proc/none'"
