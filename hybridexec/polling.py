"""Polling: one wait for events, and what becomes of them.

Waiting and handling are two things here, since an LWP that waits may lose the loop meanwhile and drops its events.  On
Linux this goes to epoll directly: ``selectors`` builds a list of keys, and asyncio takes it apart again, which together
cost a busy server about a tenth of its time.  Everywhere else it goes through them.
"""

from __future__ import annotations

import math
import select
import selectors
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .engines.selector import SelectorEngine


class Poll(Protocol):
    """How a loop polls."""

    def wait(self, timeout: float | None) -> Any:
        """Wait for events, for ``timeout`` seconds; None: for ever.  Any LWP."""

    def dispatch(self, found: Any) -> None:
        """Make ready what the events belong to.  The holder."""


class SelectorPoll:
    """Through ``selectors`` and asyncio's own methods."""

    def __init__(self, loop: SelectorEngine) -> None:
        self.wait = loop._selector.select
        self.dispatch = loop._process_events


class EpollPoll:
    """Straight to epoll."""

    def __init__(self, loop: SelectorEngine) -> None:
        self._loop = loop
        self._ready = loop._ready
        self._keys: dict[int, selectors.SelectorKey] = loop._selector._fd_to_key
        self._poll = loop._selector._selector.poll

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """As ``EpollSelector.select``, which rounds up to milliseconds: epoll's own would wake too early."""
        seconds = -1.0 if timeout is None else math.ceil(timeout * 1e3) * 1e-3 if timeout > 0 else 0.0
        try:
            return self._poll(seconds, len(self._keys) or 1)  # type: ignore[no-any-return]
        except InterruptedError:
            return []

    def dispatch(self, found: list[tuple[int, int]]) -> None:
        """As asyncio's ``_process_events``."""
        keys = self._keys
        ready = self._ready
        for fd, event in found:
            key = keys.get(fd)
            if key is None:
                continue
            reader, writer = key.data
            if reader is not None and event & _READS:
                if reader._cancelled:
                    self._loop._remove_reader(key.fileobj)
                else:
                    ready.append(reader)
            if writer is not None and event & _WRITES:
                if writer._cancelled:
                    self._loop._remove_writer(key.fileobj)
                else:
                    ready.append(writer)


if hasattr(select, "epoll"):
    _READS = ~select.EPOLLOUT
    _WRITES = ~select.EPOLLIN


def poll_of(loop: SelectorEngine) -> Poll:
    """How this loop polls best."""
    selector: Any = loop._selector
    if type(selector) is getattr(selectors, "EpollSelector", None) and hasattr(selector, "_fd_to_key"):
        return EpollPoll(loop)
    return SelectorPoll(loop)
