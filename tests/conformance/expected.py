"""Expected: the tests that are known to fail, each with its reason; ``docs/conformance.md`` is made from them."""

from __future__ import annotations

import dataclasses
import enum
import tomllib
from pathlib import Path
from typing import Any

ENGINES = ("native", "selector", "uvloop")
TABLES = {"selector": "Engines native and selector", "uvloop": "Engine uvloop"}
"""The tables, and whose they are: the native engine is the selector engine, compiled in part."""

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
BEGIN, END = "<!-- made by `python -m tests.conformance --write` -->", "<!-- the end of what is made -->"


class Kind(enum.Enum):
    """What makes a test fail.  There is none for a difference in what this package does: that is mended."""

    PRIVATE = "private"  # the test calls, replaces or looks at what is private to asyncio's own loop
    SWITCH = "a blocking call is a switch point"  # the one exception of rule 2; on a fast machine the test may pass
    HANGS = "it waits in vain on plain uvloop, too"  # so it is not given much time
    RACE = "it fails on plain uvloop, too, now and then"  # uvloop's own race, which may end either way


MAY_PASS = (Kind.SWITCH, Kind.RACE)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Some tests that fail for one reason.

    Attributes:
        tests: their names without the module's, maybe with ``*``.
        kind: what makes them fail.
        reason: in words.
        pythons: the versions on which they fail ("3.13"); empty if on all that have the test.
    """

    module: str
    tests: tuple[str, ...]
    kind: Kind
    reason: str
    pythons: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The tests with the module's name before theirs."""
        return [f"{self.module}.{pattern}" for pattern in self.tests]

    def is_of(self, python: str) -> bool:
        """Whether they fail on a version."""
        return not self.pythons or python in self.pythons


def entries(engine: str) -> list[Entry]:
    """An engine's table.

    Raises:
        ValueError: an entry is not as it has to be.
    """
    table = Path(__file__).with_name(f"{engine if engine in TABLES else 'selector'}.toml")
    return [_entry(raw, table) for raw in tomllib.loads(table.read_text()).get("failure", [])]


def _entry(raw: dict[str, Any], table: Path) -> Entry:
    fields = {field.name for field in dataclasses.fields(Entry)}
    if not fields - {"pythons"} <= raw.keys() <= fields or not raw["tests"] or not raw["reason"]:
        raise ValueError(f"{table.name}: an entry has to have {sorted(fields)}, pythons alone may be left out: {raw}")
    return Entry(raw["module"], tuple(raw["tests"]), Kind(raw["kind"]), raw["reason"], tuple(raw.get("pythons", ())))


def page() -> str:
    """What ``docs/conformance.md`` has to say: the text that is written by hand, and the tables."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{_tables()}\n{END}{rest.split(END)[1]}"


def _tables() -> str:
    made = []
    for engine, title in TABLES.items():
        made.append(f"### {title}\n")
        found = entries(engine)
        if not found:
            made.append("None.\n")
            continue
        made += ["| tests | why they fail |", "|---|---|"]
        for entry in found:
            names = ", ".join(f"`{name}`" for name in entry.names)
            where = f" (on {', '.join(entry.pythons)})" if entry.pythons else ""
            made.append(f"| {names}{where} | {entry.kind.value}: {entry.reason} |".replace("*`", "*`"))
        made.append("")
    return "\n".join(made)
