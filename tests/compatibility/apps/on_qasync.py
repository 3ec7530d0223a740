"""A program on qasync's loop, which is Qt's: ours cannot take its place.  For ``hybridexec run --report``."""

from __future__ import annotations

import asyncio
import sys
import time

import qasync
from PySide6.QtCore import QCoreApplication


async def main() -> None:
    await asyncio.sleep(0)
    time.sleep(0.02)
    print("done")


application = QCoreApplication(sys.argv)
with qasync.QEventLoop(application) as loop:
    loop.run_until_complete(main())
