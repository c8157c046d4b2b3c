"""Workers measure the link between them, over TLS on loopback: what is found, what is refused, what it may cost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from identities import issue

from legion.comm import link_probe, links
from legion.comm.link_probe import BURSTS, LinkProbe
from legion.comm.links import CALLERS_BYTES, HOUR_S, SERVICE, Budget
from legion.comm.network import PeerNetwork, listen
from legion.errors import Unavailable
from legion.identity import Identity
from legion.ids import WorkerId
from legion.links import LINK_BURST_BYTES, LinkSample, in_one_network
from legion.messages import Endpoint, LinkPeer
from legion.proto.peer_pb2 import BurstPiece, BurstReply, BurstRequest, Pong
from tests.core.comm.cut_proxy import CutProxy
from tests.core.comm.tls_members import Node, channel_as

A, B = WorkerId("a" * 32), WorkerId("b" * 32)


@dataclass
class End:
    """A worker that listens and is in no plan."""

    identity: Identity
    network: PeerNetwork

    @property
    def probe(self) -> LinkProbe:
        return LinkProbe(self.identity, self.network.links)

    def peer(self, port: int | None = None) -> LinkPeer:
        endpoint = Endpoint(host="127.0.0.1", port=port or self.network.port)
        return LinkPeer(worker_id=self.identity.worker_id, endpoint=endpoint)


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[tuple[End, End]]:
    first, second = [End(one, await listen(one, "127.0.0.1", 0)) for one in issue(tmp_path, 2)]
    yield first, second
    await asyncio.gather(first.network.leave("over"), second.network.leave("over"))


@contextlib.asynccontextmanager
async def knocking(caller: End, target: End) -> AsyncIterator[Any]:
    node = Node(target.identity, target.network, None)  # type: ignore[arg-type]
    async with channel_as(caller.identity, node) as channel:
        yield channel


def good(samples: list[LinkSample], peer: End) -> bool:
    return len(samples) == BURSTS and all(
        sample.peer == peer.identity.worker_id
        and sample.outcome == "measured"
        and None not in (sample.rtt_s, sample.up_bytes_per_s, sample.down_bytes_per_s)
        for sample in samples
    )


async def test_two_workers_measure_each_other_at_the_same_time(ends: tuple[End, End]) -> None:
    first, second = ends
    from_first, from_second = await asyncio.gather(first.probe.look(second.peer()), second.probe.look(first.peer()))
    assert good(from_first, second)
    assert good(from_second, first)
    assert all(sample.rtt_s is not None and sample.rtt_s < 1 for sample in (*from_first, *from_second))


async def test_bursts_keep_to_what_was_chosen_by_hand(ends: tuple[End, End]) -> None:
    first, second = ends
    first.network.links.house.upload.limit(2_000_000.0)
    second.network.links.house.upload.limit(4_000_000.0)
    samples = await first.probe.look(second.peer())
    assert good(samples, second)
    ups, downs = zip(*((s.up_bytes_per_s, s.down_bytes_per_s) for s in samples), strict=True)
    # Pieces that waited for the processor of whoever counts them arrive all at once: one sample may be too fast.
    assert min(ups) < 2_600_000
    assert min(downs) < 5_200_000
    assert first.network.links.house.line.upload.passed_bytes == 0, "what stays in the house takes nothing of the line"


async def test_a_link_that_is_up_for_pings_and_dead_for_bulk_is_told_from_one_that_is_down(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ends
    monkeypatch.setattr(link_probe, "BURST_S", 0.3)
    monkeypatch.setattr(links, "BURST_S", 0.3)
    monkeypatch.setattr(link_probe, "CONNECT_S", 2.0)
    async with CutProxy.to(second.network.port) as proxy:
        proxy.each_carries_bytes = 32_768
        (sample,) = await first.probe.look(second.peer(proxy.port))
        assert (sample.outcome, sample.up_bytes_per_s) == ("no_bulk", None)
        assert sample.rtt_s is not None
        proxy.refuse = True
        (sample,) = await first.probe.look(second.peer(proxy.port))
        assert (sample.outcome, sample.rtt_s) == ("unreachable", None)


async def test_who_is_busy_or_closed_to_bursts_says_so_and_is_not_called_dead(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ends
    monkeypatch.setattr(link_probe, "TRIES", 2)
    async with second.network.links.burst:
        with pytest.raises(Unavailable, match="line is in use"):
            await first.probe.look(second.peer())
    with second.network.links.house.line.carrying_part() as leaves:
        leaves(10**9)
        with pytest.raises(Unavailable, match="line is in use"):
            await first.probe.look(second.peer())
    second.network.links.house.open = False
    with pytest.raises(Unavailable, match="not to be measured now"):
        await first.probe.look(second.peer())
    with pytest.raises(Unavailable, match="not to be measured now"):
        await second.probe.look(first.peer())  # nor does it send bursts of its own


@pytest.mark.parametrize("size_bytes", [LINK_BURST_BYTES + 1, 2**32 - 1])
async def test_a_burst_is_never_larger_than_the_largest(ends: tuple[End, End], size_bytes: int) -> None:
    first, second = ends
    async with knocking(first, second) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="at most") as error:
            await channel.unary_stream(SERVICE + "Give")(BurstRequest(size_bytes=size_bytes).SerializeToString()).read()
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        too_many = [BurstPiece(payload=bytes(1 << 19)).SerializeToString()] * 5
        with pytest.raises(grpc.aio.AioRpcError, match="at most"):
            await channel.stream_unary(SERVICE + "Take")(iter(too_many))


async def test_an_empty_burst_and_one_that_cannot_be_read(ends: tuple[End, End]) -> None:
    first, second = ends
    async with knocking(first, second) as channel:
        assert BurstReply.FromString(await channel.stream_unary(SERVICE + "Take")(iter([]))) == BurstReply()
        for method, message in (("Ping", b"\xff"), ("Take", b"\xff")):
            with pytest.raises(grpc.aio.AioRpcError, match="cannot be read"):
                await channel.stream_unary(SERVICE + method)(iter([message]))
        assert await channel.unary_unary(SERVICE + "Ping")(Pong().SerializeToString()) == b""


async def test_who_measures_too_much_is_turned_away(ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ends
    monkeypatch.setattr(link_probe, "TRIES", 1)
    second.network.links.budget = Budget(callers_bytes=LINK_BURST_BYTES - 1)
    with pytest.raises(Unavailable, match="enough for one hour"):
        await first.probe.look(second.peer())


def test_a_budget_is_of_any_hour_and_of_all_callers() -> None:
    budget = Budget(all_bytes=2 * CALLERS_BYTES)
    budget.spend(A, CALLERS_BYTES, 0.0)
    with pytest.raises(Unavailable, match="this worker has measured enough"):
        budget.require(A, 1, HOUR_S - 1)
    budget.require(B, CALLERS_BYTES, 1.0)
    budget.spend(B, CALLERS_BYTES, 1.0)
    with pytest.raises(Unavailable, match="others have measured enough"):
        budget.require(WorkerId("c" * 32), 1, 2.0)
    budget.require(A, CALLERS_BYTES, HOUR_S)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("192.168.1.7", True),
        ("fe80::1", True),
        ("8.8.8.8", False),
        ("2001:4860::8888", False),
        ("home.example", False),
        ("", False),
    ],
)
def test_what_stays_in_the_house(host: str, inside: bool) -> None:
    assert in_one_network(host) is inside
