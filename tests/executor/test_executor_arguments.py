"""Wrong arguments are refused, by an error that names the argument, the value and what is allowed."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest
from executors import executing

import hybridexec
from hybridexec import Config, HybridExecutor
from hybridexec.executor.models import default_loops

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"loops": 0}, ValueError, r"loops=0: allowed are None and whole numbers from 1 to 32768"),
    ({"loops": 2.0}, TypeError, r"loops=2\.0: allowed are None and whole numbers"),
    ({"loops": True}, TypeError, r"loops=True"),
    ({"loops": 2, "model": "n:1"}, ValueError, r"loops=2: allowed are None and whole numbers from 1 to 1"),
    ({"model": "m:m"}, ValueError, r"model=<str of length 3>: allowed are 'm:n', '1:1', 'n:1'"),
    ({"model": None}, TypeError, r"model=None: allowed are 'm:n', '1:1', 'n:1'"),
    ({"name": ""}, ValueError, r"name=<str of length 0>: allowed is a string that is not empty"),
    ({"name": 1}, TypeError, r"name=1: allowed is a string"),
    ({"max_pending": 0}, ValueError, r"max_pending=0: allowed are None and whole numbers from 1"),
    ({"max_pending": "1"}, TypeError, r"max_pending=<str of length 1>"),
    ({"initializer": 1}, TypeError, r"initializer=1: allowed are None and a callable"),
    ({"initargs": 1}, TypeError, r"initargs=1: allowed is a tuple"),
    ({"config": 1}, TypeError, r"config=1: allowed are a hybridexec\.Config and None"),
    ({"max_lwps": 1}, ValueError, r"max_lwps=1"),
    ({"max_workers": 1}, TypeError, r"max_workers=1: there is no such option; allowed are loops, .*, mode, "),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=lambda value: str(value))
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HybridExecutor(**options)


def test_wrong_arguments_of_methods() -> None:
    wrong: Any = 1
    with executing() as executor:
        with pytest.raises(TypeError, match="fn=1: allowed are a coroutine function and any other callable"):
            executor.submit(wrong)
        with pytest.raises(TypeError, match="fn=1"):
            executor.spawn(wrong)
        with pytest.raises(TypeError, match="fn=1"):
            asyncio.run(executor.run(wrong))
        with pytest.raises(TypeError, match=r"bound=<str of length 6>: allowed are True and False"):
            executor.spawn(len, "abc", bound="thread")  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r"name=1: allowed are None and a string"):
            executor.spawn(len, "abc", name=wrong)
        with pytest.raises(ValueError, match=r"buffersize=0: allowed are None and whole numbers from 1"):
            executor.map(len, ["abc"], buffersize=0)
        with pytest.raises(TypeError, match=r"buffersize=<str of length 1>"):
            executor.map(len, ["abc"], buffersize="1")  # type: ignore[call-overload]


def test_options_win_over_the_config() -> None:
    with executing(config=Config(max_lwps=5), max_lwps=7) as executor:
        executor.submit(len, "abc").result()
        assert executor._max_workers == 7


def test_positional_and_keyword_arguments_reach_the_callable() -> None:
    def call(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    with executing() as executor:
        assert executor.submit(call, 1, fn=2, self=3, name=4).result() == ((1,), {"fn": 2, "self": 3, "name": 4})
        assert executor.spawn(call, 1, fn=2, self=3).result() == ((1,), {"fn": 2, "self": 3})
        assert asyncio.run(executor.run(call, 1, fn=2, self=3, bound=4)) == ((1,), {"fn": 2, "self": 3, "bound": 4})


def test_how_many_loops_there_are_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    assert default_loops() == 1
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    assert default_loops() == 3
    monkeypatch.setattr(os, "process_cpu_count", lambda: None, raising=False)
    assert default_loops() == 1  # it cannot be told


def test_the_names_are_public() -> None:
    for name in ("HybridExecutor", "UserThread", "UserThreadState", "UserThreadInfo", "ExecutorStats"):
        assert name in hybridexec.__all__
        assert getattr(hybridexec, name).__doc__
