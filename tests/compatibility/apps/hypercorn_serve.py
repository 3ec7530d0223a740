"""hypercorn by its function for programs, on a loop of ours."""

from __future__ import annotations

import os

import bare
import hypercorn.asyncio

import hybridexec

if __name__ == "__main__":
    config = hypercorn.Config.from_mapping(bind=f"127.0.0.1:{os.environ['PORT']}", accesslog="-", errorlog="-")
    hybridexec.run(hypercorn.asyncio.serve(bare.app, config))
