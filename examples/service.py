"""A FastAPI service whose ``async def`` handlers use synchronous ``sqlite3`` and ``requests``.

    hybridexec run -m uvicorn examples.service:app --port 8000

Then ``curl "http://127.0.0.1:8000/slow?seconds=5"`` in one terminal, and meanwhile in another ``curl
http://127.0.0.1:8000/visits`` and ``curl "http://127.0.0.1:8000/relay?seconds=1"``: both are served at once.  Run by
``uvicorn`` alone they wait until the first is done, and ``/relay``, which asks this service itself, waits for ever.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import requests
from fastapi import FastAPI, Query, Request


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the database, and remove it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        app.state.database = Path(folder) / "visits.sqlite"
        with contextlib.closing(sqlite3.connect(app.state.database)) as db:
            db.execute("CREATE TABLE visits (time REAL)")
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/visits")
async def visits(request: Request) -> dict[str, int]:
    """Count a visit in the database, which may have to wait for another's transaction."""
    with contextlib.closing(sqlite3.connect(request.app.state.database, timeout=30)) as db, db:
        db.execute("INSERT INTO visits VALUES (?)", (time.time(),))
        (count,) = db.execute("SELECT count(*) FROM visits").fetchone()
    return {"visits": count}


@app.get("/slow")
async def slow(seconds: float = Query(1.0, ge=0, le=60)) -> dict[str, float]:
    """Stands for any slow call."""
    time.sleep(seconds)
    return {"slept": seconds}


@app.get("/relay")
async def relay(request: Request, seconds: float = Query(1.0, ge=0, le=60)) -> dict[str, float]:
    """Ask a slow service by a client that knows no asyncio: here it is this service itself."""
    answer = requests.get(str(request.url_for("slow")), params={"seconds": seconds}, timeout=90)
    answer.raise_for_status()
    return {"relayed": answer.json()["slept"]}
