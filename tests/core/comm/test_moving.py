"""A peer behind a relay that dies: it is looked for, found elsewhere, and what was under way goes on there."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from cut_proxy import CutProxy
from hypothesis import given
from hypothesis import strategies as st
from tls_members import Node, endpoints_of, listening, open_unit

from legion.comm.api import Batches
from legion.comm.patience import FIRST_CONTACT_S, MOVING_S, REFUSED, REFUSED_S, SILENT_S, patience_s
from legion.errors import PeerLost
from legion.ids import Rank, WorkerId
from legion.layout import CHUNK, Layout
from legion.messages import Endpoint

BIG = Layout((512 * CHUNK,), (1, 1))  # 4 MiB for each of two members


@dataclass
class Relayed:
    """Two members; what the first asks of the second passes one of two relays."""

    nodes: list[Node]
    first: CutProxy
    second: CutProxy
    looked_for: "asyncio.Queue[tuple[WorkerId, bool]]" = field(default_factory=asyncio.Queue)

    @property
    def peer(self) -> WorkerId:
        return self.nodes[1].member.me

    @property
    def where(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self.first.port, relayed=True)

    @property
    def elsewhere(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self.second.port, relayed=True)

    def relay_dies(self) -> None:
        self.first.refuse = True
        self.first.cut()


@contextlib.asynccontextmanager
async def relayed(folder: Path) -> AsyncIterator[Relayed]:
    async with (
        listening(folder, BIG) as nodes,
        CutProxy.to(nodes[1].network.port) as first,
        CutProxy.to(nodes[1].network.port) as second,
        contextlib.AsyncExitStack() as stack,
    ):
        found = Relayed(nodes, first, second)
        nodes[0].member.on_away = lambda peer, away: found.looked_for.put_nowait((peer, away))
        endpoints = endpoints_of(nodes)
        detour = endpoints | {Rank(1): found.where}
        await stack.enter_async_context(nodes[0].network.joined(nodes[0].member, detour))
        await stack.enter_async_context(nodes[1].network.joined(nodes[1].member, endpoints))
        yield found


async def known(found: Relayed) -> None:
    """The first has met the second: from now on it would be missed."""
    found.nodes[1].member.shelf.put(0, 0, np.ones(BIG.padded_unit(0) // 2, dtype=np.float32))
    await found.nodes[0].member.links[Rank(1)].fetch(0, 0, np.empty(BIG.padded_unit(0) // 2, dtype=np.float32))


@pytest.mark.parametrize("cut_after_bytes", [0, 1_000_000])  # before a part, and in the middle of it
async def test_what_is_under_way_goes_on_at_the_next_relay(tmp_path: Path, cut_after_bytes: int) -> None:
    async with relayed(tmp_path) as found:
        await known(found)
        near, far = found.nodes
        sums = open_unit(far, batch_count=1)
        mine = np.arange(sums.size, dtype=np.float32) % 89
        found.first.refuse = True
        found.first.cut_after(cut_after_bytes)
        sending = asyncio.ensure_future(near.member.links[Rank(1)].send_gradient(0, Batches((0,), 1), 0, mine))
        assert await found.looked_for.get() == (found.peer, True)
        near.network.found(found.peer, found.elsewhere)
        await sending
        assert await found.looked_for.get() == (found.peer, False)
        assert np.array_equal(sums, mine)
        assert near.member.changes.failure is None
        assert found.second.accepted > 0


async def test_a_path_that_says_nothing_any_more_is_left_at_once(tmp_path: Path) -> None:
    """Its connections stay open; left to themselves, they would be given up after 20 s."""
    async with relayed(tmp_path) as found:
        await known(found)
        near, far = found.nodes
        sums = open_unit(far, batch_count=1)
        mine = np.arange(sums.size, dtype=np.float32) % 89
        found.first.each_carries_bytes = 1
        sending = asyncio.ensure_future(near.member.links[Rank(1)].send_gradient(0, Batches((0,), 1), 0, mine))
        fetching = asyncio.ensure_future(near.member.links[Rank(1)].fetch(0, 0, np.empty(sums.size, dtype=np.float32)))
        started = time.monotonic()
        near.network.found(found.peer, found.elsewhere)
        await asyncio.gather(sending, fetching)
        assert time.monotonic() - started < SILENT_S
        assert np.array_equal(sums, mine)


async def test_a_relay_that_was_started_anew_is_found_where_it_was(tmp_path: Path) -> None:
    async with relayed(tmp_path) as found:
        await known(found)
        found.relay_dies()
        assert await found.looked_for.get() == (found.peer, True)
        found.nodes[0].network.found(found.peer, found.where)
        found.first.refuse = False
        assert await found.looked_for.get() == (found.peer, False)
        await known(found)
        assert found.second.accepted == 0


async def test_who_is_no_member_any_more_is_not_waited_for(tmp_path: Path) -> None:
    async with relayed(tmp_path) as found:
        await known(found)
        started = time.monotonic()
        found.relay_dies()
        assert await found.looked_for.get() == (found.peer, True)
        found.nodes[0].network.found(found.peer, None)
        with pytest.raises(PeerLost, match=found.peer):
            await found.nodes[0].member.changes.until(lambda: False)
        assert found.nodes[0].member.changes.lost_peer == found.peer
        assert time.monotonic() - started < MOVING_S
        assert await found.looked_for.get() == (found.peer, False)  # it is not asked for any more


async def test_news_of_strangers_changes_nothing(tmp_path: Path) -> None:
    async with relayed(tmp_path) as found:
        found.nodes[0].network.found(WorkerId("z" * 32), None)
        await known(found)
        assert found.nodes[0].member.changes.failure is None


@given(error=st.text() | st.just(f"{REFUSED} (111)"), relayed=st.booleans())
def test_a_relay_is_given_the_time_that_another_takes(error: str, relayed: bool) -> None:
    assert patience_s(error, met=False, relayed=relayed) == FIRST_CONTACT_S
    patient = patience_s(error, met=True, relayed=relayed)
    assert patient == (MOVING_S if relayed else REFUSED_S if REFUSED in error else SILENT_S)
