"""run(), new_event_loop() and its kin: the names by which a program gets its loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from asyncio import events
from collections.abc import Coroutine
from typing import Any, Unpack

from .config import Config, Options, resolve
from .errors import WrongEnvironmentError
from .loop import nesting, patched
from .loop.loop import HybridLoop


def new_event_loop(config: Config | None = None, **options: Unpack[Options]) -> HybridLoop:
    """Make an event loop that survives blocking calls.

    It takes no argument where others call it: ``asyncio.Runner(loop_factory=hybridexec.new_event_loop)``,
    ``anyio.run(main, backend_options={"loop_factory": hybridexec.new_event_loop})``,
    ``uvicorn --loop hybridexec:new_event_loop app:app``.

    Args:
        config: how it behaves; by default what the environment says (:meth:`Config.from_env`).
        **options: fields of :class:`Config`, which win over ``config``.

    Returns:
        The loop; whoever makes it closes it.

    Raises:
        TypeError: a wrong option, or one of a wrong type.
        ValueError: an option out of range.
        WrongEnvironmentError: the environment is wrong (a ``ValueError``, too).
        RuntimeError: gevent or eventlet has put greenlets in the place of threads.
        DetectorUnavailableError: ``sys.monitoring`` is missing, or has no free tool id.
    """
    return HybridLoop(settings(config, options))


def settings(config: Config | None, options: Options) -> Config:
    """What a loop is told, for whoever makes one in the place of asyncio.

    Raises:
        WrongEnvironmentError: as :func:`resolve`; ``asyncio.run`` will not run its coroutine then, and Python is not to
            complain of that beside the one line that matters.
    """
    try:
        return resolve(config, options)
    except WrongEnvironmentError:
        frame: Any = sys._getframe()
        while frame is not None:
            if frame.f_code in _RUNS and inspect.iscoroutine(main := frame.f_locals.get("main")):
                main.close()
            frame = frame.f_back
        raise


def observe_event_loop() -> HybridLoop:
    """Make a loop in mode "observe": it stays where it is, and tells its instruments where a default loop would freeze.

    For whoever can be told no more than a name: ``uvicorn --loop hybridexec:observe_event_loop app:app``.  All but the
    mode is what the environment says (:meth:`Config.from_env`).

    Returns:
        The loop; whoever makes it closes it.

    Raises:
        WrongEnvironmentError: a variable has a value that is not allowed, or names no field.
        DetectorUnavailableError: ``sys.monitoring`` is missing, or has no free tool id.
    """
    return new_event_loop(mode="observe")


def raise_event_loop() -> HybridLoop:
    """Make a loop in mode "raise": a step that blocks gets a :class:`~hybridexec.BlockingCallError`.

    For whoever can be told no more than a name: ``uvicorn --loop hybridexec:raise_event_loop app:app``.  All but the
    mode is what the environment says (:meth:`Config.from_env`).

    Returns:
        The loop; whoever makes it closes it.

    Raises:
        WrongEnvironmentError: a variable has a value that is not allowed, or names no field.
        DetectorUnavailableError: ``sys.monitoring`` is missing, or has no free tool id.
    """
    return new_event_loop(mode="raise")


def run[T](
    main: Coroutine[Any, Any, T], *, debug: bool | None = None, config: Config | None = None, **options: Unpack[Options]
) -> T:
    """Run a coroutine as ``asyncio.run`` does, on a loop that survives blocking calls.

    Args:
        main: the coroutine.
        debug: asyncio's debug mode; None leaves it to the environment.
        config: how the loop behaves; by default what the environment says (:meth:`Config.from_env`).
        **options: fields of :class:`Config`, which win over ``config``.

    Returns:
        The coroutine's result.

    Raises:
        RuntimeError: the calling thread runs an event loop already, which does not allow nesting; or gevent or eventlet
            has put greenlets in the place of threads.
        TypeError: a wrong option, or one of a wrong type.
        ValueError: ``main`` is not a coroutine, or an option is out of range.
        DetectorUnavailableError: ``sys.monitoring`` is missing, or has no free tool id.
        BaseException: whatever the coroutine raises; KeyboardInterrupt and SystemExit also from a spare LWP.

    Any thread may call it; each has a loop of its own.  Ctrl-C and other signals need the main thread, as with
    ``asyncio.run``, whose rules these are.
    """
    running = events._get_running_loop()
    if running is not None:
        if not nesting.is_nested(running):
            raise RuntimeError("hybridexec.run() cannot be called from a running event loop")
        return nesting.aside(lambda: run(main, debug=debug, config=config, **options))
    if (wrong := patched.complaint()) is not None:
        if asyncio.iscoroutine(main):
            main.close()  # else there would be a warning, too, that it was never awaited
        raise RuntimeError(wrong)
    loop_factory = functools.partial(new_event_loop, settings(config, options))
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)


_RUNS = (asyncio.run.__code__, run.__code__)
