"""Exceptions of callbacks: each reaches the exception handler, or the caller of run(), as on asyncio."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Any

import pytest
from helpers import pipe
from settings import NAMES, Ends, Setting, agree, shape


@pytest.fixture(params=NAMES)
def setting(request: pytest.FixtureRequest) -> Setting:
    """One way."""
    return Setting(request.param)


@pytest.mark.parametrize("kind", [ValueError, Ends, asyncio.CancelledError])
@pytest.mark.parametrize("by", ["call_soon", "call_later", "add_done_callback"])
def test_what_a_callback_raises_reaches_the_exception_handler(
    setting: Setting, by: str, kind: type[BaseException]
) -> None:
    async def main(setting: Setting) -> list[tuple[Any, ...]]:
        loop = asyncio.get_running_loop()
        contexts: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda loop, context: contexts.append(context))

        def raises(*_: object) -> None:
            setting.go(_raise)()

        def _raise() -> None:
            raise kind("from a callback")

        match by:
            case "call_soon":
                loop.call_soon(raises)
            case "call_later":
                loop.call_later(0, raises)
            case _:
                future = loop.create_future()
                future.add_done_callback(raises)
                future.set_result(None)
        with setting.away():
            pass
        while not contexts:
            await asyncio.sleep(0)
        return [(sorted(c), shape(c["exception"]), c["message"].split("(")[0][:40]) for c in contexts]

    ((_, (found, _), message),) = agree(setting, main)
    assert found is kind
    assert message.startswith("Exception in callback")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("by", ["call_soon", "call_later", "add_reader"])
def test_what_ends_the_loop_in_a_callback_reaches_the_caller(
    setting: Setting, by: str, kind: type[BaseException]
) -> None:
    async def main(setting: Setting) -> None:
        loop = asyncio.get_running_loop()

        def raises() -> None:
            raise kind(11)

        def function() -> None:
            loop.remove_reader(reader)  # it would be called again
            setting.go(raises)()

        reader, writer = os.pipe()
        os.write(writer, b"x")
        try:
            match by:
                case "call_soon":
                    loop.call_soon(function)
                case "call_later":
                    loop.call_later(0, function)
                case _:
                    loop.add_reader(reader, function)
            with setting.away():
                pass
            await asyncio.sleep(60)
        finally:
            loop.remove_reader(reader)
            os.close(reader)
            os.close(writer)

    assert agree(setting, main) == (kind, (11,))


@pytest.mark.parametrize("by", ["call_soon", "call_later", "add_writer"])
def test_a_callback_that_cannot_be_called_is_told_of(setting: Setting, by: str) -> None:
    """As asyncio's own transports have one, if ``resume_writing`` writes more than the socket of a closed one takes."""

    async def main(setting: Setting) -> tuple[Any, ...]:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[dict[str, Any]] = loop.create_future()

        def handler(_: object, context: dict[str, Any]) -> None:
            if not told.done():
                told.set_result(context)

        loop.set_exception_handler(handler)
        with pipe() as (_, writer), setting.away():
            nothing: Any = None
            match by:
                case "call_soon":
                    loop.call_soon(nothing)
                case "call_later":
                    loop.call_later(0, nothing)
                case _:
                    loop.add_writer(writer, nothing)
            context = await told
            loop.remove_writer(writer)
        return sorted(context), shape(context["exception"]), context["message"]

    _, (kind, _), message = agree(setting, main)
    assert kind is TypeError
    assert message.startswith("Exception in callback None")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exception_handler_may_end_the_loop(setting: Setting, kind: type[BaseException]) -> None:
    async def main(setting: Setting) -> None:
        loop = asyncio.get_running_loop()

        def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            raise kind(13)

        def raises() -> None:
            raise ValueError

        loop.set_exception_handler(handler)
        loop.call_soon(setting.go(raises))
        with setting.away():
            pass
        await asyncio.sleep(60)

    assert agree(setting, main) == (kind, (13,))


def test_an_exception_handler_that_fails_is_logged(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    async def main(setting: Setting) -> int:
        loop = asyncio.get_running_loop()
        calls: list[int] = []

        def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            calls.append(1)
            setting.go(functools.partial(int, "handler"))()

        def raises() -> None:
            raise ValueError

        loop.set_exception_handler(handler)
        loop.call_soon(raises)
        with setting.away():
            pass
        while not calls:
            await asyncio.sleep(0)
        return len(calls)

    assert agree(setting, main) == 1
    assert caplog.text.count("Unhandled error in exception handler") == 2


def test_an_exception_that_nobody_retrieves_is_told(setting: Setting) -> None:
    async def main(setting: Setting) -> list[str]:
        loop = asyncio.get_running_loop()
        messages: list[str] = []
        loop.set_exception_handler(lambda loop, context: messages.append(context["message"]))

        def raises() -> None:
            raise ValueError

        child = setting.task(raises)
        await asyncio.wait([child])
        del child
        return messages

    assert agree(setting, main) == ["Task exception was never retrieved"]
