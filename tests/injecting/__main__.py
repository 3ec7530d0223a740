"""Raises once in each statement of the package, in a process for each, and tells what became of the scene there.

    python -m tests.injecting [--engine E ...] [--most N] [--seed N] [--entries] [--limit SECONDS] [--only TEXT]

Of every statement that the scene passes, and every kind of thread that passes it, a trial: the exception comes up at
the first pass, or at one chosen at random.  The scene's own threads ("other") are left out: it waits for them itself.
So are statements of which nothing can be expected: see ``BEYOND`` and ``ASYNCIOS``.
Exit status 1 if a trial hangs, crashes, or leaves a process in which a loop cannot be run any more.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import faulthandler
import json
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from . import hook

hook.install()

import hybridexec  # noqa: E402
import hybridexec.engines.native  # noqa: E402
import hybridexec.engines.selector  # noqa: E402
import hybridexec.engines.uv  # noqa: E402
from hybridexec import detector  # noqa: E402
from hybridexec.loop import forking  # noqa: E402

from .scene import Scene  # noqa: E402

ERRORS = MemoryError, RecursionError, RuntimeError
KINDS = "home", "spare", "sampler"
BEYOND = {callback.__qualname__ for callback in detector._callbacks().values()}
"""Callbacks of ``sys.monitoring``, whose first statement is a ``try``.  What comes up before it no code of theirs can
catch, and it takes the place of the call that the event is of.  (docs/reliability.md)"""

ASYNCIOS = "call_soon", "call_soon_threadsafe", "Step.__init__"
"""Functions of asyncio's, in which a failure costs a callback that asyncio has counted on: its own loops wait for that
for ever, too."""

AT_ONCE = 4
"""Processes; most of what a scene does is wait."""


class Trial(NamedTuple):
    """Where something raises; ``site`` None: nowhere, the passes are counted.

    Attributes:
        engine: the loop's engine.
        site: the number of the statement.
        kind: on which kind of thread.
        at: at the how-manieth pass.
        error: what is raised.
    """

    engine: Any
    site: int | None = None
    kind: str = ""
    at: int = 1
    error: type[BaseException] = MemoryError

    def __str__(self) -> str:
        where = "nowhere" if self.site is None else str(hook.probes.sites[self.site])
        return f"{self.engine}, {self.kind}: {self.error.__name__} at pass {self.at} of {where}"


# -------------------------------------------------------------------- in the process of a trial


def child(trial: Trial, limit: float) -> dict[str, Any]:
    """Run the scene, with the exception; then another loop, and see what is left."""
    print(trial, flush=True)
    faulthandler.dump_traceback_later(limit, exit=True)
    threading.Thread(target=_describe, args=(limit * 0.9,), name="describer", daemon=True).start()
    if trial.site is None:
        hook.probes.count()
    else:
        hook.probes.arm(trial.site, trial.kind, trial.at, trial.error)
    scene = Scene()
    outcome: dict[str, Any] = {}
    try:
        with asyncio.Runner(loop_factory=lambda: hybridexec.new_event_loop(engine=trial.engine, threshold=0.002)) as it:
            results = it.run(scene.main())
        failed = [name for name, result in results.items() if isinstance(result, BaseException)]
        for name in failed:
            print(f"{name}: {results[name]!r}")
        outcome["ended"] = f"in {len(failed)} tasks" if failed else "right"
    except BaseException as exc:
        traceback.print_exc()
        outcome["ended"] = f"run raised {type(exc).__name__}"
    outcome["raised"] = hook.probes.raised
    outcome["passes"] = [[site, kind, count] for (site, kind), count in hook.probes.passes.items()]
    hook.probes.disarm()
    hybridexec.run(_another(), engine=trial.engine)
    return outcome


def _describe(after: float) -> None:
    """Print where the loops stand, shortly before the trial is ended for hanging."""
    time.sleep(after)
    for loop in list(forking._loops):
        record = vars(loop._carrying)
        print({name: str(value) for name, value in record.items()}, flush=True)
        for lwp in list(loop._carrying.lwps):
            about = lwp.handle, lwp.watch.call, lwp.watch.trap, lwp.region, lwp.bound_steps
            print(lwp, *map(str, about), flush=True)


async def _another() -> None:
    """A loop in the same process afterwards: its first task is released by its second."""
    lock = threading.Lock()
    lock.acquire()

    async def wants() -> None:
        lock.acquire()

    async def releases() -> None:
        lock.release()

    await asyncio.gather(wants(), releases())


# -------------------------------------------------------------------- all trials


def play(trials: list[Trial], folder: Path, limit: float) -> list[tuple[Trial, dict[str, Any], Path]]:
    """Play trials, some at a time.  Returns what became of each, and where its output is."""
    waiting = list(enumerate(trials))
    running: dict[int, tuple[Trial, Path]] = {}
    done: list[tuple[Trial, dict[str, Any], Path]] = []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, trial = waiting.pop(0)
            path = folder / f"{number}.log"
            pid = os.fork()
            if not pid:
                _be_child(trial, path, limit)
            running[pid] = trial, path
        pid, status = os.waitpid(-1, 0)
        trial, path = running.pop(pid)
        done.append((trial, _outcome(path, status), path))
    return done


def _be_child(trial: Trial, path: Path, limit: float) -> None:
    code = 3
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        outcome = child(trial, limit)
        os.write(1, f"\nOUTCOME {json.dumps(outcome)}\n".encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _outcome(path: Path, status: int) -> dict[str, Any]:
    text = path.read_text(errors="replace")
    for line in text.splitlines():
        if line.startswith("OUTCOME "):
            outcome: dict[str, Any] = json.loads(line.removeprefix("OUTCOME "))
            return outcome
    if "Timeout (" in text:
        return {"ended": "HANGS", "raised": True}
    return {"ended": f"CRASHES, status {os.waitstatus_to_exitcode(status)}", "raised": True}


def trials_of(engine: str, folder: Path, chance: random.Random, arguments: argparse.Namespace) -> list[Trial]:
    """What there is to try: the statements that all of three runs have passed."""
    folder.mkdir()
    fewest: dict[tuple[int, str], list[int]] = collections.defaultdict(list)
    for _, outcome, path in play([Trial(engine)] * 3, folder, arguments.limit):
        assert outcome["ended"] == "right", f"{outcome['ended']}: {path}"
        for site, kind, count in outcome["passes"]:
            fewest[site, kind].append(count)
    trials = []
    for (site, kind), counts in sorted(fewest.items()):
        where = hook.probes.sites[site]
        if kind not in KINDS or len(counts) < 3 or (arguments.entries and not where.entry):
            continue
        if (where.entry and where.function in BEYOND) or where.function.endswith(ASYNCIOS):
            continue
        if arguments.only in str(where):
            at = chance.choice([1, chance.randint(1, max(1, min(counts) * 3 // 4))])
            trials.append(Trial(engine, site, kind, at, chance.choice(ERRORS)))
    return trials


def main() -> int:
    """Try, and tell."""
    parser = argparse.ArgumentParser(description="Raise once in each statement of the package.")
    parser.add_argument("--engine", action="append", choices=("native", "selector", "uvloop"))
    parser.add_argument("--most", type=int, default=sys.maxsize, help="so many trials of each engine")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--entries", action="store_true", help="first statements of functions only")
    parser.add_argument("--only", default="", help="only where the place has this text in it")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds after which a trial hangs")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="injecting-"))
    trials: list[Trial] = []
    for engine in arguments.engine or ["native", "uvloop"]:
        found = trials_of(engine, folder / f"counted-{engine}", chance, arguments)
        trials += chance.sample(found, min(arguments.most, len(found)))
    print(f"{len(hook.probes.sites)} statements, {len(trials)} trials, seed {arguments.seed}", flush=True)
    began = time.monotonic()
    played = play(trials, folder, arguments.limit)
    sums: collections.Counter[tuple[str, str, str]] = collections.Counter()
    wrong = 0
    for trial, outcome, path in played:
        bad = outcome["ended"].isupper() or outcome["ended"].startswith("CRASHES")
        sums[trial.engine, trial.kind, outcome["ended"] if outcome["raised"] else "not reached"] += 1
        if bad:
            wrong += 1
            print(f"{outcome['ended']}: {trial}\n  {path}")
    for (engine, kind, ended), count in sorted(sums.items()):
        print(f"{engine:9} {kind:8} {ended:28} {count:5}")
    print(f"{len(played)} trials in {time.monotonic() - began:.0f} s, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
