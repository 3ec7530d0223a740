"""The demo's progress bars: one for each loop, with the requests that it has served so far."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .clients import Load

_COLUMNS = "{task.description}", "{task.completed:.0f}/{task.total:g} s", "{task.fields[served]:,} requests"


class Progression:
    """Bars while the body runs; where there is no terminal, a line for each loop when its load begins.

    Args:
        out: where to.
        names: of the loops.
        seconds: how long each is loaded.
    """

    def __init__(self, out: Console, names: Iterable[str], seconds: float) -> None:
        name, time, served = map(TextColumn, _COLUMNS)
        self._out = out
        self._seconds = seconds
        self._progress = Progress(name, BarColumn(), time, served, console=out, disable=not out.is_terminal)
        self._bars = {name: self._progress.add_task(name, start=False, total=seconds, served=0) for name in names}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextlib.asynccontextmanager
    async def of(self, name: str, load: Load) -> AsyncIterator[None]:
        """Move the bar of a loop while the body runs."""
        if self._progress.disable:
            self._out.print(f"{name}: {self._seconds:g} s of load")
        began = monotonic()

        def show() -> None:
            elapsed = min(monotonic() - began, self._seconds)
            self._progress.update(self._bars[name], completed=elapsed, served=len(load.latencies))

        async def go_on() -> None:
            while True:
                show()
                await asyncio.sleep(0.1)

        self._progress.start_task(self._bars[name])
        going_on = asyncio.create_task(go_on())
        try:
            yield
        finally:
            going_on.cancel()
            show()
