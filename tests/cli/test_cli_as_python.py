"""The command line runs a program as ``python`` itself does: the same surroundings, messages and exit status."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from command_line import RUN, assert_as_python, assert_but_for_who_speaks, execute, write
from helpers import environment

WHO = """
    import os, sys

    print(__name__, __package__, __file__, type(__loader__), __spec__ and __spec__.name)
    print(sorted(globals()))
    print(sys.argv, sys.path[0], os.getcwd())
    print(sys.modules["__main__"].__dict__ is globals())
"""

# ---------------------------------------------------------------- what a program finds


def test_a_script(tmp_path: Path) -> None:
    write(tmp_path / "script.py", WHO)
    assert_as_python(tmp_path, "script.py", "one", "--report", "-m")
    assert_as_python(tmp_path, "./script.py")
    assert_as_python(tmp_path, str(tmp_path / "script.py"))


def test_a_script_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "beside.py", "what = 42")
    write(tmp_path / "folder" / "script.py", "import beside; print(beside.what)\n" + textwrap.dedent(WHO))
    os.symlink("folder/script.py", tmp_path / "link.py")
    for name in "folder/script.py", "link.py":
        assert "42" in assert_as_python(tmp_path, name).stdout


def test_a_compiled_script(tmp_path: Path) -> None:
    write(tmp_path / "script.py", WHO)
    py_compile.compile(str(tmp_path / "script.py"), cfile=str(tmp_path / "script.pyc"))
    assert_as_python(tmp_path, "script.pyc")


def test_standard_input(tmp_path: Path) -> None:
    assert_as_python(tmp_path, "-", "one", text=textwrap.dedent(WHO))


def test_a_module_and_a_package(tmp_path: Path) -> None:
    write(tmp_path / "package" / "__init__.py", "")
    write(tmp_path / "package" / "__main__.py", WHO)
    write(tmp_path / "package" / "part.py", WHO)
    assert_as_python(tmp_path, "-m", "package", "one")
    assert_as_python(tmp_path, "-m", "package.part", "-m", "two")


def test_a_directory_and_a_zip_file(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "__main__.py", WHO)
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.write(tmp_path / "folder" / "__main__.py", "__main__.py")
    for name in "folder", "program.zip":
        assert "__main__" in assert_as_python(tmp_path, name, "one").stdout


def test_the_safe_path(tmp_path: Path) -> None:
    write(tmp_path / "script.py", WHO)
    write(tmp_path / "folder" / "__main__.py", WHO)
    for name in "script.py", "folder":
        assert_as_python(tmp_path, name, PYTHONSAFEPATH="1")


def test_a_script_leaves_no_compiled_file_behind(tmp_path: Path) -> None:
    write(tmp_path / "script.py", "")
    assert_as_python(tmp_path, "script.py")
    assert os.listdir(tmp_path) == ["script.py"]


def test_what_a_program_pickles_is_found_again(tmp_path: Path) -> None:
    write(
        tmp_path / "script.py",
        """
        import atexit, pickle

        class Thing: pass

        print(pickle.loads(pickle.dumps(Thing)) is Thing)
        atexit.register(lambda: print(pickle.loads(pickle.dumps(Thing)) is Thing))
        """,
    )
    assert assert_as_python(tmp_path, "script.py").stdout == "True\nTrue\n"


# ---------------------------------------------------------------- how a program ends


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a message')",
        "import sys; sys.exit()",
        "import os; os._exit(4)",
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "def fails():\n    raise LookupError('not there')\nfails()",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise LookupError('again')",
        "raise ExceptionGroup('both', [ValueError(1), LookupError(2)])",
        "import sys\nsys.excepthook = lambda kind, error, traceback: print(kind, traceback.tb_lineno)\n1 / 0",
        "import threading\nother = threading.Thread(target=lambda: 1 / 0, name='t'); other.start(); other.join()",
        "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    raise SystemExit(7)\nasyncio.run(main())",
        "def broken(:\n    pass",
        "import broken",
        "import nothing_of_this_name",
        "import warnings; warnings.warn('old', DeprecationWarning)",
        "print(input())",
        "",
    ],
)
def test_a_script_ends_as_under_python(tmp_path: Path, source: str) -> None:
    write(tmp_path / "broken.py", "def broken(:")
    write(tmp_path / "script.py", source)
    assert_as_python(tmp_path, "script.py", text="a line\n", PYTHONDONTWRITEBYTECODE="1")


def test_a_traceback_begins_in_the_program(tmp_path: Path) -> None:
    write(
        tmp_path / "script.py",
        """
        import asyncio, time

        async def main():
            time.sleep(0.001)
            raise LookupError("in a task")

        asyncio.run(main())
        """,
    )
    for arguments in ["script.py"], ["-m", "script"]:
        found = execute(*RUN, *arguments, cwd=tmp_path)
        assert found.returncode == 1
        first = found.stderr.splitlines()[:2]
        assert first[0] == "Traceback (most recent call last):"
        assert "script.py" in first[1]
        assert found.stderr.endswith("LookupError: in a task\n")


def test_a_package_that_cannot_be_imported_is_shown_without_the_command_line(tmp_path: Path) -> None:
    write(tmp_path / "package" / "__init__.py", "1 / 0")
    expected = execute(sys.executable, "-m", "package", cwd=tmp_path)
    found = execute(*RUN, "-m", "package", cwd=tmp_path)
    assert found.returncode == expected.returncode == 1
    # Python's own launcher is in its traceback, and not in ours.
    lines = [line for line in expected.stderr.splitlines() if "_run_module_as_main" not in line]
    assert found.stderr.splitlines() == lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_program_as_under_python(tmp_path: Path, number: signal.Signals) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import asyncio

        async def main():
            print("ready", flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
        """,
    )
    for command in ([sys.executable], [*RUN], [*RUN, "--report"]):
        with subprocess.Popen(
            [*command, script],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            _, errors = process.communicate(timeout=100)
        assert process.returncode == -number
        assert ("KeyboardInterrupt" in errors) == (number is signal.SIGINT)
        assert ("no blocking call was seen" in errors) == ("--report" in command)


# ---------------------------------------------------------------- what is not there


def test_a_missing_script(tmp_path: Path) -> None:
    assert assert_but_for_who_speaks(tmp_path, "missing.py").returncode == 2


def test_a_directory_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert assert_but_for_who_speaks(tmp_path, "folder").returncode == 1


@pytest.mark.parametrize(
    "name", ["nothing_of_this_name", "nothing.of.this.name", "asyncio.events.nothing", "xml", "script.py"]
)
def test_a_missing_module(tmp_path: Path, name: str) -> None:
    write(tmp_path / "script.py", "")
    assert assert_but_for_who_speaks(tmp_path, "-m", name).returncode == 1


IN_A_THREAD = """
    import asyncio, os, socket, sys, threading

    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            await loop.sock_sendto(sock, b"datagram", sock.getsockname())
            print((await loop.sock_recvfrom(sock, 100))[0])
        ours, theirs = socket.socketpair()
        with ours, theirs, open(__file__, "rb") as file:
            ours.setblocking(False)
            theirs.setblocking(False)
            print(await loop.sock_sendfile(ours, file, 0, 12), await loop.sock_recv(theirs, 12))
        child = await asyncio.create_subprocess_shell("echo opened > /proc/self/fd/1", stdout=-1, stderr=-1)
        print(await child.communicate(), child.returncode)
        if hasattr(loop, "stats"):  # then it moves
            reader, writer = os.pipe()
            loop.call_soon(os.write, writer, b"x")
            os.read(reader, 1)

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    thread.join()
"""


@pytest.mark.engine("selector", reason="uvloop gives children sockets, which cannot be opened by name")
def test_a_loop_in_a_thread(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", IN_A_THREAD)
    found = assert_as_python(tmp_path, script)
    assert "datagram" in found.stdout
    assert "(b'opened\\n', b'') 0" in found.stdout
