"""Code that is made while a program runs (templates, ``exec``) is freed with its last user: no call in it is kept."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable

import pytest
from helpers import LIBC, pipe, running_loop

import hybridexec
from hybridexec.detector import calls, tool, trap

type Codes = list[weakref.ref[types.CodeType]]

SOURCES = {
    "marked": "def f(lock, reader):\n    lock.acquire()\n    lock.release()\n",
    "sure": "def f(lock, reader):\n    return read(reader, 1)\n",
    "discovered": "def f(lock, reader):\n    return c_read(reader, buffer, 1)\n",
    "explicit": "def f(lock, reader):\n    with blocking():\n        return read(reader, 1)\n",
    "with": "def f(lock, reader):\n    with lock:\n        pass\n",
}


def made(kind: str, number: int, codes: Codes) -> Callable[[threading.Lock, int], object]:
    """A function with code of its own, whose death is seen."""
    names = {"read": os.read, "c_read": LIBC.read, "buffer": bytes(1), "blocking": hybridexec.blocking}
    exec(compile(SOURCES[kind], f"<made {number}>", "exec"), names)
    function = names["f"]
    assert isinstance(function, types.FunctionType)
    codes.append(weakref.ref(function.__code__))
    return function


def alive(codes: Codes) -> int:
    """How many of the code objects live."""
    gc.collect()
    return sum(code() is not None for code in codes)


@pytest.mark.parametrize(
    ("kind", "count"), [("marked", 3000), ("with", 1000), ("sure", 300), ("explicit", 300), ("discovered", 20)]
)
def test_fresh_code_is_freed_while_the_loop_runs_and_after_it(kind: str, count: int) -> None:
    codes: Codes = []
    moved = 0

    async def one(number: int, reader: int, writer: int) -> None:
        if kind not in ("marked", "with"):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")  # else nothing would end the call
        made(kind, number, codes)(threading.Lock(), reader)

    async def main() -> None:
        nonlocal moved
        known = len(calls.sites)
        with pipe() as (reader, writer):
            for number in range(count):
                await one(number, reader, writer)
                assert number % 100 or alive(codes) <= 2, "the last one may be somebody's still"
        assert alive(codes) <= 2
        assert len(calls.sites) <= known + 20, "of this file, and what it calls"
        moved = running_loop().stats().handoffs

    hybridexec.run(main())
    assert len(codes) == count
    assert moved >= (0 if kind in ("marked", "with") else count)
    assert alive(codes) == 0
    assert not trap._armory.codes


def test_what_is_known_of_a_site_lasts_as_long_as_its_code() -> None:
    codes: Codes = []

    async def main() -> None:
        function = made("discovered", 0, codes)
        with pipe() as (reader, writer):
            for _ in range(2):
                asyncio.get_running_loop().call_soon(os.write, writer, b"x")
                function(threading.Lock(), reader)
            (learned,) = [site for site in list(calls.sites.values()) if site.code() is codes[0]()]
            assert learned.learned

    hybridexec.run(main())
    assert alive(codes) == 0
    assert not any(site.code() is None for site in list(calls.sites.values()))


@pytest.mark.unsanitized(reason="AddressSanitizer gives no memory out again for long")
def test_code_that_has_the_identity_of_another_that_is_gone_has_no_sites() -> None:
    """A code object is made again and again until one stands where an earlier one has stood."""
    codes: Codes = []

    async def main() -> bool:
        lock = threading.Lock()
        seen: set[int] = set()
        for number in range(1000):
            function = made("marked", number, codes)
            address = id(function.__code__)
            again = address in seen
            assert not [key for key in list(calls.sites) if key[0] == address]
            function(lock, 0)
            assert [key for key in list(calls.sites) if key[0] == address]
            seen.add(address)
            if again:
                return True
            del function
        return False

    assert hybridexec.run(main()), "the allocator has not used a place again"


def test_the_tool_has_no_events_left_after_the_last_loop() -> None:
    async def main() -> None:
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            LIBC.read(reader, bytes(1), 1)

    hybridexec.run(main())
    assert tool.id == -1
    assert [sys.monitoring.get_tool(number) for number in tool.CANDIDATES] == [None, None]
