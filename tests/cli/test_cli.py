"""The command line: its arguments, the loops it replaces, the report and the demo.  See also ``test_cli_as_python``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import requests
from command_line import HYBRIDEXEC, RUN, execute, write
from helpers import environment

import hybridexec

# ---------------------------------------------------------------- arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "SCRIPT"),
        (["run", "--nonsense", "script.py"], "--nonsense"),
        (["run", "--mode", "nonsense", "script.py"], "handoff"),
        (["run", "--preempt", "soon", "script.py"], "--preempt"),
        (["run", "--threshold", "-1", "script.py"], "threshold"),
        (["run", "--max-lwps", "0", "script.py"], "max_lwps"),
        (["nonsense"], "nonsense"),
        (["demo", "--seconds", "nan"], "nan"),
        (["demo", "--connections", "0"], "--connections"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], says: str) -> None:
    write(tmp_path / "script.py", "print('was run')")
    found = execute(*HYBRIDEXEC, *arguments, cwd=tmp_path)
    assert found.returncode == 2
    assert says in found.stderr
    assert "Traceback" not in found.stderr
    assert not found.stdout


def test_a_bad_environment(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", "print('was run')")
    found = execute(*RUN, script, cwd=tmp_path, HYBRIDEXEC_THRESHOLD="soon")
    assert found.returncode == 2
    assert "HYBRIDEXEC_THRESHOLD" in found.stderr
    assert "allowed is a number of seconds" in found.stderr
    assert "soon" not in found.stderr


def test_the_installed_command_is_the_module(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("hybridexec")
    commands = [[*HYBRIDEXEC]]
    if command.exists():  # where the package is installed, and not only found
        commands.append([str(command)])
    for arguments in commands:
        found = execute(*arguments, "--version", cwd=tmp_path)
        assert found.stdout == f"hybridexec {hybridexec.__version__}\n"
        assert found.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("typer", ["--help"]),
        ("rich", ["run", "--report", "script.py"]),
        ("rich", ["demo"]),
        ("rich", ["doctor"]),
        ("h11", ["demo"]),
    ],
)
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, missing: str, arguments: list[str]) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import sys
        from hybridexec.cli import main

        class NotInstalled:
            def find_spec(name, path, target=None):
                if name == missing:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        missing = sys.argv.pop(1)
        sys.meta_path.insert(0, NotInstalled)
        main()
        """,
    )
    found = execute(sys.executable, script, missing, *arguments, cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr == f"hybridexec: the command line needs {missing}: pip install 'hybridexec[cli]'\n"


# ---------------------------------------------------------------- the loops


@pytest.mark.parametrize(
    "source",
    [
        "asyncio.run(main())",
        "with asyncio.Runner() as runner: runner.run(main())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
        "loop = asyncio.SelectorEventLoop(); loop.run_until_complete(main()); loop.close()",
        "import anyio; anyio.run(main)",
        "import uvloop; uvloop.run(main())",
        "import uvloop\nwith asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner: runner.run(main())",
    ],
)
def test_wherever_a_program_gets_its_loop_from_it_is_ours(tmp_path: Path, source: str) -> None:
    program = """
        import asyncio, os

        async def main():
            reader, writer = os.pipe()

            async def releases():
                os.write(writer, b"x")

            task = asyncio.ensure_future(releases())
            os.read(reader, 1)
            await task
            print(type(asyncio.get_running_loop()).__name__)
    """
    script = write(tmp_path / "script.py", textwrap.dedent(program) + source)
    found = execute(*RUN, script, cwd=tmp_path)
    assert found.stdout == "HybridLoop\n", found.stderr


def test_a_loop_of_its_own_stays_what_it_is(tmp_path: Path) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import asyncio

        class Own(asyncio.SelectorEventLoop):
            pass

        async def main():
            print(type(asyncio.get_running_loop()).__name__)

        with asyncio.Runner(loop_factory=Own) as runner:
            runner.run(main())
        """,
    )
    found = execute(*RUN, script, cwd=tmp_path)
    assert found.stdout == "Own\n", found.stderr


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_the_loops_of_child_processes_are_ours_too(tmp_path: Path, how: str) -> None:
    script = write(
        tmp_path / "script.py",
        f"""
        import asyncio, multiprocessing, time

        async def main():
            time.sleep(0.001)
            print(type(asyncio.get_running_loop()).__name__, flush=True)

        def child():
            asyncio.run(main())

        if __name__ == "__main__":
            process = multiprocessing.get_context("{how}").Process(target=child)
            process.start()
            process.join()
            raise SystemExit(process.exitcode)
        """,
    )
    found = execute(*RUN, "--report", script, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "HybridLoop\n"
    theirs, _, own = found.stderr.partition("hybridexec: ")
    assert re.match(r"hybridexec \(process \d+\): 1 blocking call;", theirs)
    assert own == "no event loop has run: no blocking call could be seen\n"


WAITS = """
    import asyncio, threading

    waited_for = asyncio.Event()
    released = threading.Event()

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"] == "/wait":
            waited_for.set()
            released.wait()
        else:
            await waited_for.wait()
            released.set()
        body = type(asyncio.get_running_loop()).__name__.encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize(
    "loop",
    [
        "auto",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("asyncio", "uvloop", "hybridexec:new_event_loop")),
    ],
)
def test_uvicorn_serves_on_our_loop_whichever_it_is_told_to_take(tmp_path: Path, loop: str) -> None:
    write(tmp_path / "service.py", WAITS)
    command = [*RUN, "-m", "uvicorn", "service:app", "--port", "0", "--lifespan", "off", "--loop", loop]
    with (
        subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as process,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        assert process.stderr is not None
        said = ""
        try:
            while not (found := re.search(r"running on (http://[\d.:]+)", said)):
                said += (line := process.stderr.readline())
                assert line, said
            waits = pool.submit(requests.get, f"{found[1]}/wait", timeout=100)
            assert requests.get(f"{found[1]}/release", timeout=100).text == "HybridLoop"
            assert waits.result().text == "HybridLoop"
            process.send_signal(signal.SIGTERM)
            said += process.stderr.read()
            assert process.wait(100) == -signal.SIGTERM
        finally:
            process.kill()
    assert "Finished server process" in said
    assert "Traceback" not in said


def test_the_detector_is_kept_from_one_loop_to_the_next(tmp_path: Path) -> None:
    """To set it up for each would cost a program of many short runs more than the runs."""
    script = write(
        tmp_path / "script.py",
        """
        import asyncio, sys

        print(sys.monitoring.get_tool(3))
        for _ in range(2):
            asyncio.run(asyncio.sleep(0))
            print(sys.monitoring.get_tool(3))
        """,
    )
    found = execute(*RUN, script, cwd=tmp_path)
    assert found.stdout == "None\nhybridexec\nhybridexec\n", found.stderr


def test_options_and_the_environment_reach_the_loop(tmp_path: Path) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import asyncio

        async def main():
            print(asyncio.get_running_loop().config)

        asyncio.run(main())
        """,
    )
    options = ["--mode=observe", "--preempt=0.5", "--threshold=0.25", "--max-lwps=9", "--spare-lwps=3"]
    options += ["--lwp-idle-timeout=2", "--engine=selector", "--no-hold-in-debugger", "--nested"]
    found = execute(*RUN, *options, script, cwd=tmp_path, HYBRIDEXEC_MAX_LWPS="5")
    expected = hybridexec.Config(
        mode="observe",
        preempt=0.5,
        threshold=0.25,
        max_lwps=9,
        spare_lwps=3,
        lwp_idle_timeout=2.0,
        engine="selector",
        hold_in_debugger=False,
        nested=True,
    )
    assert found.stdout == f"{expected}\n", found.stderr
    found = execute(*RUN, script, cwd=tmp_path, HYBRIDEXEC_MAX_LWPS="5")
    assert "max_lwps=5" in found.stdout


def test_a_program_may_keep_asyncio_run_before_it_makes_a_loop(tmp_path: Path) -> None:
    source = """
        from asyncio import run

        async def inner():
            return "nested"

        async def main():
            print(run(inner()))

        run(main())
        """
    script = write(tmp_path / "script.py", source)
    found = execute(*RUN, "--nested", script, cwd=tmp_path)
    assert found.stdout == "nested\n", found.stderr
    assert "cannot be called from a running event loop" in execute(*RUN, script, cwd=tmp_path).stderr


def test_mode_raise_finds_the_blocking_call(tmp_path: Path) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import asyncio, time

        async def main():
            time.sleep(1)

        asyncio.run(main())
        """,
    )
    found = execute(*RUN, "--mode", "raise", script, cwd=tmp_path)
    assert found.returncode == 1
    assert re.search(r"BlockingCallError: time\.sleep blocks the event loop at .*script\.py:5:main", found.stderr)


# ---------------------------------------------------------------- the report


def cells(line: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


BLOCKS = """
    import asyncio, os, sys, time

    async def main():
        for _ in range(3):
            time.sleep(0.01)
        {end}

    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("raise LookupError", 1),
        ("sys.exit(5)", 5),
        ("sys.exit('a message')", 1),
        ("os.kill(os.getpid(), 2); await asyncio.sleep(9)", -2),
    ],
)
def test_the_report_is_shown_however_the_program_ends(tmp_path: Path, end: str, status: int) -> None:
    script = write(tmp_path / "script.py", BLOCKS.format(end=end))
    found = execute(*RUN, "--report", script, cwd=tmp_path)
    assert found.returncode == status
    assert not found.stdout
    assert "3 blocking calls; the default loop would have stood still for" in found.stderr
    heading, row = (row for row in map(cells, found.stderr.splitlines()) if len(row) == 6)
    assert heading == ["call site", "callable", "noticed", "count", "total", "longest"]
    assert row[:4] == ["script.py:6 main", "time.sleep", "declared", "3"]
    total, longest = (float(cell.removesuffix(" ms")) for cell in row[4:])
    assert total >= longest >= 10
    assert f"stood still for {total} ms" in found.stderr


def test_the_report_of_a_program_that_does_not_block(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", "import asyncio; asyncio.run(asyncio.sleep(0.001)); print('done')")
    found = execute(*RUN, "--report", script, cwd=tmp_path)
    assert found.stdout == "done\n"
    assert found.stderr == "hybridexec: no blocking call was seen (one of less than 1 ms is not counted)\n"


OTHER_LOOP = """
    import asyncio, selectors, time

    class Own(asyncio.SelectorEventLoop):
        pass

    async def main():
        time.sleep(0.01)

    def run(make):
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(main())

    run(Own)
"""


def test_the_report_says_that_the_loop_was_another_one(tmp_path: Path) -> None:
    found = execute(*RUN, "--report", write(tmp_path / "script.py", OTHER_LOOP), cwd=tmp_path)
    said = "hybridexec: no event loop of hybridexec's has run, but __main__.Own: no blocking call could be seen\n"
    assert found.stderr == said


def test_the_report_says_that_another_loop_has_run_too(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", f"{OTHER_LOOP}\n    run(None)")
    found = execute(*RUN, "--report", script, cwd=tmp_path)
    assert "1 blocking call;" in found.stderr
    last = found.stderr.splitlines()[-1]
    assert last == "hybridexec: not looked at, as it is no loop of hybridexec's: __main__.Own"


def test_the_report_of_a_program_without_a_loop(tmp_path: Path) -> None:
    found = execute(*RUN, "--report", write(tmp_path / "script.py", "print('done')"), cwd=tmp_path)
    assert found.stderr == "hybridexec: no event loop has run: no blocking call could be seen\n"


def test_the_report_of_observe_mode_says_what_the_loop_did_not_survive(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", BLOCKS.format(end="print(asyncio.get_running_loop().stats().handoffs)"))
    found = execute(*RUN, "--mode", "observe", "--report", script, cwd=tmp_path)
    assert found.stdout == "0\n"
    assert "3 blocking calls" in found.stderr


# ---------------------------------------------------------------- the demo


@pytest.mark.slow
def test_the_demo_shows_the_two_side_by_side(tmp_path: Path) -> None:
    found = execute(*HYBRIDEXEC, "demo", "--seconds", "1", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stderr == "asyncio: 1 s of load\nhybridexec: 1 s of load\n"
    rows = {row[0]: row[1:] for row in map(cells, found.stdout.splitlines()) if len(row) == 4}
    assert rows[""] == ["asyncio", "hybridexec", "better by"]
    # By a factor of more than ten, on a machine that has nothing else to do.
    theirs, ours = (float(cell.replace(",", "")) for cell in rows["requests/s"][:2])
    assert ours > theirs > 0
    assert {"p50", "p99", "stalled in all", "longest stall"} < rows.keys()
    assert "failed requests" not in rows
    assert int(rows["stalls"][0]) > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_shows_how_far_it_is_where_somebody_looks(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [*HYBRIDEXEC, "demo", "--seconds", "0.5", "--connections", "8"]
    # One reads while the demo runs: a terminal holds little.
    with (
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(TERM="xterm", COLUMNS="100"),
            stdout=subprocess.PIPE,
            stderr=slave,
            text=True,
        ) as process,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        os.close(slave)
        shown = pool.submit(read_terminal, master)
        output, _ = process.communicate(timeout=100)
    os.close(master)
    assert process.returncode == 0
    assert "\x1b" not in output
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.result()).split("asyncio")[-1]
    asyncio_served, ours_served = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) requests", last))
    assert ours_served > asyncio_served > 0


def read_terminal(master: int) -> str:
    """What is shown on a terminal until nobody has it open."""
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError as exc:
            assert exc.errno == errno.EIO  # how a terminal says so
            return shown.decode()


@pytest.mark.slow
def test_make_knows_the_demo() -> None:
    makefile = (Path(hybridexec.__file__).resolve().parents[1] / "Makefile").read_text()
    assert re.search(r"^demo:.*\n\t\S+/hybridexec demo$", makefile, re.MULTILINE)


def test_the_demo_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    async def main() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            *HYBRIDEXEC,
            "demo",
            "--seconds",
            "60",
            cwd=tmp_path,
            env=environment(TMPDIR=str(tmp_path)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        await process.stderr.readline()  # the load has begun
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        return process.returncode, errors

    status, errors = asyncio.run(main())
    assert status == 130
    assert b"Traceback" not in errors
    assert not os.listdir(tmp_path)
