"""Qt's loop for asyncio: timers come in order and in time, and those that were cancelled are gone."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
from PySide6.QtWidgets import QApplication

from legion_client.ui.loop import Loop

VALUE: ContextVar[int] = ContextVar("value", default=0)


@pytest.fixture
def run(qapp: QApplication) -> Callable[[Callable[[Loop], Awaitable[None]]], None]:
    def running(play: Callable[[Loop], Awaitable[None]]) -> None:
        async def whole() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            await play(loop)

        with asyncio.Runner(loop_factory=lambda: Loop(qapp)) as runner:
            runner.run(whole())

    return running


Run = Callable[[Callable[[Loop], Awaitable[None]]], None]


def test_timers_come_in_order_and_not_early(run: Run) -> None:
    async def play(loop: Loop) -> None:
        came: list[tuple[str, float]] = []
        over = asyncio.Event()
        began = loop.time()

        def note(what: str) -> None:
            came.append((what, loop.time() - began))
            if what == "last":
                over.set()

        loop.call_at(began + 0.05, note, "last")
        loop.call_later(0.01, note, "later")
        loop.call_later(-1.0, note, "overdue")
        loop.call_soon(note, "soon")
        await over.wait()
        assert sorted(what for what, _ in came[:2]) == ["overdue", "soon"]
        assert [what for what, _ in came[2:]] == ["later", "last"]
        assert came[2][1] >= 0.01
        assert came[3][1] >= 0.05

    run(play)


def test_a_cancelled_timer_is_no_longer_qts(run: Run) -> None:
    async def play(loop: Loop) -> None:
        before = loop.timers
        handle = loop.call_later(3600.0, pytest.fail, "it was cancelled")
        assert loop.timers == before + 1
        handle.cancel()
        handle.cancel()
        assert handle.cancelled()
        assert loop.timers == before
        async with asyncio.timeout(3600.0):
            await asyncio.sleep(0)
            assert loop.timers == before + 1
        assert loop.timers == before
        await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0))}, timeout=3600.0)
        assert loop.timers == before

    run(play)


def test_a_timer_that_came_is_gone_and_may_be_cancelled(run: Run) -> None:
    async def play(loop: Loop) -> None:
        before = loop.timers
        came = asyncio.Event()
        handle = loop.call_later(0.001, came.set)
        await came.wait()
        assert loop.timers == before
        handle.cancel()

    run(play)


def test_a_timer_runs_in_its_context(run: Run) -> None:
    async def play(loop: Loop) -> None:
        seen = loop.create_future()
        VALUE.set(7)
        loop.call_later(0.001, lambda: seen.set_result(VALUE.get()))
        VALUE.set(8)
        assert await seen == 7

    run(play)


def test_what_is_left_ends_with_the_loop(run: Run) -> None:
    loops: list[Loop] = []

    async def play(loop: Loop) -> None:
        loops.append(loop)
        loop.call_later(3600.0, pytest.fail, "the loop is closed")

    run(play)
    assert loops[0].timers == 0
