"""A program that a library of greenlets has patched: its own loop is asyncio's, as ours says that it cannot be."""

from __future__ import annotations

import asyncio
import importlib
import sys

if sys.argv[1] == "gevent":
    importlib.import_module("gevent.monkey").patch_all()
else:
    importlib.import_module("eventlet").monkey_patch()

import hybridexec


async def main() -> str:
    await asyncio.sleep(0)
    return "ran"


try:
    hybridexec.run(main())
except RuntimeError as exc:
    print(exc)
print(asyncio.run(main()))
