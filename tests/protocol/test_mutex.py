"""What goes wrong with the mutex, where the compiled core takes it or asks for it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest
from helpers import running_loop

import hybridexec
from hybridexec import _core
from hybridexec.protocol.compiled_carrying import carrying_class
from hybridexec.protocol.lwp import LWP

pytestmark = pytest.mark.skipif(_core.compiled is None, reason="there is no compiled core")


def test_what_is_raised_on_the_way_back_from_a_wait_leaves_it_free() -> None:
    """As ``with`` does: a tracer may raise when the function that waits returns."""
    carrying: Any = carrying_class(claimable=True, max_lwps=2, spare_lwps=0, idle_timeout=1.0)
    taken, wanted = threading.Event(), threading.Event()

    def keeps() -> None:
        with carrying.mutex:
            taken.set()
            wanted.wait()

    def waits(mutex: Any) -> None:
        wanted.set()
        mutex.acquire()
        raise KeyError("injected")

    carrying._wait_for = waits
    thread = threading.Thread(target=keeps)
    thread.start()
    taken.wait()
    with pytest.raises(KeyError, match="injected"):
        carrying.rejoin(LWP(carrying, "waits"))
    assert not carrying.mutex._is_owned()
    thread.join()


def test_a_failure_at_a_call_is_logged_and_the_call_is_made(caplog: pytest.LogCaptureFixture) -> None:
    carrying: Any = None
    mutex: Any = None

    class Fails:
        """In the place of the mutex, until it is asked whose it is."""

        def _is_owned(self) -> bool:
            carrying.mutex = mutex
            raise MemoryError("injected")

    def sleeps() -> None:
        time.sleep(0.001)

    async def main() -> None:
        nonlocal carrying, mutex
        sleeps()  # from now on the place is known
        carrying = running_loop()._carrying
        mutex = carrying.mutex
        await asyncio.sleep(0)
        carrying.mutex = Fails()
        sleeps()
        assert carrying.mutex is mutex

    with caplog.at_level(logging.ERROR, "hybridexec"):
        hybridexec.run(main())
    assert "the detector failed at a call, and looks away" in caplog.text
