"""Numbers without holes, resumption anywhere, and a gap for who was too slow."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.messages import Event
from legion_server.domain.happenings import Happening
from legion_server.service.events import Events


def publish(events: Events, count: int) -> None:
    said = [Happening("step", {"n": events.last + i + 1}, {"worker_id": "w"}) for i in range(count)]
    events.publish(events.number(said, at=1.0))


async def take(stream: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(stream) for _ in range(count)]


async def test_from_any_number_on_without_holes() -> None:
    events = Events()
    publish(events, 5)
    for after in range(5):
        got = await take(events.follow(after, private=True), 5 - after)
        assert [event.number for event in got] == list(range(after + 1, 6))
        assert [event.data["n"] for event in got] == [event.number for event in got]


async def test_only_new_ones_without_a_number() -> None:
    events = Events()
    publish(events, 3)
    stream = events.follow(None, private=True)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert not waiting.done()
    publish(events, 1)
    assert (await waiting).number == 4


async def test_a_slow_subscriber_learns_of_the_gap_and_goes_on() -> None:
    events = Events(kept=4)
    publish(events, 2)
    stream = events.follow(0, private=True)
    assert (await anext(stream)).number == 1
    publish(events, 300)
    got = await take(stream, 6)
    # What had been read for it is still delivered, then the hole is named.
    assert [(e.number, e.type) for e in got][:2] == [(2, "step"), (298, "gap")]
    assert got[1].data == {"next": 299}
    assert [e.number for e in got][2:] == [299, 300, 301, 302]


async def test_a_number_from_a_lost_past_starts_over() -> None:
    events = Events()
    publish(events, 2)
    got = await take(events.follow(500, private=True), 3)
    assert [(e.number, e.type) for e in got] == [(0, "gap"), (1, "step"), (2, "step")]


async def test_a_restarted_server_goes_on_counting() -> None:
    before, after = Events(kept=3), Events(kept=3)
    publish(before, 5)
    after.restore(before._tail)
    assert after.last == 5
    publish(after, 1)
    assert [e.number for e in await take(after.follow(3, private=True), 3)] == [4, 5, 6]


async def test_private_facts_are_for_the_known() -> None:
    events = Events()
    publish(events, 1)
    (public,) = await take(events.follow(0, private=False), 1)
    (private,) = await take(events.follow(0, private=True), 1)
    assert public.data == {"n": 1}
    assert private.data == {"n": 1, "worker_id": "w"}


async def test_closing_ends_every_stream() -> None:
    events = Events()
    stream = events.follow(None, private=True)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    events.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


@given(st.integers(1, 6), st.lists(st.integers(0, 4), max_size=12), st.integers(0, 50))
async def test_numbers_grow_by_one_but_for_gaps(kept: int, batches: list[int], after: int) -> None:
    events = Events(kept=kept)
    for count in batches:
        publish(events, count)
    stream = events.follow(min(after, events.last), private=True)
    position, got = min(after, events.last), 0
    while position < events.last:
        event = await anext(stream)
        assert event.number == position + 1 or event.type == "gap"
        assert event.number > position
        position, got = event.number, got + (event.type == "step")
    assert got == min(kept, events.last - min(after, events.last))
