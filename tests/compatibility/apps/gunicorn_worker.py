"""uvicorn's worker for gunicorn, told of our loop."""

from __future__ import annotations

from typing import ClassVar

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):
    CONFIG_KWARGS: ClassVar = {**UvicornWorker.CONFIG_KWARGS, "loop": "hybridexec:new_event_loop"}
