"""The log: what may be said of a value, and what is said only once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hybridexec.observing import log
from hybridexec.observing.log import Trouble, told


class Proxy:
    """An object that stands for another one: whatever it is asked runs the program's code."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)

    def __repr__(self) -> str:
        raise AssertionError("repr")

    def __len__(self) -> int:
        raise AssertionError("len")


class Text(str):
    """A string that is more than one."""

    def __len__(self) -> int:
        raise AssertionError("len")


class Outer:
    """Has a class within."""

    class Inner:
        """Is within."""


VALUES: list[tuple[Any, str]] = [
    (None, "None"),
    ("secret", "<str of length 6>"),
    (b"x" * 10**6, "<bytes of length 1000000>"),
    ({"key": "secret"}, "<dict of length 1>"),
    (1234, "<int>"),
    (Text("secret"), "<Text>"),
    (Proxy(), "<Proxy>"),
    (Outer.Inner(), "<Outer.Inner>"),
    (Outer.Inner, "<class Outer.Inner>"),
    (told, "<function told>"),
    (len, "<builtin_function_or_method len>"),
    (functools.partial(print, "secret"), "<partial>"),
    (KeyError("secret"), "<KeyError>"),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=[expected for _, expected in VALUES])
def test_what_is_told_of_a_value(value: object, expected: str) -> None:
    assert told(value) == expected


# ---------------------------------------------------------------- a trouble


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock of the log forward."""
    now = [1000.0]
    monkeypatch.setattr(log, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_each_cause_is_news_once_and_the_rest_is_summed_up(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    trouble = Trouble("again, %d times")
    assert [trouble.is_news("a"), trouble.is_news("b"), trouble.is_news("a"), trouble.is_news("a")] == [1, 1, 0, 0]
    trouble.is_over()
    trouble.is_over()
    assert caplog.messages == ["again, 2 times"]
    clock(log.AGAIN - 1)
    assert not trouble.is_news("a"), "one that comes and goes is one trouble"
    trouble.is_over()
    assert len(caplog.messages) == 1, "nor is it summed up at each turn"
    clock(log.AGAIN)
    assert trouble.is_news("a"), "it was calm for a while"
    assert not trouble.is_news("a")
    trouble.is_over()
    assert caplog.messages[1:] == ["again, 2 times"]


def test_what_has_not_been_summed_up_is_at_the_end(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    trouble = Trouble("again, %d times")
    for _ in range(3):
        trouble.is_news("a")
        trouble.is_over()
    assert caplog.messages == ["again, 1 times"]
    trouble.is_over(for_good=True)
    trouble.is_over(for_good=True)
    assert caplog.messages == ["again, 1 times", "again, 1 times"]


def test_causes_without_end_take_no_memory(clock: Callable[[float], None]) -> None:
    trouble = Trouble("again, %d times")
    assert sum(trouble.is_news(number) for number in range(1000)) == log.CAUSES
    assert len(trouble._said) == log.CAUSES


def test_many_threads_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble("again, %d times")
    start = threading.Barrier(8)
    news: list[bool] = []

    def find() -> None:
        start.wait()
        news.extend(trouble.is_news("a") for _ in range(500))

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(news) == 1
    trouble.is_over()
    assert caplog.messages == ["again, 3999 times"]
