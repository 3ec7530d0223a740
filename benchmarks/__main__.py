"""``python -m benchmarks``: measure, and print each figure beside its bar."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import hybridexec

from . import bridging, costs, echo, executor, serving, ticker
from .results import Benchmark, Row, listing, table

GROUPS: dict[str, dict[str, Benchmark]] = {
    "ticker": ticker.BENCHMARKS,
    "serving": serving.BENCHMARKS,
    "echoing": echo.BENCHMARKS,
    "costs": costs.BENCHMARKS,
    "bridging": bridging.BENCHMARKS,
    "executor": executor.BENCHMARKS,
}
PARTS = ("anyio", "httptools", "uvicorn", "uvloop")


def chosen(only: list[str]) -> dict[str, Benchmark]:
    """The benchmarks of these names or groups; all, if there are none."""
    every = {name: benchmark for benchmarks in GROUPS.values() for name, benchmark in benchmarks.items()}
    unknown = sorted(set(only) - every.keys() - GROUPS.keys())
    if unknown:
        known = ", ".join([*GROUPS, *every])
        raise typer.BadParameter(f"{', '.join(unknown)}: not one of {known}", param_hint="--only")
    wanted = {name for part in only for name in GROUPS.get(part, [part])}
    return {name: benchmark for name, benchmark in every.items() if not only or name in wanted}


def machine() -> dict[str, Any]:
    """What the figures depend on.  The load is that before the measurement: other programs', that is."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {"hybridexec": hybridexec.__version__, **{name: version(name) for name in PARTS}},
    }


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter, to see that all works: the figures mean nothing.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this benchmark or group of them; may be given several times.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None,
    tell: Annotated[bool, typer.Option("--list", help="Say which benchmarks there are, and measure nothing.")] = False,
) -> None:
    """Measure hybridexec against its peers."""
    out, progress = (Console(stderr=stderr, width=None if os.isatty(1) else 200) for stderr in (False, True))
    if tell:
        out.print(listing(GROUPS))
        return
    if to is not None:  # before minutes are spent on what could not be written
        try:
            to.open("a").close()
        except OSError as exc:
            raise typer.BadParameter(f"--json: {to} cannot be written: {exc.strerror}") from None
    facts = machine()
    rows: list[Row] = []
    for name, benchmark in chosen(only or []).items():
        # Not a moving display: that would be a thread beside what is measured.
        progress.print(f"{name}: {(benchmark.__doc__ or '').splitlines()[0]}", style="dim")
        rows.extend(benchmark(quick))
    out.print(table(rows))
    if to is not None:
        figures = [row.as_json() for row in rows]
        to.write_text(json.dumps({"machine": facts, "quick": quick, "rows": figures}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
