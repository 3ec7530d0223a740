"""NiceGUI: a page blocks until another page is asked for."""

from __future__ import annotations

import re
import signal

import pytest
from compatibility.service import Backend, begin, get

from applications.running import INTERRUPTED, application


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, (0, 130, -2)), (signal.SIGTERM, (0, -15))])
def test_pages_wait_for_each_other(
    engine: str, backend: Backend, number: signal.Signals, status: tuple[int, ...]
) -> None:
    with application("with_nicegui.py", engine=engine, backend=backend) as service:
        taken = begin(*[lambda: get(f"{service.url}/take")] * 4)
        for word in "abcd":
            assert f"put {word}" in get(f"{service.url}/put/{word}")
        assert sorted(found for page in taken() for found in re.findall(r"took (\w)", page)) == list("abcd")
        asked = begin(*[lambda: get(f"{service.url}/backend")] * 4)
        backend.wait_for(4)
        assert "put e" in get(f"{service.url}/put/e")
        backend.answer("at last")
        assert asked() == ['"at last"'] * 4
        service.stop_well(number, status=status, but=INTERRUPTED if number == signal.SIGINT else [])
