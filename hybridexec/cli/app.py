"""The commands and their options: what is asked for, and nothing of how it is done."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

import hybridexec

from ..config import INSTRUMENTS, PREFIX, Config, check
from ..observing.program import explained
from .extra import lacking

type Todo = list[Callable[[], None]]

_SCRIPT = "A script, a directory or zip file with a __main__.py, or - for standard input."


def _default(field: str, text: str) -> str:
    """A help text: the field of the configuration says what the default is."""
    return f"{text}; default: {getattr(Config, field)}."


# The options of both `run` and `serve`.
_Mode = Annotated[
    str | None,
    typer.Option(metavar="handoff|observe|raise", help=_default("mode", "What a blocking step brings about")),
]
_Preempt = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Interrupt steps of pure Python after this time slice; default: never."),
]
_Threshold = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help=_default("threshold", "How long a call that may block can last")),
]
_MaxLwps = Annotated[int | None, typer.Option(metavar="N", help=_default("max_lwps", "The most threads of a loop"))]
_SpareLwps = Annotated[
    int | None, typer.Option(metavar="N", help=_default("spare_lwps", "How many threads are kept ready"))
]
_LwpIdleTimeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help=_default("lwp_idle_timeout", "After how long an idle thread beyond these ends")
    ),
]
_Engine = Annotated[
    str | None, typer.Option(metavar="auto|native|selector|uvloop", help=_default("engine", "What polls"))
]
_HoldInDebugger = Annotated[
    bool | None,
    typer.Option(
        "--hold-in-debugger/--no-hold-in-debugger",
        help=_default("hold_in_debugger", "Whether the loop stays where it is at a debugger's prompt"),
        show_default=False,
    ),
]
_Nested = Annotated[
    bool | None,
    typer.Option(
        "--nested/--no-nested",
        help=_default("nested", "Whether asyncio.run and its kin may be called in a step"),
        show_default=False,
    ),
]
_Report = Annotated[bool, typer.Option("--report", help="Show at exit where the program blocked.")]

app = typer.Typer(
    name="hybridexec",
    help="asyncio's loops, replaced by loops that survive blocking calls.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def parse(todo: Todo) -> None:
    """Parse ``sys.argv``.

    Args:
        todo: receives what is to be done, if the arguments are right.

    Raises:
        SystemExit: always, as the parser does; with status 2 if the arguments are wrong.
    """
    typer.main.get_command(app).main(prog_name="hybridexec", obj=todo)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hybridexec {hybridexec.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """asyncio's loops, replaced by loops that survive blocking calls."""


@app.command(context_settings={"allow_interspersed_args": False}, short_help="Run an unchanged program on our loops.")
def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="SCRIPT", show_default=False, help=_SCRIPT)],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", show_default=False, help="The program's own.")
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module, as in python -m.")] = False,
    mode: _Mode = None,
    preempt: _Preempt = None,
    threshold: _Threshold = None,
    max_lwps: _MaxLwps = None,
    spare_lwps: _SpareLwps = None,
    lwp_idle_timeout: _LwpIdleTimeout = None,
    engine: _Engine = None,
    hold_in_debugger: _HoldInDebugger = None,
    nested: _Nested = None,
    report: _Report = False,
) -> None:
    """Run an unchanged program with asyncio's loops replaced by ours.

    Options come before SCRIPT; all that follows belongs to the program.  Each but -m and --report has an environment
    variable, HYBRIDEXEC_<OPTION>, which the program's child processes see too.

    Examples: hybridexec run --report script.py; hybridexec run --mode observe -m uvicorn app:app
    """
    context.obj.append(functools.partial(_run, target, tuple(arguments or ()), module, _given(context), report))


def _given(context: typer.Context) -> dict[str, Any]:
    """The options of a configuration that are given, if one can be made with them.

    Raises:
        typer.BadParameter: it cannot, or not with what is in the environment.
    """
    fields = {field.name for field in dataclasses.fields(Config)}
    given = {name: value for name, value in context.params.items() if name in fields and value is not None}
    try:
        check(**given)
    except (TypeError, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc
    for name in ("threshold", "preempt"):
        if given.get(name, 0) >= 1:
            value = given[name]
            typer.echo(
                f"hybridexec: --{name} {value:g} is {value:g} seconds; {value:g} ms are {value / 1000:g}", err=True
            )
    return given


def _run(target: str, arguments: tuple[str, ...], module: bool, given: dict[str, Any], report: bool) -> None:
    from . import loops, script

    _pass_on(given)
    if report:
        _reporting().start()
    loops.replace()
    script.run(target, arguments, module=module)


def _pass_on(given: dict[str, Any]) -> None:
    """The environment is where every loop of the process, and of its children, takes its settings from."""
    os.environ.update({f"{PREFIX}{name.upper()}": str(value) for name, value in given.items()})
    if given.get("nested"):
        from ..loop import nesting

        nesting.allow()  # the program may keep asyncio's functions before it makes a loop


def _reporting() -> Any:
    """The module that has the report; the loops will find it."""
    try:
        from . import reporting
    except ModuleNotFoundError as exc:
        raise lacking(exc) from None
    os.environ[INSTRUMENTS] = ",".join(filter(None, (os.environ.get(INSTRUMENTS), reporting.NAME)))
    return reporting


@app.command(context_settings={"ignore_unknown_options": True}, short_help="Serve an application with uvicorn.")
def serve(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="APP", show_default=False, help="The application, and uvicorn's own options."),
    ] = None,
    mode: _Mode = None,
    preempt: _Preempt = None,
    threshold: _Threshold = None,
    max_lwps: _MaxLwps = None,
    spare_lwps: _SpareLwps = None,
    lwp_idle_timeout: _LwpIdleTimeout = None,
    engine: _Engine = None,
    hold_in_debugger: _HoldInDebugger = None,
    nested: _Nested = None,
    report: _Report = False,
) -> None:
    """Serve an application with uvicorn on our loop.

    All options but those below are uvicorn's, and are passed on: see uvicorn --help.

    Example: hybridexec serve --report --workers 2 app:app
    """
    given = _given(context)
    if any(word == "--loop" or word.startswith("--loop=") for word in arguments or ()):
        raise typer.BadParameter("--loop: the loop is ours here; how it behaves is said by --mode and --engine")
    context.obj.append(functools.partial(_serve, tuple(arguments or ()), given, report))


def _serve(arguments: tuple[str, ...], given: dict[str, Any], report: bool) -> None:
    from . import serving

    _pass_on(given)
    if report:
        _reporting().expect()
    serving.run(arguments)


@app.command(short_help="Try whether loops can move here.")
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Show it for programs.")] = False,
) -> None:
    """Look whether this interpreter, with these packages and this environment, can run loops that move, and try it.

    The exit status is 1 if it cannot.
    """
    context.obj.append(functools.partial(_doctor, as_json))


def _doctor(as_json: bool) -> None:
    try:
        from . import doctor

        doctor.run(as_json=as_json)
    except ModuleNotFoundError as exc:
        raise lacking(exc) from None
    except (ImportError, MemoryError, OSError) as exc:  # what there is too little of may be what that needs
        raise SystemExit(f"hybridexec: doctor cannot run: {explained(exc)}") from None


def _seconds(value: float) -> float:
    if not math.isfinite(value) or not 0.2 <= value <= 600:
        raise typer.BadParameter(f"{value}: allowed are seconds from 0.2 to 600")
    return value


@app.command(short_help="Load a blocking service on both loops.")
def demo(
    context: typer.Context,
    seconds: Annotated[
        float, typer.Option(callback=_seconds, metavar="SECONDS", help="How long each of the two loops is loaded.")
    ] = 4.0,
    connections: Annotated[int, typer.Option(min=1, max=256, help="How many clients load it at a time.")] = 32,
) -> None:
    """Load a service whose handlers block, on the default loop and on ours, and show the two side by side."""
    context.obj.append(functools.partial(_demo, seconds, connections))


def _demo(seconds: float, connections: int) -> None:
    try:
        from . import demo
    except ModuleNotFoundError as exc:
        raise lacking(exc) from None
    demo.run(seconds, connections)
