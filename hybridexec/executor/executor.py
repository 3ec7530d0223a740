"""HybridExecutor: what a program sees.

What it does is in ``crew.py``, ``loop_thread.py`` and ``user_thread.py``; its models in ``models.py``.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Literal, Unpack, overload

from ..config import Config, Options, _one_of, _whole, check_names, resolve, shown
from ..errors import ExecutorFullError
from ..loop import patched
from ..loop.loop import HybridLoop
from ..platform.clock import monotonic
from .crew import Crew
from .listing import ExecutorStats, UserThreadInfo, look_at_all
from .models import MODELS, default_loops, moving_loop, plain_loop
from .user_thread import UserThread
from .waiting import in_event_loop, outcome, settled

_MOST = 32768  # loops, and bound LWPs


class HybridExecutor(concurrent.futures.ThreadPoolExecutor):
    """Schedules coroutines and plain functions alike, as user threads, over a pool of event loops and LWPs.

    A user thread belongs to one loop.  When its step blocks, the loop moves to a spare LWP and goes on with the others.
    It is a ``ThreadPoolExecutor`` in every respect that a program can see: where asyncio wants one
    (``loop.set_default_executor``), it is one.  What it adds: coroutine functions, :meth:`spawn`, :meth:`run`,
    :meth:`threads`, :meth:`stats`.

    What is called runs in a copy of the context (``contextvars``) of whoever submits it.  Whatever a callable returns
    that is a coroutine is driven, so a coroutine function may be wrapped in anything.

    Args:
        loops: how many loops run at a time (1 to 32768).  None: 1 with a GIL, one per CPU without.  In the model
            "n:1" it can only be 1; in "1:1" it is how many user threads have an LWP at a time (None: ``max_lwps``).
        model: "m:n": many user threads over ``loops`` loops that move; "1:1": an LWP and a loop for each user
            thread; "n:1": one loop of asyncio's own, which a blocking call freezes.  The names are those of the
            literature on thread libraries.
        config: how its loops behave; by default what the environment says (:meth:`Config.from_env`).
        name: what the names of its threads begin with.
        max_pending: how many user threads there may be that are not done (1 or more); None: no end of them.  When there
            are as many, ``submit``, ``spawn`` and ``map`` block a plain thread, and raise in a task or callback of an
            event loop; :meth:`run` waits.
        initializer: called with ``initargs`` by each LWP that has just started, before anything else.  If it raises,
            that is logged, and the executor takes no more work.
        initargs: the arguments of the initializer, a tuple.
        **options: fields of :class:`Config`, which win over ``config``; ``max_lwps`` is per loop, and limits how many
            bound user threads have their LWP at a time.

    Raises:
        TypeError: an argument has a wrong type, or there is no such option.
        ValueError: an argument is out of range.
        RuntimeError: gevent or eventlet has put greenlets in the place of threads.

    Thread-safety: any thread may call any method.
    """

    def __init__(
        self,
        loops: int | None = None,
        *,
        model: Literal["m:n", "1:1", "n:1"] = "m:n",
        config: Config | None = None,
        name: str = "hybridexec",
        max_pending: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[Options],
    ) -> None:
        _one_of("model", model, MODELS)
        if loops is not None:
            _whole("loops", loops, 1, 1 if model == "n:1" else _MOST, none=True)
        if not isinstance(name, str):
            raise TypeError(f"name={shown(name)}: allowed is a string")
        if not name:
            raise ValueError(f"name={shown(name)}: allowed is a string that is not empty")
        if max_pending is not None:
            _whole("max_pending", max_pending, 1, sys.maxsize, none=True)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer={shown(initializer)}: allowed are None and a callable")
        if not isinstance(initargs, tuple):
            raise TypeError(f"initargs={shown(initargs)}: allowed is a tuple")
        check_names(options, "loops", "model", "config", "name", "max_pending", "initializer", "initargs")
        settings = resolve(config, options)
        patched.check()
        bound = loops if model == "1:1" and loops is not None else settings.max_lwps
        shared = {"m:n": loops or default_loops(), "n:1": 1, "1:1": 0}[model]
        most = bound if model == "1:1" else 1 if model == "n:1" else shared * settings.max_lwps
        super().__init__(most, thread_name_prefix=name, initializer=initializer, initargs=initargs)
        self._crew = Crew(
            name=name,
            loops=shared,
            make_loop=functools.partial(moving_loop, settings) if model == "m:n" else plain_loop,
            bound=bound,
            pending=max_pending,
            initializer=None if initializer is None else functools.partial(initializer, *initargs),
        )
        self._model = model
        weakref.finalize(self, self._crew.shutdown, cancel=False).atexit = False

    def __repr__(self) -> str:
        return f"<HybridExecutor {self._crew.name} {self._model} {self._crew.state.value}>"

    # ---------------------------------------------------------------- concurrent.futures

    @overload
    def submit[**P, T](
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]: ...

    @overload
    def submit[**P, T](
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Schedule a call.

        Args:
            fn: a coroutine function or any other callable.
            *args: its arguments.
            **kwargs: its keyword arguments.

        Returns:
            A future.  Its ``cancel`` also cancels a coroutine that runs, as a task is cancelled.

        Raises:
            RuntimeError: the executor was shut down, or the interpreter exits, or this is a forked child.
            concurrent.futures.thread.BrokenThreadPool: an initializer has raised.
            ExecutorFullError: there are ``max_pending`` user threads, and the caller is in an event loop.
            TypeError: ``fn`` is not callable.
        """
        return self._launch(fn, args, kwargs).future

    @overload
    def map[T](
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...

    @overload
    def map[T](
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Call a callable for each item, as the built-in ``map`` does, but at once and side by side.

        As in Python 3.14, on every version.

        Args:
            fn: a coroutine function or any other callable.
            *iterables: where its arguments come from.
            timeout: seconds from now in which the results must be there; None: as long as it takes.
            chunksize: of no effect, as with ``ThreadPoolExecutor``.
            buffersize: how many calls may be under way whose results nobody has taken yet (1 or more); only then are
                the iterables read on.  None: all of them are read at once.

        Returns:
            The results, in the order of the arguments.  If it is closed, the calls that are left are cancelled.

        Raises:
            TimeoutError: from the iterator: a result was not there in time.
            TypeError: an argument has a wrong type.
            ValueError: ``buffersize`` is out of range.
            Exception: as :meth:`submit`; from the iterator: what a call has raised.
        """
        if buffersize is not None:
            _whole("buffersize", buffersize, 1, sys.maxsize, none=True)
        deadline = None if timeout is None else monotonic() + timeout
        arguments = zip(*iterables, strict=False)
        futures = collections.deque(self.submit(fn, *args) for args in itertools.islice(arguments, buffersize))
        return _results(weakref.ref(self), fn, arguments if buffersize else iter(()), futures, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; what there is is done to its end.  May be called more than once.

        Args:
            wait: return only when all is done and no thread is left.
            cancel_futures: cancel what has not started.

        Raises:
            RuntimeError: ``wait``, in a user thread of this executor, which would wait for itself.  It is shut down all
                the same.
        """
        self._shutdown = True
        self._crew.shutdown(cancel=cancel_futures)
        if wait:
            self._crew.join()

    # ---------------------------------------------------------------- user threads

    @overload
    def spawn[**P, T](
        self,
        fn: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: Any,
        name: str | None = None,
        bound: bool = False,
        **kwargs: Any,
    ) -> UserThread[T]: ...

    @overload
    def spawn[**P, T](
        self, fn: Callable[P, T], /, *args: Any, name: str | None = None, bound: bool = False, **kwargs: Any
    ) -> UserThread[T]: ...

    def spawn(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        bound: bool = False,
        **kwargs: Any,
    ) -> UserThread[Any]:
        """Schedule a call, and get a handle of the user thread.

        Args:
            fn: a coroutine function or any other callable.
            *args: its arguments.
            name: the user thread's name; None: ``user-thread-N``.
            bound: False: it shares a loop with others; True: it has an LWP, and a loop, of its own: every step runs on
                one OS thread, and nobody else's does.  For what C code ties to a thread (a GUI, OpenGL).  There is no
                detector on it.  (POSIX calls the two a thread's *contention scope*, process and system.)
            **kwargs: its keyword arguments.

        Returns:
            The handle.

        Raises:
            TypeError: ``fn`` is not callable, or another argument has a wrong type.
            Exception: as :meth:`submit`.
        """
        if not isinstance(bound, bool):
            raise TypeError(f"bound={shown(bound)}: allowed are True and False")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name={shown(name)}: allowed are None and a string")
        return self._launch(fn, args, kwargs, name, bound)

    @overload
    async def run[**P, T](self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def run[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a callable in a user thread and wait for it, in a task of asyncio or trio.

        If the task is cancelled, the user thread is cancelled and waited for.  (A plain callable that runs cannot be
        cancelled, and is only waited for.)  What it then raises is raised here; what it returns is lost.

        Args:
            fn: a coroutine function or any other callable.
            *args: its arguments.
            **kwargs: its keyword arguments.

        Returns:
            What it returns.

        Raises:
            asyncio.CancelledError: the user thread was cancelled by somebody else, and this is asyncio.
            concurrent.futures.CancelledError: the same in trio, where only the scope itself can raise ``Cancelled``.
            RuntimeError: the executor was shut down.
            TypeError: ``fn`` is not callable.
            BaseException: what it raises.
        """
        import anyio

        _check_callable(fn)
        permits = self._crew.permits
        if not permits.take():
            asked = permits.ask()
            try:
                await settled(asked)
            except BaseException:
                if not asked.cancel() and asked.exception() is None:
                    permits.give_back()  # it was given just then
                raise
            asked.result()
        future = self._crew.launch(fn, args, kwargs).future
        try:
            await settled(future)
        except BaseException:
            future.cancel()
            with anyio.CancelScope(shield=True):
                await settled(future)
            exception = None if future.cancelled() else future.exception()
            if exception is not None:
                raise exception from None
            raise
        return outcome(future)

    def threads(self) -> list[UserThreadInfo]:
        """The user threads that are not done, in the order in which they were made, with what they do now.

        What ``ps -L`` would show, if the kernel knew them.  Each line was true a moment ago.
        """
        crew = self._crew
        with crew.lock:
            live = list(crew.live)
        return look_at_all(live, crew.loops())

    def stats(self) -> ExecutorStats:
        """A snapshot of what the executor has done."""
        crew = self._crew
        loops = {}
        for loop_thread in crew.loop_threads:
            loop = loop_thread._loop
            if isinstance(loop, HybridLoop):
                loops[loop_thread.name] = loop.stats()
        with crew.lock:
            plain = sum(loop_thread.plain_loop is not None for loop_thread in crew.loop_threads)
            return ExecutorStats(
                submitted=crew.submitted,
                done=crew.submitted - len(crew.live),
                queued=sum(len(loop_thread.queued) for loop_thread in crew.loop_threads) + crew.bound.waiting(),
                moved=crew.moved,
                loops=loops,
                lwps=sum(stats.lwps_alive for stats in loops.values()) + plain + len(crew.bound),
            )

    def _launch(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        bound: bool = False,
    ) -> UserThread[Any]:
        _check_callable(fn)
        permits = self._crew.permits
        if not permits.take():
            if in_event_loop():
                raise ExecutorFullError(
                    f"max_pending={permits.limit}: there are as many user threads, and to wait for one to end would "
                    "block the event loop: use `await executor.run()`, which waits"
                )
            permits.ask().result()
        return self._crew.launch(fn, args, kwargs, name, bound)


def _check_callable(fn: object) -> None:
    if not callable(fn):
        raise TypeError(f"fn={shown(fn)}: allowed are a coroutine function and any other callable")


def _results(
    executor: weakref.ref[HybridExecutor],
    fn: Callable[..., Any],
    arguments: Iterator[tuple[Any, ...]],
    futures: collections.deque[concurrent.futures.Future[Any]],
    deadline: float | None,
) -> Iterator[Any]:
    """The results of a map, whose calls have been submitted when it was called."""
    try:
        while futures:
            submitter = executor()
            more = None if submitter is None else next(arguments, None)
            if submitter is not None and more is not None:
                futures.append(submitter.submit(fn, *more))
            del submitter
            future = futures.popleft()
            try:
                result = future.result(None if deadline is None else deadline - monotonic())
            finally:
                future.cancel()
                del future
            yield result
            del result
    finally:
        for future in futures:
            future.cancel()
