"""The poll of the selector engine: one wait for events, and what becomes of them.

Waiting and handling are two things here, since an LWP that waits may lose the loop meanwhile and drops its events.  On
Linux this goes to epoll directly: ``selectors`` builds a list of keys, and asyncio takes it apart again, which together
cost a busy server about a tenth of its time.  Everywhere else it goes through them.
"""

from __future__ import annotations

import math
import select
import selectors
from typing import Any

from .handles import FdState


class OfSelector:
    """What all polls of a loop with a selector share."""

    _loop: Any

    def has_input(self) -> bool:
        """Whether a file descriptor is registered that may have become ready."""
        return len(self._loop._selector.get_map()) > 1

    def loosen(self, loop: Any) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop


class _Poll(OfSelector):
    """What both kinds in Python share: whom the events belong to."""

    def __init__(self, loop: Any, reads: int, writes: int) -> None:
        self._loop = loop
        self._ready = loop._ready
        self._readers = loop._readers
        self._writers = loop._writers
        self._reads = reads
        self._writes = writes

    def dispatch(self, found: list[tuple[int, int]]) -> None:
        """As asyncio's ``_process_events``, but for what is on its way already."""
        ready = self._ready
        readers, reads = self._readers, self._reads
        writers, writes = self._writers, self._writes
        idle, busy = FdState.IDLE, FdState.BUSY
        for fd, event in found:
            if event & reads and (handle := readers.get(fd)) is not None:
                if handle.state is idle:
                    handle.state = busy
                    ready.append(handle)
                else:
                    self._loop._found_again(handle)
            if event & writes and (handle := writers.get(fd)) is not None:
                if handle.state is idle:
                    handle.state = busy
                    ready.append(handle)
                else:
                    self._loop._found_again(handle)


class SelectorPoll(_Poll):
    """Through ``selectors``."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop, selectors.EVENT_READ, selectors.EVENT_WRITE)
        self._select = loop._selector.select

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """What the selector finds."""
        return [(key.fd, event) for key, event in self._select(timeout)]


class EpollPoll(_Poll):
    """Straight to epoll."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop, ~select.EPOLLOUT, ~select.EPOLLIN)
        self._keys: dict[int, selectors.SelectorKey] = loop._selector._fd_to_key
        self._poll = loop._selector._selector.poll

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """As ``EpollSelector.select``, which rounds up to milliseconds: epoll's own would wake too early."""
        seconds = -1.0 if timeout is None else math.ceil(timeout * 1e3) * 1e-3 if timeout > 0 else 0.0
        try:
            return self._poll(seconds, len(self._keys) or 1)  # type: ignore[no-any-return]
        except InterruptedError:
            return []


def poll_of(loop: Any) -> EpollPoll | SelectorPoll:
    """How this loop polls best."""
    selector = loop._selector
    if type(selector) is getattr(selectors, "EpollSelector", None) and hasattr(selector, "_fd_to_key"):
        return EpollPoll(loop)
    return SelectorPoll(loop)
