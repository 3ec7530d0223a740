"""Servers that echo: what a loop's transports cost, with nothing else around them."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import trustme

from .loops import installed
from .measuring import in_turns, median_of, ratio
from .peers import PATIENCE, limited
from .results import Benchmark, Row

SHAPES = {"64x1k": (64, 1024), "1x1k": (1, 1024), "16x64k": (16, 65536)}
"""Connections, and bytes of a message."""


@contextlib.contextmanager
def serving(factory: str, certificate: Path | None) -> Iterator[int]:
    """A server; its port."""
    command = [sys.executable, "-m", "benchmarks.echo_server", factory, *([str(certificate)] if certificate else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        with limited(process, PATIENCE):
            line = process.stdout.readline()
        try:
            yield json.loads(line)["port"]
        finally:
            process.stdin.close()
            with limited(process, PATIENCE):
                process.wait()


def load(command: list[str], port: int, shape: tuple[int, int], seconds: float) -> float:
    """Messages per second."""
    arguments = [str(port), *map(str, shape), str(seconds)]
    with (
        subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process,
        limited(process, PATIENCE + seconds),
    ):
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the client has failed: {process.returncode}")
    return float(said)


def echoed(name: str, command: list[str], shapes: dict[str, tuple[int, int]], tls: bool, quick: bool) -> Iterator[Row]:
    """All loops, in turns, by uvloop."""
    rounds, seconds = (1, 0.3) if quick else (7, 1.5)
    how = median_of(rounds)
    with contextlib.ExitStack() as stack:
        certificate = None
        if tls:
            certificate = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "certificate.pem"
            trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        ports = {loop: stack.enter_context(serving(made, certificate)) for loop, made in installed().items()}
        for shape, size in shapes.items():
            found = in_turns(
                rounds, {loop: partial(load, command, port, size, seconds) for loop, port in ports.items()}
            )
            others = ", ".join(f"{loop} {median(rates):,.0f}/s" for loop, rates in found.items() if loop != "ours")
            what = f"{size[0]} x {size[1]} bytes echoed{', TLS' if tls else ''}"
            yield Row(f"{name}.{shape}-rate", what, median(found["ours"]), "/s", how, others)
            for loop in found:
                if loop != "ours":
                    by = ratio(found["ours"], found[loop])
                    yield Row(f"{name}.{shape}-by-{loop}", f"... by {loop}", by, "", how)


def echo(quick: bool) -> Iterator[Row]:
    """Servers that echo over TCP, against all loops that are installed; the client is compiled first."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("the client of this benchmark is C: it needs cc or gcc")
    with tempfile.TemporaryDirectory() as directory:
        client = Path(directory) / "echo_load"
        source = Path(__file__).with_name("echo_load.c")
        subprocess.run([compiler, "-O2", "-o", str(client), str(source)], check=True)
        yield from echoed("echo", [str(client)], SHAPES, tls=False, quick=quick)


def echo_tls(quick: bool) -> Iterator[Row]:
    """Servers that echo over TLS, against all loops that are installed."""
    command = [sys.executable, "-m", "benchmarks.echo_tls"]
    yield from echoed("echo-tls", command, {"16x1k": (16, 1024), "16x64k": (16, 65536)}, tls=True, quick=quick)


BENCHMARKS: dict[str, Benchmark] = {"echo": echo, "echo-tls": echo_tls}
