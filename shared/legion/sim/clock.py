"""Virtual time: an event loop that never sleeps, and threads that run only while it stands still.

Invariant: one thread of the simulation runs at a time, and which one follows from virtual time and the order of calls
alone. So a simulation repeats itself, however busy the machine is.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from legion.comm.api import Usage
from legion.comm.bridge import Bridge
from legion.errors import LegionError, RunError

T = TypeVar("T")
NOTHING: Final = None  # what nobody waits for


class _Jump:
    """Stands where the loop expects a selector: instead of waiting it moves the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RunError(
                f"the simulation stands still at {self._loop.time():.3f} s: everybody waits for somebody else",
                hint="That is a defect of Legion; report the command line.",
            )
        if timeout > 0:
            self._loop.jump()
        return []

    def close(self) -> None:
        """There is nothing to close."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` is virtual, in s from 0. Work for executors is done at once, in place, and takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = _Jump(self)
        self._clock_resolution = math.ulp(0.0)
        self._scheduled: list[asyncio.TimerHandle]  # the loop's own

    def time(self) -> float:
        return self.now

    def jump(self) -> None:
        """To the next timer, exactly: who is woken too early by a rounding finds that it is not time yet, for ever."""
        self.now = max(self.now, self._scheduled[0].when())
        self._clock_resolution = math.ulp(self.now)

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except LegionError as error:
            done.set_exception(error)
        return done

    def _process_events(self, event_list: list[Any]) -> None:
        """No file, no socket: nothing comes from outside."""

    def _check_thread(self) -> None:
        """Actors call while the loop stands still for them."""

    def _write_to_self(self) -> None:
        """Nobody calls while the loop waits: it does not wait."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """`main` from virtual time 0 to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class Actor(Generic[T]):
    """A thread that takes turns with the loop: while one runs, the other stands still.

    The thread gives its turn back by `spend` and `wait_for` alone, and when it ends.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.get_running_loop()
        self._done: asyncio.Future[T] = self.loop.create_future()
        self._mine, self._loops = threading.Lock(), threading.Lock()
        self._mine.acquire()
        self._loops.acquire()
        self._awaits: object = NOTHING
        self._error: LegionError | None = None
        self._name = name

    # On the loop.

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, on a thread of its own. Cancelled, it ends the work first."""
        self._awaits = self
        threading.Thread(target=self._perform, args=(work,), name=self._name, daemon=True).start()
        self.loop.call_soon(self._wake, self)
        try:
            return await asyncio.shield(self._done)
        except asyncio.CancelledError:
            self.interrupt(RunError("the simulation ends"))
            with contextlib.suppress(LegionError):
                await self._done
            raise

    def interrupt(self, error: LegionError) -> None:
        """The work ends with this error, wherever it is."""
        if not self._done.done():
            self._error = error
            self.loop.call_soon(self._wake, self._awaits)

    def _wake(self, reason: object) -> None:
        """The thread's turn, if it still waits for this."""
        if reason is NOTHING or reason is not self._awaits:
            return
        self._awaits = NOTHING
        self._mine.release()
        self._loops.acquire()

    # On the thread.

    def _perform(self, work: Callable[[], T]) -> None:
        self._mine.acquire()
        try:
            self._raise_if_interrupted()
            self._done.set_result(work())
        except BaseException as error:  # noqa: BLE001  carried to the loop, whoever awaits handles it
            self._done.set_exception(error)
        self._loops.release()

    def spend(self, seconds: float) -> None:
        """Virtual time passes."""
        reason = object()
        self.loop.call_later(seconds, self._wake, reason)
        self._give_turn(reason)

    def wait_for(self, task: "asyncio.Future[Any]") -> None:
        """Until it is done."""
        if not task.done():
            reason = object()
            task.add_done_callback(lambda _: self._wake(reason))
            self._give_turn(reason)

    def _give_turn(self, reason: object) -> None:
        self._raise_if_interrupted()
        self._awaits = reason
        self._loops.release()
        self._mine.acquire()
        self._raise_if_interrupted()

    def _raise_if_interrupted(self) -> None:
        if self._error is not None:
            raise self._error


class Crossing(Bridge):
    """The bridge of an actor: what waits gives its turn to the loop. Time spent in `wait` is counted, virtual."""

    def __init__(self, actor: Actor[Any], usage: Usage) -> None:
        super().__init__(actor.loop, usage)
        self._actor = actor

    def submit(self, work: Coroutine[Any, Any, T]) -> "ActorWork[T]":
        # The loop stands still while an actor runs, so its own calls are safe from here.
        return ActorWork(self._loop.create_task(work), self._actor, self._usage)

    def post(self, call: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon(call, *args)


class ActorWork(Generic[T]):
    """Work that a task on the loop does. See `comm.api.Work`."""

    def __init__(self, task: "asyncio.Task[T]", actor: Actor[Any], usage: Usage) -> None:
        self._task = task
        self._actor = actor
        self._usage = usage
        task.add_done_callback(_noticed)

    def wait(self) -> T:
        clock = self._task.get_loop().time
        started = clock()
        self._actor.wait_for(self._task)
        self._usage.waiting_s += clock() - started
        return self._task.result()

    def done(self) -> bool:
        return self._task.done()


def _noticed(task: "asyncio.Task[Any]") -> None:
    """An error comes out for whoever waits; that nobody does is no error of its own."""
    if not task.cancelled():
        task.exception()
