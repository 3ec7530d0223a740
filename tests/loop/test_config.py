"""How a loop is configured: in code, by the environment, and wrongly."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import importlib
import inspect
import math
from typing import Any

import pytest
from helpers import Recorder

import hybridexec
from hybridexec import Config
from hybridexec.config import shown

RECORDER = Recorder()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in dataclasses.fields(Config):
        monkeypatch.delenv(f"HYBRIDEXEC_{field.name.upper()}", raising=False)


def test_the_defaults_are_the_documented_ones() -> None:
    config = Config()
    assert dataclasses.asdict(config) == {
        "mode": "handoff",
        "threshold": 0.005,
        "preempt": None,
        "max_lwps": 256,
        "spare_lwps": 1,
        "lwp_idle_timeout": 10.0,
        "engine": "auto",
        "instruments": (),
        "hold_in_debugger": True,
        "nested": False,
    }
    assert Config.from_env() == config


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().mode = "observe"  # type: ignore[misc]


WRONG_VALUES: list[tuple[str, Any]] = [
    ("mode", "nonsense"),
    ("mode", "Handoff"),
    ("engine", "uvloops"),
    ("threshold", 0),
    ("threshold", -0.005),
    ("threshold", 61),
    ("threshold", math.nan),
    ("threshold", math.inf),
    ("preempt", 0.001),
    ("preempt", -1),
    ("preempt", math.nan),
    ("lwp_idle_timeout", -0.1),
    ("lwp_idle_timeout", math.inf),
    ("max_lwps", 1),
    ("max_lwps", 0),
    ("max_lwps", 10**6),
    ("spare_lwps", -1),
    ("spare_lwps", 256),
]

WRONG_TYPES: list[tuple[str, Any]] = [
    ("mode", None),
    ("mode", 1),
    ("engine", b"auto"),
    ("threshold", "0.005"),
    ("threshold", None),
    ("threshold", True),
    ("preempt", "0.02"),
    ("preempt", False),
    ("lwp_idle_timeout", [10]),
    ("max_lwps", 10.0),
    ("max_lwps", True),
    ("max_lwps", "9"),
    ("spare_lwps", None),
    ("hold_in_debugger", 1),
    ("nested", "yes"),
    ("instruments", "module:class"),
    ("instruments", RECORDER),
    ("instruments", [Recorder]),
    ("instruments", [object()]),
]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [(*case, ValueError) for case in WRONG_VALUES] + [(*case, TypeError) for case in WRONG_TYPES],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: Any, error: type[Exception]) -> None:
    for make in (Config, Config.from_env, hybridexec.new_event_loop):
        with pytest.raises(error) as caught:
            make(**{field: value})
        message = str(caught.value)
        assert field in message
        assert shown(value) in message or shown(value[0]) in message
        assert isinstance(value, int | float | None) or repr(value) not in message
        assert "allowed" in message


@pytest.mark.parametrize("make", [Config.from_env, hybridexec.new_event_loop])
def test_an_unknown_option_is_refused_by_name(make: Any) -> None:
    with pytest.raises(TypeError, match=r"nonsense=1.*allowed are mode, threshold"):
        make(nonsense=1)


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("MODE", "observe", "observe"),
        ("THRESHOLD", "0.25", 0.25),
        ("THRESHOLD", "1", 1.0),
        ("PREEMPT", "0.02", 0.02),
        ("PREEMPT", "none", None),
        ("PREEMPT", "", None),
        ("MAX_LWPS", "12", 12),
        ("SPARE_LWPS", "0", 0),
        ("LWP_IDLE_TIMEOUT", "3.5", 3.5),
        ("ENGINE", "selector", "selector"),
        ("HOLD_IN_DEBUGGER", "no", False),
        ("HOLD_IN_DEBUGGER", "TRUE", True),
    ],
)
def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, expected: object) -> None:
    monkeypatch.setenv(f"HYBRIDEXEC_{variable}", text)
    assert getattr(Config.from_env(), variable.lower()) == expected
    assert Config.from_env({}) == Config()
    loop = hybridexec.new_event_loop()
    loop.close()
    assert getattr(loop.config, variable.lower()) == expected


def test_instruments_of_the_environment_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "HYBRIDEXEC_INSTRUMENTS", "helpers:Recorder, hybridexec.instruments:Report, test_config:RECORDER"
    )
    first, second, third = Config.from_env().instruments
    assert (type(first).__name__, type(second).__name__) == ("Recorder", "Report")
    assert third is importlib.import_module("test_config").RECORDER
    assert Config.from_env().instruments == (first, second, third), "one in the process, and not one for each loop"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MODE", "nonsense"),
        ("THRESHOLD", "soon"),
        ("THRESHOLD", "-1"),
        ("PREEMPT", "always"),
        ("MAX_LWPS", "many"),
        ("MAX_LWPS", "2.5"),
        ("SPARE_LWPS", "-1"),
        ("LWP_IDLE_TIMEOUT", "nan"),
        ("HOLD_IN_DEBUGGER", "perhaps"),
        ("INSTRUMENTS", "nothing_of_this_name:Nothing"),
        ("INSTRUMENTS", "helpers:Nothing"),
        ("NONSENSE", "1"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(f"HYBRIDEXEC_{variable}", text)
    with pytest.raises(ValueError, match=f"HYBRIDEXEC_{variable}") as caught:
        Config.from_env()
    told = [
        shown(text),
        text if ":" in text else None,
        f"={text}.0: ",
        f"={text}: ",
    ]  # all of a string, a name, or a number
    assert any(part in str(caught.value) for part in told if part)
    assert "allowed" in str(caught.value)


def test_what_is_given_in_code_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDEXEC_MAX_LWPS", "12")
    monkeypatch.setenv("HYBRIDEXEC_THRESHOLD", "wrong")
    config = Config.from_env(threshold=0.5)
    assert (config.max_lwps, config.threshold) == (12, 0.5)
    assert Config.from_env(max_lwps=7, threshold=0.5).max_lwps == 7

    async def main() -> Config:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, hybridexec.HybridLoop)
        return loop.config

    # A whole configuration leaves nothing for the environment; options win over it.
    assert hybridexec.run(main(), config=Config(max_lwps=5, spare_lwps=2), spare_lwps=3) == Config(
        max_lwps=5, spare_lwps=3
    )


def test_a_config_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="config=<str of length 7>"):
        hybridexec.new_event_loop("handoff")  # type: ignore[arg-type]


@pytest.mark.parametrize("main", [None, 42, asyncio.sleep])
def test_main_has_to_be_a_coroutine(main: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as expected:
        asyncio.run(main)
    with pytest.raises(expected.type) as found:
        hybridexec.run(main)
    assert str(found.value) == str(expected.value)


def test_a_refused_configuration_leaves_nothing_behind() -> None:
    async def main() -> None:
        pytest.fail("was run")

    coroutine = main()
    with pytest.raises(ValueError, match="max_lwps"):
        hybridexec.run(coroutine, max_lwps=0)
    coroutine.close()


def test_every_field_is_documented() -> None:
    source = inspect.getsource(Config)
    for field in dataclasses.fields(Config):
        assert source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1].startswith('    """')


def test_a_number_beyond_all_numbers_is_refused_like_any_other() -> None:
    with pytest.raises(ValueError, match=r"threshold=<int>: allowed are seconds"):
        Config(threshold=10**400)


def test_configurations_are_values() -> None:
    assert Config(mode="observe") == Config(mode="observe") != Config()
    assert len({Config(), Config(), Config(mode="observe")}) == 2
    assert dataclasses.replace(Config(), preempt=0.02) == Config(preempt=0.02)
    with pytest.raises(ValueError, match="max_lwps=0"):
        dataclasses.replace(Config(), max_lwps=0)
    assert Config(instruments=[RECORDER]).instruments == (RECORDER,)  # type: ignore[arg-type]


def test_a_limit_that_depends_on_another_field_is_told_as_it_is() -> None:
    assert Config(max_lwps=2, spare_lwps=1).spare_lwps == 1
    with pytest.raises(ValueError, match=r"spare_lwps=2: allowed are whole numbers from 0 to 1"):
        Config(max_lwps=2, spare_lwps=2)


def test_the_environment_is_not_blamed_for_what_is_given_in_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDEXEC_MODE", "observe")
    with pytest.raises(ValueError, match="max_lwps=0") as caught:
        Config.from_env(max_lwps=0)
    assert "HYBRIDEXEC" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [(text, text) for text in ("os:sep", "collections:OrderedDict", "helpers:play", "os.path")]
    + [("helpers:Recorder,helpers:Witness", "helpers:Witness")],
)
def test_instruments_that_are_none_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str, wrong: str) -> None:
    monkeypatch.setenv("HYBRIDEXEC_INSTRUMENTS", text)
    with pytest.raises(ValueError, match=r"HYBRIDEXEC_INSTRUMENTS=.*allowed is") as caught:
        hybridexec.new_event_loop()
    assert f"cannot load {wrong!r}" in str(caught.value)


def test_a_loop_that_is_refused_leaves_nothing_to_be_cleaned_up() -> None:
    """Not even a complaint of its finalizer: pytest would take that for an error."""
    with pytest.raises(ValueError, match="max_lwps=0"):
        hybridexec.HybridLoop(max_lwps=0)
    gc.collect()


@pytest.mark.parametrize("outer", [asyncio.run, hybridexec.run])
def test_a_loop_in_a_loop_is_refused_as_asyncio_does(outer: Any) -> None:
    async def inner() -> None:
        pytest.fail("was run")

    async def main() -> None:
        coroutine = inner()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            hybridexec.run(coroutine)
        coroutine.close()

    outer(main())


@pytest.mark.parametrize(("debug", "expected"), [(True, True), (False, False)])
def test_debug_mode_is_an_argument_of_its_own(debug: bool, expected: bool) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert hybridexec.run(main(), debug=debug, config=Config(), max_lwps=9) is expected
