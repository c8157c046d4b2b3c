"""Waiting for facts: everyone looks again at a change, one failure ends every wait, and nothing is left behind."""

import asyncio

import pytest

from legion.comm.waiting import Changes
from legion.errors import NotFinite, PeerLost


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_each_waits_for_its_own_fact() -> None:
    changes, facts = Changes(), set[str]()
    waits = {name: asyncio.ensure_future(changes.until(lambda name=name: name in facts)) for name in "abc"}
    await turns()
    for name in "bca":
        facts.add(name)
        assert not waits[name].done()
        changes.happened()
        await turns()
        assert {n for n, wait in waits.items() if wait.done()} == facts


async def test_a_fact_that_is_true_needs_no_change() -> None:
    await Changes().until(lambda: True)


async def test_a_fact_that_comes_and_goes_between_two_looks_is_not_seen() -> None:
    """What counts is the moment of looking: those who wait never act on what is no longer true."""
    changes, facts = Changes(), set[str]()
    wait = asyncio.ensure_future(changes.until(lambda: "a" in facts))
    await turns()
    facts.add("a")
    changes.happened()
    facts.clear()
    await turns()
    assert not wait.done()
    wait.cancel()


async def test_the_first_failure_stays_and_ends_waits_now_and_later() -> None:
    changes, told = Changes(), []
    changes.on_failure.append(lambda: told.append(changes.failure))
    waits = [asyncio.ensure_future(changes.until(lambda: False)) for _ in range(3)]
    await turns()
    cause = NotFinite("unit 3 from ann")
    changes.fail(cause)
    changes.fail(PeerLost("ann is gone"), peer="ann")
    for wait in waits:
        with pytest.raises(NotFinite, match="ann"):
            await wait
    with pytest.raises(NotFinite):
        await changes.until(lambda: True)  # even if it is true: nothing goes on after a failure
    assert told == [cause]
    assert (changes.failure, changes.lost_peer) == (cause, None)


async def test_who_was_lost_is_remembered_with_the_failure() -> None:
    changes = Changes()
    changes.fail(PeerLost("ann is gone"), peer="ann")
    assert changes.lost_peer == "ann"


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    changes = Changes()
    wait = asyncio.ensure_future(changes.until(lambda: False))
    await turns()
    wait.cancel()
    await turns()
    assert wait.cancelled()
    assert not changes._waiting
    changes.happened()
