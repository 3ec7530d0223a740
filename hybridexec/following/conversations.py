"""Transports: a protocol is called once at a time and in order, also when one of its methods blocks.

asyncio's transports take for granted that a method of a protocol is over before anything else happens to them: what
they do next they do right behind its call, or in a step of their own.  If ``data_received`` blocks and the loop goes
on elsewhere, these steps must not overtake it.  ``pause_reading`` and ``resume_reading`` of another task make a new
registration, which knows nothing of the one that is away (``engines/handles.py``); ``abort`` has ``connection_lost``
called in the next turn, which also closes the socket, whose number is somebody else's then.

So the steps of one transport and of its protocol are a *conversation*: while one of them is without the loop, the
others wait until it is over, in their order.  That is, whatever asyncio calls by itself:

* methods of transports: a socket is readable, or writable, or shall be closed;
* methods of a protocol, where they are steps (``connection_made``, and all that a subprocess has to tell);
* what tells ``create_connection`` and its like that ``connection_made`` is over.

What a step of the program calls is not held up: ``write`` sends, ``close`` and ``abort`` take effect, and so do
``pause_writing``, which is called by ``write`` (flow control is for who writes), and a method of the protocol that the
program itself has handed to ``call_soon`` or ``call_later``.

A conversation is known by the identities of who takes part in it.  They are taken from the step when it leaves, and are
alive as long as it is away, being on its stack.  uvloop calls protocols inside of its poll, where no step can leave.
"""

from __future__ import annotations

import asyncio
from asyncio.sslproto import SSLProtocol
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from ..protocol.lwp import LWP

_METHODS = frozenset(
    name
    for protocol in (asyncio.Protocol, asyncio.BufferedProtocol, asyncio.DatagramProtocol, asyncio.SubprocessProtocol)
    for name in dir(protocol)
    if not name.startswith("_")
)
_TLS = SSLProtocol.__module__


class Conversations:
    """Which conversations have a step that is without the loop."""

    def __init__(self) -> None:
        self.away: dict[LWP, frozenset[int]] = {}

    def left(self, lwp: LWP) -> None:
        """The LWP's step is without the loop.  Called under the mutex."""
        members = _members(lwp.handle)
        if members:
            self.away[lwp] = frozenset(map(id, members))

    def returned(self, lwp: LWP) -> None:
        """The LWP's step has the loop again.  Called under the mutex."""
        self.away.pop(lwp, None)

    def concerns(self, handle: Any) -> bool:
        """Whether a step belongs to a conversation that waits.  The holder asks."""
        if not self.away:
            return False
        members = list(map(id, _members(handle)))
        return any(not away.isdisjoint(members) for away in self.away.values())


def told(waiter: asyncio.Future[None], transport: asyncio.BaseTransport) -> None:
    """The protocol of a transport knows of it: let go on who waits for that."""
    if not waiter.done():
        waiter.set_result(None)


def _members(handle: Any) -> tuple[Any, ...]:
    """Who takes part in the conversation that a step belongs to; nobody if it belongs to none.

    It is asked under the mutex, and by the sampler: no code of the program runs here.
    """
    callback: Any = getattr(handle, "_callback", None)
    kind: type = type(callback)
    owner = None
    if kind is MethodType or kind is BuiltinMethodType:
        owner = callback.__self__
    elif hasattr(handle, "owner"):
        owner = handle.owner  # a file descriptor's: its callback is forgotten if it was removed meanwhile
    elif kind is not FunctionType:
        return ()  # a task's step
    elif callback.__module__ == _TLS and callback.__closure__:
        owner = callback.__closure__[0].cell_contents  # a function inside of a method
    if issubclass(type(owner), asyncio.BaseTransport):
        protocol = getattr(owner, "_protocol", None)
        return (owner,) if protocol is None else (owner, protocol)
    if type(owner) is SSLProtocol:
        return (owner,)
    if callback is told or (owner is not None and getattr(callback, "__name__", None) in _METHODS):
        given = tuple(argument for argument in handle._args or () if issubclass(type(argument), asyncio.BaseTransport))
        return given if owner is None else (owner, *given)
    return ()
