"""A client of dask's: jobs in the worker's threads, then jobs on its loop that wait for each other."""

from __future__ import annotations

import sys

from dask_jobs import put, square, take
from distributed import Client

with Client(sys.argv[1]) as client:
    squares = client.map(square, range(20))
    assert client.gather(squares) == [number * number for number in range(20)]
    taken = [client.submit(take, pure=False) for _ in range(2)]
    others = [client.submit(put, word) for word in "ab"]
    assert client.gather(others) == ["put a", "put b"]
    assert sorted(client.gather(taken)) == ["a", "b"]
    print("all jobs have run")
