"""Reads what is due. A source that hangs holds up nobody: not the event loop, not the other sources.

All probes share one thread, as each wake-up of the processor costs more than the reading. One that takes longer than
`HAND_OVER_S` keeps that thread and the rest goes on in a new one; from then on it has a thread of its own, until it is
quick again.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from legion_client.machine.sensing import Slot
from legion_client.machine.threads import Threads

HAND_OVER_S = 0.25
ANSWER_S = 0.05  # most answers come within: threads that work side by side wake one another for Python's lock


class Lane:
    """Owns the tasks that read. They never raise, and none outlives `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = Threads()

    def start(self, slots: Sequence[Slot[Any]]) -> list[asyncio.Task[None]]:
        """One task for each source that is asked or slow, and one for all others together."""
        for slot in slots:
            slot.begin()
        together = [slot for slot in slots if not slot.asked and not slot.slow]
        turns = [[slot] for slot in slots if slot.slow] + ([together] if together else [])
        asked = [self._own(ask(slot)) for slot in slots if slot.asked]
        return asked + [self._own(self._probe_after(asked, turn)) for turn in turns]

    async def close(self) -> None:
        """Gives up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.close()

    def _own(self, reading: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(reading)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _probe_after(self, asked: Sequence[asyncio.Task[None]], slots: Sequence[Slot[Any]]) -> None:
        if asked:
            await asyncio.wait(asked, timeout=ANSWER_S)
        await self._probe(slots)

    async def _probe(self, slots: Sequence[Slot[Any]]) -> None:
        turn = Turn(slots, self._threads)
        try:
            if await turn.over_within(HAND_OVER_S):
                turn.settle()
                for slot in slots:
                    slot.slow = False
                return
            slow, rest = turn.hand_over()
            turn.settle()
            slow.slow = True
            if rest:
                self._own(self._probe(rest))
            await self._outwait(turn, slow)
        finally:
            turn.abandon()

    async def _outwait(self, turn: "Turn", slow: Slot[Any]) -> None:
        if await turn.over_within(slow.pace.limit_s - HAND_OVER_S):
            turn.settle()
            return
        slow.cut_off()
        await turn.over
        slow.came_back()


async def ask(slot: Slot[Any]) -> None:
    """One answer of a sensor, or why there is none."""
    try:
        async with asyncio.timeout(slot.pace.limit_s):
            value = await slot.read()
    except Exception as error:  # noqa: BLE001  top of a task: logged by the slot, and tried again
        slot.fail(error)
    else:
        slot.finish(value)


class Turn:
    """One thread that reads some probes, one after the other. All methods but `_work` belong to the loop."""

    def __init__(self, slots: Sequence[Slot[Any]], threads: Threads) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._outcomes: list[tuple[Any, BaseException | None]] = []
        self._settled = 0
        self._last = len(slots)
        self._loop = asyncio.get_running_loop()
        self.over = self._loop.create_future()
        threads.run(self._work, f"legion-{slots[0].name}")

    async def over_within(self, limit_s: float) -> bool:
        await asyncio.wait({self.over}, timeout=limit_s)
        return self.over.done()

    def hand_over(self) -> tuple[Slot[Any], Sequence[Slot[Any]]]:
        """The probe that is being read, after which this thread ends, and those that it has not begun."""
        with self._lock:
            current = min(len(self._outcomes), len(self._slots) - 1)
            self._last = current + 1
        return self._slots[current], self._slots[current + 1 :]

    def abandon(self) -> None:
        with self._lock:
            self._last = 0

    def settle(self) -> None:
        """Tell the slots what was found until now, once each."""
        with self._lock:
            fresh = self._outcomes[self._settled :]
            begun = self._settled
            self._settled += len(fresh)
        for slot, (value, error) in zip(self._slots[begun:], fresh, strict=False):
            if error is None:
                slot.finish(value)
            else:
                slot.fail(error)

    def _work(self) -> None:
        for index, slot in enumerate(self._slots):
            with self._lock:
                if index >= self._last:
                    break
            outcome = _outcome(slot.read)
            with self._lock:
                self._outcomes.append(outcome)
        # The loop is closed if the program ends meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


def _outcome(read: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return read(), None
    except BaseException as error:  # noqa: BLE001  top of a thread: carried to the loop, whose slot logs it
        return None, error
