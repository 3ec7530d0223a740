"""One run of the torture, in a process of its own: one or two loops, each with its tasks, and what adds up at the end.

``python torture_run.py SEED TASKS LIMIT``.  A run that has not ended after LIMIT seconds shows who carries the loop,
what each LWP does, and all stacks; then the process ends with status 3.
"""

from __future__ import annotations

import asyncio
import collections
import faulthandler
import functools
import gc
import logging
import os
import random
import signal
import sys
import threading
from collections import Counter
from time import monotonic
from typing import Any

import hybridexec
from hybridexec import Detection, HybridLoop, Upcall
from hybridexec.detector.sampler import sampler

from .shared import BROKEN, Broken, Plan, Shared
from .tasks import Worker

HUNG = 3
"""The exit status of a run that did not end."""


class Watcher(hybridexec.Instrument):
    """Each block that begins has to end, in this order."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.lock = threading.Lock()
        self.recent: collections.deque[Upcall] = collections.deque(maxlen=100)
        self.open: Counter[str] = Counter()
        RECENT.append(self.recent)

    def blocked(self, upcall: Upcall) -> None:
        """One more is open."""
        site = upcall.site.function if upcall.site else ""
        if site != "Worker.is_pinned":  # such a block is told of, but the loop stays
            self.shared.surprised(upcall.task, site)
        with self.lock:
            if not BROKEN:
                self.recent.append(upcall)
            self.open[upcall.thread] += 1

    def unblocked(self, upcall: Upcall) -> None:
        """One less."""
        if upcall.detection is Detection.HELD_GIL:
            return  # noticed afterwards only
        with self.lock:
            self.open[upcall.thread] -= 1
            if self.open[upcall.thread] < 0:
                BROKEN.append(f"the end of a block came before its beginning: {upcall}")


async def torture(shared: Shared) -> None:
    """All tasks of one loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HybridLoop)
    shared.loop = loop
    loop.slow_callback_duration = 60
    loop.set_exception_handler(lambda _, context: BROKEN.append(f"the exception handler was called: {context}"))
    workers = [Worker(shared, f"{shared.plan.name}/{n}") for n in range(shared.plan.tasks)]
    tasks = [asyncio.create_task(worker.run(worker.rng.randrange(8)), name=worker.name) for worker in workers]
    if await asyncio.gather(*tasks) != [worker.name for worker in workers]:
        raise Broken("tasks returned something else")
    me = asyncio.current_task()
    while others := [task for task in asyncio.all_tasks() if task is not me]:  # whose parents were cancelled
        await asyncio.wait(others)
    while shared.called < shared.callbacks:
        await asyncio.sleep(0.001)
    for thread in shared.foreign:
        thread.join()


def run(plan: Plan) -> None:
    """One loop, from beginning to end."""
    shared = Shared(plan)
    watcher = Watcher(shared)
    factory = functools.partial(hybridexec.new_event_loop, instruments=[watcher], **plan.config)
    with asyncio.Runner(debug=plan.debug, loop_factory=factory) as runner:
        LOOPS.append(loop := runner.get_loop())
        runner.run(torture(shared))
    assert isinstance(loop, HybridLoop)
    stats = loop.stats()
    sums = {
        "tasks begun and ended": (shared.begun, shared.ended),
        "sections": (shared.counter if not shared.surprises else shared.sections, shared.sections),
        "items of the queue": (shared.put, shared.got + shared.queue.qsize()),
        "callbacks": (shared.callbacks, shared.called),
        "LWPs left": (stats.lwps_alive, 0),
        "blocked LWPs": (stats.lwps_blocked, 0),
        "open blocks": ({name: count for name, count in watcher.open.items() if count}, {}),
        "still running": (shared.running, set()),
    }
    if shared.surprises:
        print(f"{plan.name}: {shared.surprises} false alarms", flush=True)
    BROKEN.extend(f"{what}: {one} is not {other}" for what, (one, other) in sums.items() if one != other)
    if not stats.handoffs:
        BROKEN.append("nothing was handed off")


def tell() -> None:
    """Print what was found; and the last blocks until then, one of which may have been none."""
    for what in BROKEN:
        print(f"BROKEN: {what}")
    for recent in RECENT if BROKEN else ():
        for upcall in recent:
            print(f"  {upcall.task} has blocked in {upcall.callable} at {upcall.site} ({upcall.detection})")
    sys.stdout.flush()


RECENT: list[collections.deque[Upcall]] = []
LOOPS: list[asyncio.AbstractEventLoop] = []
"""The loops of this run, for the watchdog."""


def main(seed: int, tasks: int, limit: float) -> int:
    """One run.  Returns the exit status of the process."""
    threading.Thread(target=watch, args=(limit,), daemon=True).start()
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("hybridexec").setLevel(logging.ERROR)  # exhaustion is part of some plans
    rng = random.Random(seed)
    plans = [Plan.of(f"{seed}-{n}", max(tasks // 2, 1)) for n in range(2)]
    if rng.random() < 0.7:
        plans = [Plan.of(f"{seed}", tasks)]
    in_main = plans[-1] if rng.random() < 0.7 else None  # whose home is the main thread
    for plan in plans:
        print(f"{plan}{' in the main thread' if plan is in_main else ''}", flush=True)
    sys.setswitchinterval(rng.choice([1e-5, 1e-5, 1e-4, 5e-3]))
    gc.set_threshold(rng.choice([50, 700]))
    threads = [threading.Thread(target=guarded, args=(plan,)) for plan in plans if plan is not in_main]
    for thread in threads:
        thread.start()
    if in_main is not None:
        if in_main.signals:
            signal.signal(signal.SIGALRM, lambda number, frame: None)
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)  # a call that is interrupted still lasts for the threshold
        guarded(in_main)
        signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in threads:
        thread.join()
    gc.collect()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("hybridexec-")]
    if left:
        BROKEN.append(f"threads are left: {left}")
    tell()
    return 1 if BROKEN else 0


def guarded(plan: Plan) -> None:
    """One loop; whatever it raises counts as broken."""
    try:
        run(plan)
    except BaseException as exc:
        logging.getLogger(__name__).critical("run() raised", exc_info=exc)
        BROKEN.append(f"run() raised {exc!r}")


# ---------------------------------------------------------------- the watchdog


def watch(limit: float) -> None:
    """Wait; if the process is still there, show why and end it.  What is broken may not come to an end."""
    faulthandler.dump_traceback_later(limit + 10, exit=True)  # in case not even this can run
    deadline = monotonic() + limit
    while (now := monotonic()) < deadline:
        threading.Event().wait(0.5)
        if BROKEN:
            deadline = min(deadline, now + 5)
    print("HUNG", flush=True)
    for loop in LOOPS:
        for line in describe(loop):
            print(line, flush=True)
    tell()
    faulthandler.dump_traceback(sys.stdout.fileno(), all_threads=True)
    os._exit(HUNG)


def describe(loop: Any) -> list[str]:
    """What a loop waits for, read without its mutex: who holds that may be the one that hangs."""
    carrying = loop._carrying
    lines = [
        f"{loop!r}: {carrying.state}, rest={carrying.unheld}, mutex={carrying.mutex!r}, "
        f"due={carrying.due}, mailed={carrying.mailed}, exhausted={carrying.exhausted}",
        f"  holder={carrying.holder} last={carrying.last} home={carrying.home} waking={carrying.waking}",
        f"  pollers={[(lwp, lwp.deadline - loop.time()) for lwp in carrying.pollers]} parked={carrying.parked}",
        f"  returning={list(carrying.returning)} preempted={list(carrying.preempted)}",
        f"  ready={len(loop._ready)} timer in {loop.next_timer() - loop.time():.3f} s, stopping={loop._stopping}",
        f"  deferred={loop._carrying.deferred} bound={loop._reactions.affinity.bound}",
    ]
    lines += [
        f"  {lwp} detached={lwp in carrying.detached} call={lwp.watch.call and lwp.watch.call.site.describe()} "
        f"trap={lwp.watch.trap} region={lwp.region} bound={lwp.bound_steps} interrupt={lwp.interrupt!r} "
        f"slow_exit={lwp.slow_exit} handle={lwp.handle!r}"
        for lwp in sorted(carrying.lwps, key=lambda lwp: lwp.name)
    ]
    lines.append(f"  sampler: {vars(sampler)}")
    return lines + [f"  {task.get_name()} waits: {' < '.join(waits(task))}" for task in asyncio.all_tasks(loop)]


def waits(task: asyncio.Task[Any]) -> list[str]:
    """What a task waits for, from the outermost coroutine on."""
    found = []
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        found.append(f"{frame.f_code.co_name}:{frame.f_lineno}" if frame else repr(coroutine))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
