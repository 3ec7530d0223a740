"""sqlite3 and aiosqlite on one file."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from compatibility.drivers import ENDED, UVICORN, ask
from compatibility.service import serving


@pytest.mark.compatibility(
    "sqlite3", "a file that another handler has locked; one connection for all, `check_same_thread` unset"
)
def test_sqlite3(engine: str, tmp_path: Path) -> None:
    with serving([*UVICORN, "on_sqlite:app"], engine=engine, DATABASE=str(tmp_path / "file")) as service:
        answers = ask(service, "locks", *["waits"] * 3)
        assert sorted(map(str, answers)) == ["11", "12", "13", "unlocked"]
        assert sorted(map(str, ask(service, *["shares"] * 6))) == [str(n) for n in range(14, 20)]
        service.stop_well(status=ENDED[signal.SIGTERM])


@pytest.mark.compatibility("aiosqlite", "a transaction that handlers with sqlite3 block on; Ctrl-C")
def test_aiosqlite(engine: str, tmp_path: Path) -> None:
    with serving([*UVICORN, "on_sqlite:app"], engine=engine, DATABASE=str(tmp_path / "file")) as service:
        answers = ask(service, "locks", "waits", "waits", "waits")
        assert sorted(map(str, answers)) == ["11", "12", "13", "unlocked"]
        service.stop_well(signal.SIGINT, status=ENDED[signal.SIGINT])
