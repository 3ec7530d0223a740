"""The protocol, explored: ``hybridexec/protocol/`` itself, in many schedules of small scenes.  (docs/protocol.md)"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from exploring import Exhaustive, Failed, Fault, Grain, Machine, Pct, explore, explore_alike, pct
from helpers import COPIES_STACKS
from instrumented import Mutation, Protocol
from protocol_scenes import WORK, Loop, Wait

from hybridexec import _core
from hybridexec.observing.upcalls import UpcallKind

pytestmark = COPIES_STACKS

Make = Callable[..., Loop]
Scene = Callable[[Make], None]
SCENES: dict[Scene, int] = {}
PLAYS: list[Any] = []


RANDOM = -1
"""Of a scene with too many schedules for the gate, even without a preemption, that plays random ones alone."""


def scene(preemptions: int, *, kept_polls: bool = True) -> Callable[[Scene], Scene]:
    """A scene, how many preemptions the gate can afford (the hunt does with 2 in all; or ``RANDOM``), and whether it is
    for engines that cannot be claimed, too."""

    def decorated(function: Scene) -> Scene:
        SCENES[function] = preemptions
        for claimable in (True, False) if kept_polls else (True,):
            name = f"{function.__name__}-{'claimed' if claimable else 'kept'} polls"
            PLAYS.append(pytest.param(function, claimable, id=name))
        return function

    return decorated


@scene(2)
def one_blocks(loop: Make) -> None:
    """A step blocks and returns, while another LWP polls or is on its way to that."""
    it = loop(max_lwps=2)
    done = it.event()
    it.step("blocks", lambda lwp: it.block(lwp, done))

    def outside() -> None:
        it.release(done)

    it.play(outside)


@scene(2)
def one_blocks_and_another_ends_it(loop: Make) -> None:
    """What ends the block is a step of the same loop."""
    it = loop(max_lwps=2)
    done = it.event()
    it.step("blocks", lambda lwp: it.block(lwp, done))
    it.step("ends it", lambda lwp: it.release(done))
    it.play()


def chain(it: Loop, steps: int, seconds: float = WORK) -> Callable[[Any], None]:
    """A step that computes, and makes the next one ready."""

    def computes(lwp: Any) -> None:
        it.work(f"chain {steps}", seconds)
        if steps:
            it.step(f"chain {steps - 1}", chain(it, steps - 1, seconds))

    return computes


@scene(2)
def one_is_suspended_and_another_hands_it_the_loop(loop: Make) -> None:
    """``block_on``: what ends the wait is a step of the same loop."""
    it = loop(max_lwps=2)
    wait = Wait()
    it.step("waits", lambda lwp: it.suspend(lwp, wait))
    it.step("hands it on", lambda lwp: it.hand(lwp, wait))
    it.step("comes behind", lambda lwp: None)
    it.play()


@scene(0)
def suspended_steps_are_no_blocks(loop: Make) -> None:
    """Two wait for one another, and one blocks, with two LWPs that may block."""
    it = loop(max_lwps=2)
    first, second, done = Wait(), Wait(), it.event()

    def waits_first(lwp: Any) -> None:
        it.suspend(lwp, first)
        it.hand(lwp, second)

    it.step("first", waits_first)
    it.step("second", lambda lwp: it.suspend(lwp, second))
    it.step("blocks", lambda lwp: it.block(lwp, done))

    def hands(lwp: Any) -> None:
        it.hand(lwp, first)
        it.release(done)

    it.step("hands on", hands)
    it.play()


@scene(RANDOM)
def a_suspended_home_is_wanted(loop: Make) -> None:
    """A spare asks the home for help, and a signal comes, while the home's step is suspended."""
    it = loop(max_lwps=3)
    wait = Wait()

    def asks(lwp: Any) -> None:
        it.ask_home(lwp)
        it.hand(lwp, wait)

    it.step("waits", lambda lwp: it.suspend(lwp, wait))
    it.step("asks", asks)

    def outside() -> None:
        it.strike("handler")

    it.play(outside)


@scene(1)
def work_comes_as_a_step_returns(loop: Make) -> None:
    """A poll ends in the moment in which a call is over."""
    it = loop(max_lwps=2)
    done = it.event()
    it.step("blocks", lambda lwp: it.block(lwp, done))

    def outside() -> None:
        it.release(done)

    def another() -> None:
        it.submit("late", lambda lwp: None)

    it.play(outside, another)


@scene(0)
def two_return_at_once(loop: Make) -> None:
    """Two calls are over at once, while others compute: the bound of rule 3."""
    it = loop()
    done = it.event()
    it.step("first", lambda lwp: it.block(lwp, done))
    it.step("second", lambda lwp: it.block(lwp, done))
    it.step("ends both", lambda lwp: it.release(done))
    it.step("chain", chain(it, 5))
    it.play()


@scene(0)
def home_against_a_return(loop: Make) -> None:
    """The home's call and another one are over, one after the other, in an idle loop."""
    it = loop()
    homes, others = it.event(), it.event()
    it.step("home", lambda lwp: it.block(lwp, homes))
    it.step("other", lambda lwp: it.block(lwp, others))

    def outside() -> None:
        it.release(homes)
        it.release(others)

    it.play(outside)


def with_a_parked_spare(it: Loop, then: Callable[[], None], *, sampled: bool) -> None:
    """Have the home and one parked spare, and an idle loop; then run the rest, on a thread of its own."""
    done, back = it.event(), it.event()

    def blocks(lwp: Any) -> None:
        it.block(lwp, done)
        it.release(back)

    def outside() -> None:
        back.wait()
        it.submit("nothing", lambda lwp: None)  # ends the polls of both, and the spare parks
        then()

    it.step("blocks", blocks)
    it.step("ends it", lambda lwp: it.release(done))
    it.play(outside, sampled=sampled)


@scene(0)
def the_home_polls_while_others_compute(loop: Make) -> None:
    """Work that a hailed spare takes keeps the loop away from a home that polls: the bound of rule 4."""
    it = loop(max_lwps=2, longest=0.005)

    def then() -> None:
        it.machine.sleep(0.001)
        it.submit("chain", chain(it, 24, 0.005), hail=True)

    with_a_parked_spare(it, then, sampled=True)


@scene(0)
def a_stop_meets_a_wake(loop: Make) -> None:
    """The loop is stopped while a step returns and work comes from outside; it is run again for that."""
    it = loop(stops_by_itself=False)
    done = it.event()
    it.step("blocks", lambda lwp: it.block(lwp, done))
    it.step("stops", lambda lwp: it.stop())

    def outside() -> None:
        it.release(done)
        it.submit("late", lambda lwp: it.stop())

    it.play(outside)


@scene(2)
def a_stop_from_the_home_itself(loop: Make) -> None:
    """What stops the loop is the step that was blocked, when it is back."""
    it = loop(stops_by_itself=False, max_lwps=2)
    done = it.event()

    def blocks(lwp: Any) -> None:
        it.block(lwp, done)
        it.stop()

    it.step("blocks", blocks)
    it.step("ends it", lambda lwp: it.release(done))
    it.play()


@scene(0)
def a_close_waits(loop: Make) -> None:
    """The loop is stopped and closed while a step is blocked, which comes back meanwhile."""
    it = loop(stops_by_itself=False)
    homes, others = it.event(), it.event()

    def ends() -> None:
        it.stopped.wait()
        it.release(others)

    def stops(lwp: Any) -> None:
        it.release(homes)
        it.spawn(ends)
        it.stop()

    it.step("home", lambda lwp: it.block(lwp, homes))
    it.step("other", lambda lwp: it.block(lwp, others))
    it.step("stops", stops)
    it.play()


@scene(0)
def a_spare_retires_when_it_is_woken(loop: Make) -> None:
    """A spare's patience is over in the moment in which it is hailed, or a block needs it."""
    it = loop(max_lwps=2, spare_lwps=0, idle_timeout=0.01)
    later = it.event()

    def then() -> None:
        it.machine.sleep(0.01)
        it.submit("late", lambda lwp: it.block(lwp, later), hail=True)
        it.submit("ends that", lambda lwp: it.release(later))

    with_a_parked_spare(it, then, sampled=False)


@scene(2)
def exhaustion_and_its_end(loop: Make) -> None:
    """All LWPs are blocked, one by what only a step behind them can end; then the other one comes back."""
    it = loop(max_lwps=2)
    outsides, steps = it.event(), it.event()
    it.step("first", lambda lwp: it.block(lwp, outsides))
    it.step("second", lambda lwp: it.block(lwp, steps))
    it.step("ends it", lambda lwp: it.release(steps))

    def outside() -> None:
        it.release(outsides)

    it.play(outside)
    it.machine.check(
        it.upcalls[UpcallKind.EXHAUSTED] <= 1 + (it.machine.fault is not None), "exhaustion was told twice"
    )


@scene(2)
def a_marked_call_is_retaken(loop: Make) -> None:
    """The sampler retakes the loop from a call in the moment in which that returns."""
    it = loop(max_lwps=2)
    done = it.event()
    it.step("marks", lambda lwp: it.block(lwp, done, marked=True))
    it.step("other", lambda lwp: None)

    def retaker() -> None:
        holder = it.carrying.holder
        if holder is not None:
            it.retake(holder)

    def outside() -> None:
        it.release(done)

    it.play(retaker, outside)


@scene(0)
def a_preempted_step_and_a_return(loop: Make) -> None:
    """A step has overrun its slice; others go on, one of which comes back from a call."""
    it = loop()
    done = it.event()
    it.step("overruns", it.yield_slice)
    it.step("blocks", lambda lwp: it.block(lwp, done))
    it.step("ends it", lambda lwp: it.release(done))
    it.play()


@scene(0)
def a_spare_asks_the_home(loop: Make) -> None:
    """A step on a spare needs the home, which is just coming back from a call of its own."""
    it = loop()
    done = it.event()

    def asks(lwp: Any) -> None:
        it.release(done)
        it.ask_home(lwp)

    it.step("blocks", lambda lwp: it.block(lwp, done))
    it.step("asks", asks)
    it.play()


@scene(0)
def a_step_is_kept(loop: Make) -> None:
    """A step waits for an LWP that returns, polls, or parks."""
    it = loop()
    homes, others = it.event(), it.event()
    bound: list[Any] = []

    def binds(lwp: Any) -> None:
        bound.append(lwp)
        it.block(lwp, others)

    def outside() -> None:
        it.release(homes)
        it.release(others)
        it.submit("keeps", lambda lwp: it.keep(bound[0], "kept"))

    it.step("home", lambda lwp: it.block(lwp, homes))
    it.step("binds", binds)
    it.play(outside)


@scene(1, kept_polls=False)
def a_handler_blocks_in_an_idle_loop(loop: Make) -> None:
    """The home, alone, polls, and blocks in a signal handler that only a step can end."""
    it = loop(max_lwps=2)
    runs, done = it.event(), it.event()

    def outside() -> None:
        runs.wait()
        it.signal(done)
        it.submit("ends it", lambda lwp: it.release(done))

    it.step("begins", lambda lwp: it.release(runs))
    it.play(outside, sampled=True)


@scene(RANDOM, kept_polls=False)
def a_handler_blocks_beside_a_spare(loop: Make) -> None:
    """The home polls, or is about to be woken; meanwhile a step blocks and returns."""
    it = loop(max_lwps=3)
    done, other = it.event(), it.event()

    def then() -> None:
        it.signal(done)
        it.submit("another blocks", lambda lwp: it.block(lwp, other))
        it.submit("ends both", ends)

    def ends(lwp: Any) -> None:
        it.release(other)
        it.release(done)

    with_a_parked_spare(it, then, sampled=True)


@scene(0, kept_polls=False)
def a_handler_blocks_as_the_home_waits_with_a_step(loop: Make) -> None:
    """The home's call is over; its turn comes while it is in a handler, and others block."""
    it = loop()
    homes, done, other = it.event(), it.event(), it.event()

    def ends(lwp: Any) -> None:
        it.release(homes)
        it.signal(done)
        it.work("computes")
        it.later(0.02, "blocks", lambda lwp: it.block(lwp, other))
        it.later(0.02, "ends all", ends_all)

    def ends_all(lwp: Any) -> None:
        it.release(other)
        it.release(done)

    it.step("home", lambda lwp: it.block(lwp, homes))
    it.step("ends", ends)
    it.play(sampled=True)


@scene(0, kept_polls=False)
def a_handler_is_over_as_the_loop_stops(loop: Make) -> None:
    """The loop is stopped while the home is in a handler, which is just over."""
    it = loop(max_lwps=2, stops_by_itself=False)
    runs, done = it.event(), it.event()

    def stops(lwp: Any) -> None:
        it.release(done)
        it.stop()

    def outside() -> None:
        runs.wait()
        it.signal(done).wait()
        it.submit("stops", stops)

    it.step("begins", lambda lwp: it.release(runs))
    it.play(outside, sampled=True)


@scene(RANDOM)
def a_handler_interrupts_a_blocked_home(loop: Make) -> None:
    """A spare runs steps meanwhile, one of which ends the home's call; or the loop is free."""
    it = loop()
    homes = it.event()

    def strikes(lwp: Any) -> None:
        it.strike("handler")
        it.step("chain", chain(it, 2))

    def outside() -> None:
        it.strike("another")
        it.release(homes)

    it.step("home", lambda lwp: it.block(lwp, homes, signals=True))
    it.step("strikes", strikes)
    it.play(outside, sampled=True)


@scene(RANDOM)
def a_handler_interrupts_a_home_that_waits_for_its_turn(loop: Make) -> None:
    """The home's call is over, and others compute, or return, too."""
    it = loop()
    homes, others = it.event(), it.event()

    def ends(lwp: Any) -> None:
        it.release(homes)
        it.strike("handler")
        it.release(others)
        it.work("computes")
        it.lend(lwp)
        it.step("chain", chain(it, 2))

    it.step("home", lambda lwp: it.block(lwp, homes, signals=True))
    it.step("other", lambda lwp: it.block(lwp, others))
    it.step("ends", ends)
    it.play(sampled=True)


@scene(0)
def a_handler_interrupts_a_home_without_a_step(loop: Make) -> None:
    """It polls, is parked, or on its way to either, while a spare runs steps."""
    it = loop(max_lwps=2)

    def then() -> None:
        it.submit("chain", chain(it, 1), hail=True)
        it.strike("handler")

    with_a_parked_spare(it, then, sampled=True)


@scene(RANDOM)
def a_handler_comes_anywhere(loop: Make) -> None:
    """The home is half way in the protocol: about to leave, to wake another, to poll, or to return."""
    it = loop()
    homes, others = it.event(), it.event()

    def home(lwp: Any) -> None:
        it.strike("handler", anywhere=True)
        it.block(lwp, homes, signals=True)
        it.strike("another", anywhere=True)

    it.step("home", home)
    it.step("other", lambda lwp: it.block(lwp, others))
    it.step("ends the home's", lambda lwp: it.release(homes))
    it.step("ends the other's", lambda lwp: it.release(others))
    it.step("chain", chain(it, 2))
    it.play(sampled=True)


@scene(0)
def a_step_lends_the_loop(loop: Make) -> None:
    """A step computes for long while a handler waits for the loop, and others are ready: it goes on before them."""
    it = loop()
    homes = it.event()

    def computes(lwp: Any) -> None:
        it.strike("handler")
        for part in range(4):
            it.work(f"part {part}")
            it.lend(lwp)
        it.release(homes)

    it.step("home", lambda lwp: it.block(lwp, homes, signals=True))
    it.step("computes", computes)
    it.step("ready", lambda lwp: None)
    it.play(sampled=True)


@scene(RANDOM)
def a_handler_that_blocks_lets_others_go_on(loop: Make) -> None:
    """It is called in a blocked step, or as a step; only a step of the loop ends its block."""
    it = loop()
    homes, first, second = it.event(), it.event(), it.event()
    it.step("home", lambda lwp: it.block(lwp, homes, signals=True))

    def ends(lwp: Any) -> None:
        it.release(homes)
        it.strike("second", second)
        it.later(0.01, "ends the second", lambda lwp: it.release(second))

    def outside() -> None:
        it.strike("first", first)
        it.submit("ends the first", lambda lwp: it.release(first))
        it.submit("ends the home's", ends)

    it.play(outside, sampled=True)


@scene(0)
def a_loop_stops_as_a_handler_waits(loop: Make) -> None:
    """It is called before the run is over, or in the next one."""
    it = loop(stops_by_itself=False)
    homes = it.event()

    def stops(lwp: Any) -> None:
        it.strike("handler")
        it.stop()
        it.release(homes)

    it.step("home", lambda lwp: it.block(lwp, homes, signals=True))
    it.step("stops", stops)
    it.play(sampled=True)


# -------------------------------------------------------------------- the shares


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    return Protocol()


def played(scene: Scene, protocol: Protocol, claimable: bool) -> Callable[[Machine], None]:
    return lambda machine: scene(functools.partial(Loop, protocol, machine, claimable=claimable))


@pytest.fixture(scope="module")
def cores(protocol: Protocol) -> list[Protocol]:
    """The protocol in Python, and with the compiled moves."""
    return [protocol] if _core.compiled is None else [protocol, Protocol(compiled=True)]


@pytest.mark.parametrize(("scene", "claimable"), PLAYS)
def test_every_schedule_of_a_scene_with_few_preemptions(scene: Scene, cores: list[Protocol], claimable: bool) -> None:
    """The gate's share, on which both cores tell the same story; and a few random schedules with switches anywhere."""
    plays = [played(scene, protocol, claimable) for protocol in cores]
    if SCENES[scene] == RANDOM:
        explore_alike(plays, lambda: pct(range(200)), Grain.SYNC)
    else:
        explore_alike(plays, lambda: Exhaustive(SCENES[scene]), Grain.SYNC)
    explore(plays[0], pct(range(40)), Grain.ALL)


FOUND = [
    (two_return_at_once, True, Grain.ALL, Pct(1059680085, 3, 350)),  # who has the mutex does not run for long
    (two_return_at_once, True, Grain.ALL, Pct(551445651, 3, 403)),
]
"""What the hunt has found: each schedule once failed."""


@pytest.mark.parametrize(("scene", "claimable", "grain", "strategy"), FOUND)
def test_what_the_hunt_has_found(
    scene: Scene, claimable: bool, grain: Grain, strategy: Pct, protocol: Protocol
) -> None:
    explore(played(scene, protocol, claimable), iter([strategy]), grain)


@pytest.mark.hunt
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("scene", "claimable"), PLAYS)
def test_every_schedule_with_two_preemptions_and_many_random_ones(
    scene: Scene, cores: list[Protocol], claimable: bool
) -> None:
    """The hunt's share."""
    plays = [played(scene, protocol, claimable) for protocol in cores]
    explore_alike(plays, lambda: Exhaustive(2), Grain.SYNC)
    seeds = range(seed := random.randrange(1 << 30), seed + 3000)
    explore_alike(plays, lambda: pct(seeds), Grain.SYNC)
    for grain in Grain.READS, Grain.ALL:
        explore(plays[0], pct(seeds), grain)


# -------------------------------------------------------------------- exceptions in the middle of it

KINDS = ("main", "hybridexec-lwp-", "sampler")


def with_faults(scene: Scene, protocol: Protocol, claimable: bool, seeds: range, most: int) -> None:
    """Play a scene with an exception at each access, or at ``most`` of them: nobody may wait for ever after it."""
    for seed in seeds:
        for kind in KINDS:
            counted = Fault(kind, 0)
            play = functools.partial(played_sampled, scene, protocol, claimable)
            explore(play, iter([Pct(seed, 3, 300)]), Grain.SYNC, counted)
            chosen = random.Random(seed).sample(range(counted.accesses), min(most, counted.accesses))
            for at in sorted(chosen):
                explore(play, iter([Pct(seed, 3, 300)]), Grain.SYNC, Fault(kind, at + 1))


def played_sampled(scene: Scene, protocol: Protocol, claimable: bool, machine: Machine) -> None:
    scene(lambda **options: Sampled(protocol, machine, claimable=claimable, **options))


class Sampled(Loop):
    """A loop that a sampler looks at in each scene, and where no bound holds: a repair takes its time."""

    def play(self, *others: Callable[[], None], sampled: bool = False) -> None:
        self._bounds = math.inf, math.inf
        super().play(*others, sampled=True)


@pytest.mark.parametrize(("scene", "claimable"), PLAYS)
def test_an_exception_anywhere_in_the_protocol_leaves_nobody_waiting(
    scene: Scene, cores: list[Protocol], claimable: bool
) -> None:
    """On the home, a spare, the sampler: each step is run once all the same, and every LWP ends."""
    for protocol, most in zip(cores, (40, 15), strict=False):
        with_faults(scene, protocol, claimable, range(1), most)


@pytest.mark.hunt
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("scene", "claimable"), PLAYS)
def test_an_exception_at_each_access_leaves_nobody_waiting(
    scene: Scene, cores: list[Protocol], claimable: bool
) -> None:
    """The hunt's share."""
    seed = random.randrange(1 << 30)
    for protocol in cores:
        with_faults(scene, protocol, claimable, range(seed, seed + 10), 1000)


# -------------------------------------------------------------------- what has to be found


@dataclasses.dataclass(frozen=True)
class Sought:
    """A mutation, and the scene that finds it."""

    mutation: Mutation
    scene: Scene
    claimable: bool = True


MUTATIONS = [
    Sought(
        Mutation("a wait that never ends", "hand", "carrying.queue_as_returning(lwp, -math.inf)", "pass"),
        one_is_suspended_and_another_hands_it_the_loop,
    ),
    Sought(
        Mutation("a ring that was heard already", "suspend", "lwp.wake()", "pass"),
        one_is_suspended_and_another_hands_it_the_loop,
    ),
    Sought(
        Mutation("waits that count as blocks", "_new", "- len(self.awaiting)", ""),
        suspended_steps_are_no_blocks,
    ),
    Sought(Mutation("a forgotten wake-up", "leave", "self.send(successor)", "pass"), one_blocks_and_another_ends_it),
    Sought(
        Mutation("a claim without the lock", "claim", "with record.mutex:", "if True:"), work_comes_as_a_step_returns
    ),
    Sought(
        Mutation(
            "a spare that retires too early", "_obtain", "self.unqueue(lwp)\n                        break", "break"
        ),
        a_spare_retires_when_it_is_woken,
    ),
    Sought(
        Mutation("a return that nobody hears of", "queue_as_returning", "self.expect(since + RETURN_BOUND)", "pass"),
        two_return_at_once,
    ),
    Sought(
        Mutation("a holder that polls and is not poked", "poke_holder", "Action.BREAK_POLL if", "None if"),
        one_blocks,
        False,
    ),
    Sought(
        Mutation("a home whose wait begins anew", "due_lwp", "now - record.away_since", "now - home.since"),
        the_home_polls_while_others_compute,
    ),
    Sought(Mutation("a call that is retaken after its end", "leave", "not still()", "False"), a_marked_call_is_retaken),
    Sought(Mutation("a wake in flight for ever", "wait", "self.arrived(lwp)", "pass"), two_return_at_once),
    Sought(Mutation("an idle holder that wakes nobody", "_idle", "record.returning and", "False and"), one_blocks),
    Sought(Mutation("a close that wakes nobody", "close", "for lwp in carrying.parked", "for lwp in ()"), one_blocks),
    Sought(
        Mutation("a kept step that nobody hears of", "keep", "self.park(lwp)", "lwp.state = LwpState.PARKED"),
        a_step_is_kept,
    ),
    Sought(
        Mutation("an excused poller in whose place nobody polls", "excuse", "carrying.successor() if", "None if"),
        a_handler_blocks_in_an_idle_loop,
    ),
    Sought(
        Mutation("an excused home that is still waited for", "excuse", "carrying.arrived(home)", "pass"),
        a_handler_blocks_as_the_home_waits_with_a_step,
    ),
    Sought(
        Mutation("a home that comes back and hears nothing", "report_back", "carrying.host.turns.break_poll()", "pass"),
        a_handler_is_over_as_the_loop_stops,
    ),
    Sought(
        Mutation("a handler beside a step", "turn_of", "return Turn.BORROWED", "return Turn.HERE"),
        a_handler_interrupts_a_blocked_home,
    ),
    Sought(
        Mutation("a loop that is lent and not given back", "heed", "self.leave(home, LwpState.BLOCKED)", "return"),
        a_handler_interrupts_a_home_that_waits_for_its_turn,
    ),
    Sought(
        Mutation("a loop that is given back and nobody hears of it", "give_back", "carrying.mend()", "[]"),
        a_step_lends_the_loop,
    ),
]


@pytest.mark.parametrize("sought", MUTATIONS, ids=lambda sought: sought.mutation.name)
def test_a_defect_is_found(sought: Sought) -> None:
    """The checker sees what it is there for: each of these would hang, or break a rule, in some schedule only."""
    play = played(sought.scene, Protocol(sought.mutation), sought.claimable)
    with pytest.raises(Failed):
        explore(play, Exhaustive(0), Grain.SYNC)
        explore(play, pct(range(2000)), Grain.ALL)
