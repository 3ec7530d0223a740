"""Config: every knob of a loop, with its unit, default, allowed values and environment variable."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict, Unpack

from . import _core
from .errors import WrongEnvironmentError
from .observing.log import told
from .observing.upcalls import METHODS, Instrument

PREFIX = "HYBRIDEXEC_"
INSTRUMENTS = f"{PREFIX}INSTRUMENTS"

_MODES = ("handoff", "observe", "raise")
_ENGINES = ("auto", "native", "selector", "uvloop")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class Options(TypedDict, total=False):
    """The fields of :class:`Config`, given one by one."""

    mode: Literal["handoff", "observe", "raise"]
    threshold: float
    preempt: float | None
    max_lwps: int
    spare_lwps: int
    lwp_idle_timeout: float
    engine: Literal["auto", "native", "selector", "uvloop"]
    instruments: Iterable[Any]  # Instruments, or objects that have some of the same methods
    hold_in_debugger: bool
    nested: bool


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a :class:`~hybridexec.HybridLoop` detects blocking calls and what it does about them.

    Every field may be given in code or, through :meth:`from_env`, as ``HYBRIDEXEC_<FIELD>`` in upper case; what is
    given in code wins.  Instances are immutable and may be shared by loops and threads.

    Raises:
        TypeError: a field has a value of a wrong type; the message names the field, the type and what is allowed.
        ValueError: a field has a value out of range; the message names the same.  (The value is told only if it is
            a number: it may be a password that was given in the wrong place.)
    """

    mode: Literal["handoff", "observe", "raise"] = "handoff"
    """What a blocking step brings about: "handoff": the loop moves to a spare LWP; "observe": an upcall, and the
    loop stays where it is; "raise": :class:`~hybridexec.BlockingCallError` in the step, for tests."""

    threshold: float = 0.005
    """Seconds that a call which may or may not block can last before the loop is retaken from it (0.001 to 60)."""

    preempt: float | None = None
    """Time slice of a step of pure Python, in seconds (0.005 to 60); None: a step is never interrupted."""

    max_lwps: int = 256
    """The most LWPs one loop may have, its home included (2 to 32768); with all of them blocked the loop waits."""

    spare_lwps: int = 1
    """How many LWPs are kept parked and ready once the program has blocked (0 to ``max_lwps`` - 1)."""

    lwp_idle_timeout: float = 10.0
    """Seconds after which an LWP that is parked beyond ``spare_lwps`` ends (0 to 86400)."""

    engine: Literal["auto", "native", "selector", "uvloop"] = "auto"
    """What polls and carries the transports: "selector" is asyncio's own loop, "native" the same with the hot part
    compiled, "uvloop" is uvloop; "auto" takes "native" where there is a compiled core, else "selector"."""

    instruments: tuple[Instrument, ...] = ()
    """Who receives the upcalls.  In the environment: a comma-separated list of ``module:class`` or ``module:object``; a
    class is called once in the process, and all loops share what it makes.  Whoever can set that variable has a module
    of his choice imported by the program, as with ``PYTHONBREAKPOINT``."""

    hold_in_debugger: bool = True
    """Whether the loop stays where it is while a debugger (pdb, pydevd) waits at its prompt.  Under one that watches
    by ``sys.monitoring`` (what ``breakpoint()`` calls since 3.14) it always does."""

    nested: bool = False
    """Whether ``asyncio.run``, ``asyncio.Runner`` and ``run_until_complete`` may be called in a step, as if nothing ran
    on its thread.  asyncio refuses that, and so does this loop by default, unless nest_asyncio was applied."""

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, _MODES)
        _one_of("engine", self.engine, _ENGINES)
        _seconds("threshold", self.threshold, 0.001, 60)
        if self.preempt is not None:
            _seconds("preempt", self.preempt, 0.005, 60, none=True)
        _seconds("lwp_idle_timeout", self.lwp_idle_timeout, 0, 86400)
        _whole("max_lwps", self.max_lwps, 2, 32768)
        _whole("spare_lwps", self.spare_lwps, 0, self.max_lwps - 1)
        for name in ("hold_in_debugger", "nested"):
            flag = getattr(self, name)
            if not isinstance(flag, bool):
                raise TypeError(f"{name}={shown(flag)}: allowed are True and False")
        object.__setattr__(self, "instruments", _instruments(self.instruments))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /, **options: Unpack[Options]) -> Self:
        """Read the fields from the environment.

        Args:
            environ: where to look; by default ``os.environ``.
            **options: fields given in code, which win over the environment's.

        Returns:
            The configuration; a field that is given nowhere has its default.

        Raises:
            TypeError: an option is not a field, or has a wrong type.
            ValueError: an option has a value that is not allowed.
            WrongEnvironmentError: a variable has, or a variable of the prefix names no field.  It is a ``ValueError``.
        """
        environ = os.environ if environ is None else environ
        check_names(options)
        fields = {PREFIX + field.name.upper(): field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environ.items():
            if not variable.startswith(PREFIX):
                continue
            if variable == _core.VARIABLE:  # it chooses for the process, not for a loop
                if text not in _core.NAMES:
                    raise WrongEnvironmentError(f"{variable}={shown(text)}: allowed are {', '.join(_core.NAMES)}")
                continue
            if variable not in fields:
                raise WrongEnvironmentError(
                    f"{variable}={shown(text)}: there is no such field; allowed are {', '.join(fields)}"
                )
            name = fields[variable]
            if name not in options:
                try:
                    values[name] = _PARSERS[name](text)
                except ValueError as exc:
                    raise WrongEnvironmentError(f"{variable}={shown(text)}: {exc}") from exc
        try:
            return cls(**{**values, **options})
        except ValueError as exc:
            given = [variable for variable, name in fields.items() if name in values]
            if not given or _refusal(cls, options) == str(exc):
                raise
            raise WrongEnvironmentError(f"{exc} (from the environment: {', '.join(given)})") from exc


def check(**options: Unpack[Options]) -> None:
    """Refuse options, or an environment, that no configuration can be made with.

    Instruments of the environment are not looked at: they may be the program's own, and cannot be imported yet.

    Raises:
        TypeError, ValueError: as :meth:`Config.from_env`.
    """
    Config.from_env({name: text for name, text in os.environ.items() if name != INSTRUMENTS}, **options)


def resolve(config: Config | None, options: Options) -> Config:
    """What ``config`` and keyword options together mean: options win over config, config over the environment."""
    if config is None:
        return Config.from_env(**options)
    if not isinstance(config, Config):
        raise TypeError(f"config={shown(config)}: allowed are a hybridexec.Config and None")
    check_names(options)
    fields: dict[str, Any] = dict(options)  # what is no tuple yet becomes one
    return dataclasses.replace(config, **fields)


def _refusal(cls: type[Config], options: Mapping[str, Any]) -> str | None:
    """Why the options are refused, whatever the environment says."""
    try:
        cls(**options)
    except ValueError as exc:
        return str(exc)
    return None


def check_names(options: Mapping[str, Any], *others: str) -> None:
    """Refuse an option that is no field of :class:`Config`; ``others`` are allowed, too, by who asks."""
    names = [*others, *(field.name for field in dataclasses.fields(Config))]
    for name, value in options.items():
        if name not in names:
            raise TypeError(f"{name}={shown(value)}: there is no such option; allowed are {', '.join(names)}")


def shown(value: object) -> str:
    """What a message says of a value that a knob was given: a number as it is, all else as the log would."""
    number = type(value) in (float, bool) or (type(value) is int and abs(value) < 10**15)
    return repr(value) if number else told(value)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    text = ", ".join(repr(a) for a in allowed)
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)}: allowed are {text}")
    if value not in allowed:
        raise ValueError(f"{name}={shown(value)}: allowed are {text}")


def _seconds(name: str, value: object, low: float, high: float, *, none: bool = False) -> None:
    allowed = f"allowed are {'None and ' if none else ''}seconds from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={shown(value)}: {allowed}")
    if not low <= value <= high:
        raise ValueError(f"{name}={shown(value)}: {allowed}")


def _whole(name: str, value: object, low: int, high: int, *, none: bool = False) -> None:
    allowed = f"allowed are {'None and ' if none else ''}whole numbers from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={shown(value)}: {allowed}")
    if not low <= value <= high:
        raise ValueError(f"{name}={shown(value)}: {allowed}")


def _instruments(value: object) -> tuple[Any, ...]:
    allowed = "allowed is a sequence of hybridexec.Instrument (or objects with any of its methods)"
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise TypeError(f"instruments={shown(value)}: {allowed}")
    for instrument in value:
        named = any(callable(getattr(instrument, method, None)) for method in METHODS.values())
        if isinstance(instrument, type) or not named:
            raise TypeError(f"instruments: {shown(instrument)}: {allowed}")
    return tuple(value)


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("allowed is a number of seconds") from None


def _parse_whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("allowed is a whole number") from None


def _parse_flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"allowed are {', '.join(_TRUE + _FALSE)}")


def _parse_slice(text: str) -> float | None:
    return None if text.lower() in ("", "none") else _parse_number(text)


_made: dict[str, Any] = {}
"""What the instruments of the environment are, by their names: one in the process, whatever the number of loops."""

_making = threading.RLock()


def _parse_instruments(text: str) -> tuple[Any, ...]:
    return tuple(_instrument(name) for part in text.split(",") if (name := part.strip()))


def _instrument(name: str) -> Any:
    import pkgutil

    try:
        found = pkgutil.resolve_name(name)
        with _making:
            if name not in _made:
                is_one = not isinstance(found, type) and any(hasattr(found, method) for method in METHODS.values())
                _made[name] = _instruments([found if is_one else found()])[0]
            return _made[name]
    except Exception as exc:  # whatever a module, or a class that is none of ours, raises
        is_name = "." in name or ":" in name
        asked = repr(name) if is_name else shown(name)
        missing = getattr(exc, "name", None) if isinstance(exc, ImportError | AttributeError) else None
        why = f"{type(exc).__name__}: {missing}" if is_name and isinstance(missing, str) else type(exc).__name__
        raise ValueError(f"cannot load {asked} ({why}); allowed is a list of module:class or module:object") from exc


def _in_child() -> None:
    """A forked process has instruments of its own; and whoever held the lock is not there."""
    global _making
    _making = threading.RLock()
    _made.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


_PARSERS: dict[str, Any] = {
    "mode": str,
    "threshold": _parse_number,
    "preempt": _parse_slice,
    "max_lwps": _parse_whole,
    "spare_lwps": _parse_whole,
    "lwp_idle_timeout": _parse_number,
    "engine": str,
    "instruments": _parse_instruments,
    "hold_in_debugger": _parse_flag,
    "nested": _parse_flag,
}
