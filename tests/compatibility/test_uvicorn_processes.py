"""uvicorn with processes under it: its workers, and what it loads anew."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from compatibility.service import APPS, LIMIT, Backend, begin, block_each_worker, get, serving, together
from compatibility.test_uvicorn import NEEDS, UVICORN

# uvicorn's parent processes leave these open, on every loop
LEFT_OPEN = ("unclosed <socket.*laddr=", "unclosed file <_io.TextIOWrapper name=0 ", "Enable tracemalloc")
RELOADING = "detected changes in 'bare.py'. Reloading"


@pytest.mark.compatibility("uvicorn", "`--workers 2`; SIGTERM and Ctrl-C while handlers are blocked", needs=NEEDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving([*UVICORN, "--workers", "2", "bare:app"], engine=engine, backend=backend) as service:
        assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
        answers = block_each_worker(service, backend, 2)
        service.send(number)
        service.wait_until_it_says("Shutting down")
        backend.answer("at last")
        assert set(answers()) == {"at last"}
        service.stop_well(None, but=LEFT_OPEN)


@pytest.mark.compatibility("uvicorn", "`--reload`, while a handler is blocked", needs=NEEDS)
def test_reload(engine: str, backend: Backend, tmp_path: Path) -> None:
    code = (APPS / "bare.py").read_text()
    (tmp_path / "bare.py").write_text(code)
    (tmp_path / "blocking.py").write_text((APPS / "blocking.py").read_text())
    with serving([*UVICORN, "--reload", "bare:app"], engine=engine, folder=tmp_path, backend=backend) as service:
        assert get(f"{service.url}/outer") == "outer inner"
        old = begin(lambda: get(f"{service.url}/backend"))
        backend.wait_for(1)
        (tmp_path / "bare.py").write_text(code.replace('"outer "', '"changed "'))
        service.wait_until_it_says("Shutting down")
        backend.answer("at last")
        assert old() == ["at last"]
        until = time.monotonic() + LIMIT
        while (answer := get(f"{service.url}/outer")) != "changed inner":
            assert answer == "outer inner"
            assert time.monotonic() < until, service.said()
        service.stop_well(signal.SIGINT, but=(*LEFT_OPEN, RELOADING))
