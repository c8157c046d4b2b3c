"""What the server wants measured and hears of it, through the agent: against a server and a line of the test's own."""

import asyncio
from typing import Any

import pytest

from legion.errors import NotFound, ServerUnreachable
from legion.ids import Epoch, WorkerId
from legion.links import SERVER, LinkSample, LinksReport
from legion.messages import PROBE_BYTES, Endpoint, HeartbeatReply, LinkPeer, ProbeReply, Whereabouts
from legion_client.agent import backoff
from legion_client.agent.links import BURSTS, FIRST_BYTES, LinkRelay
from legion_client.agent.traffic import Traffic
from legion_client.engine.protocol import Command, LinksMeasured, Measure, PeersAway, PeersFound, Rates
from legion_client.machine.readings import Readings
from legion_client.settings import Settings

PEER = LinkPeer(worker_id=WorkerId("a" * 32), endpoint=Endpoint(host="10.0.0.1", port=1))
SAMPLE = LinkSample(peer=PEER.worker_id, rtt_s=0.001)


class FakeServer:
    """Its line carries so much, in a time of its own; the first calls go wrong."""

    def __init__(self, bytes_per_s: float, errors: list[Exception]) -> None:
        self._bytes_per_s = bytes_per_s
        self._errors = errors
        self.now_s = 0.0
        self.bursts: list[int] = []
        self.reports: asyncio.Queue[LinksReport] = asyncio.Queue()

    def clock(self) -> float:
        return self.now_s

    async def ping(self) -> None:
        self.now_s += 0.02

    async def probe(self, size_bytes: int) -> ProbeReply:
        await self.burst(size_bytes)
        return ProbeReply(received_bytes=size_bytes, bytes_per_s=self._bytes_per_s)

    async def burst(self, size_bytes: int) -> None:
        self.bursts.append(size_bytes)
        self.now_s += size_bytes / self._bytes_per_s

    async def report_links(self, report: LinksReport) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.reports.put_nowait(report)


def reply(**said: Any) -> HeartbeatReply:
    return HeartbeatReply(phase="waiting", epoch=Epoch(0), interval_s=5, **said)


def relay_of(server: FakeServer, traffic: Traffic | None = None) -> tuple[LinkRelay, list[Command]]:
    said: list[Command] = []
    return LinkRelay(server, said.append, traffic or Traffic(), timer=server.clock), said


async def test_orders_go_to_an_engine_that_listens() -> None:
    relay, said = relay_of(FakeServer(1e6, []))
    relay.heed(reply(measure=(PEER,)), engine_hears=False)
    relay.heed(reply(), engine_hears=True)
    assert said == []
    relay.heed(reply(measure=(PEER,)), engine_hears=True)
    assert said == [Measure(peers=(PEER,))]


async def test_nothing_is_measured_where_the_network_is_to_rest() -> None:
    traffic, server = Traffic(), FakeServer(1e6, [])
    traffic.obey(Settings(), Readings(), bursts=False)
    relay, said = relay_of(server, traffic)
    relay.heed(reply(measure=(PEER,), measure_server=True), engine_hears=True)
    task = asyncio.create_task(relay.measure_server())
    await asyncio.sleep(0)
    task.cancel()
    assert (said, server.bursts) == ([], [])
    assert traffic.rates == Rates(bursts=False)


async def test_the_engine_hears_what_was_chosen_by_hand_beside_the_share_of_the_uplink() -> None:
    traffic, heard = Traffic(), list[Rates]()
    traffic.on_rates = heard.append
    traffic.with_engine(True)
    settings = Settings().model_copy(
        update={"network": Settings().network.model_copy(update={"download_kb_per_s": 500, "upload_percent": 50})}
    )
    traffic.obey(settings, Readings(uplink_bytes_per_s=2e6), bursts=True)
    rates = heard[-1]
    assert rates.upload_bytes_per_s is not None
    assert (rates.house_upload_bytes_per_s, rates.house_download_bytes_per_s) == (None, 500_000)
    count = len(heard)
    traffic.obey(settings, Readings(uplink_bytes_per_s=2e6), bursts=True)
    assert len(heard) == count, "nothing has changed"


async def test_the_server_is_asked_for_members_that_are_away_and_the_engine_hears_the_answer() -> None:
    said, beats = list[Command](), list[str]()
    relay = LinkRelay(FakeServer(1e6, []), said.append, Traffic(), on_away=lambda: beats.append("due"))
    there = (Whereabouts(worker_id=PEER.worker_id, endpoint=PEER.endpoint),)
    relay.heed(reply(found=there), engine_hears=True)
    assert said == [], "nobody is missed"
    relay.miss(PeersAway(peers=(PEER.worker_id,)))
    assert (relay.away, beats) == ((PEER.worker_id,), ["due"])
    relay.heed(reply(found=there), engine_hears=False)
    relay.heed(reply(), engine_hears=True)
    assert said == []
    relay.heed(reply(found=there), engine_hears=True)
    assert said == [PeersFound(peers=there)]
    relay.miss(PeersAway(peers=()))
    assert relay.away == ()


@pytest.mark.parametrize(("bytes_per_s", "last"), [(1e5, 1 << 17), (4e6, 1 << 21), (1e9, PROBE_BYTES)])
async def test_the_line_to_the_server_is_measured_both_ways(bytes_per_s: float, last: int) -> None:
    server = FakeServer(bytes_per_s, [])
    relay, _ = relay_of(server)
    tasks = [asyncio.create_task(part) for part in (relay.measure_server(), relay.deliver())]
    relay.heed(reply(measure_server=True), engine_hears=False)
    report = await server.reports.get()
    for task in tasks:
        task.cancel()
    assert [sample.peer for sample in report.samples] == [SERVER] * BURSTS
    for sample in report.samples:
        figures = (sample.rtt_s, sample.up_bytes_per_s, sample.down_bytes_per_s)
        assert figures == pytest.approx((0.02, bytes_per_s, bytes_per_s))
    assert server.bursts[-BURSTS:] == [last] * BURSTS


async def test_the_volunteers_limit_is_what_others_can_count_on() -> None:
    traffic, server = Traffic(), FakeServer(1e8, [])
    network = Settings().network.model_copy(update={"upload_kb_per_s": 2000})
    traffic.obey(Settings().model_copy(update={"network": network}), Readings(), bursts=True)
    relay, _ = relay_of(server, traffic)
    tasks = [asyncio.create_task(part) for part in (relay.measure_server(), relay.deliver())]
    relay.heed(reply(measure_server=True), engine_hears=False)
    report = await server.reports.get()
    for task in tasks:
        task.cancel()
    assert {sample.up_bytes_per_s for sample in report.samples} == {2e6}
    assert set(server.bursts) == {FIRST_BYTES}, "and bursts, which go past it, stay small"


async def test_reports_wait_for_a_server_that_is_away_and_are_dropped_if_it_wants_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.001)
    server = FakeServer(1e6, [ServerUnreachable("away"), NotFound("no such worker")])
    relay, _ = relay_of(server)
    task = asyncio.create_task(relay.deliver())
    for rtt_s in (0.1, 0.2):
        relay.measured(LinksMeasured(samples=(SAMPLE.model_copy(update={"rtt_s": rtt_s}),)))
    report = await server.reports.get()
    task.cancel()
    assert [sample.rtt_s for sample in report.samples] == [0.2]
