"""Links between members: tried again after a broken connection, given up when a peer is gone, nothing counted twice."""

import asyncio
import collections
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cut_proxy import CutProxy
from tls_members import LAYOUT, Node, endpoints_of, failed, joined, listening, open_unit

from legion.codec.api import Floats
from legion.codec.registry import by_name
from legion.comm import liveness, server
from legion.comm.api import Ballot, Batches
from legion.comm.liveness import BEAT_S, FACTOR, LEAST_S, SLOWEST_AT_FIRST_S
from legion.comm.patience import REFUSED_S, SILENT_S
from legion.comm.server import SERVICE, PeerService
from legion.errors import NotFinite, PeerLost
from legion.ids import Rank
from legion.layout import CHUNK, Layout
from legion.messages import Endpoint

BIG = Layout((512 * CHUNK,), (1, 1))  # 4 MiB for each of two members


@contextlib.asynccontextmanager
async def through_a_proxy(folder: Path, layout: Layout, *, ordered: bool = False) -> AsyncIterator[tuple[Any, Any]]:
    """Two members; what the first asks of the second passes a proxy."""
    async with (
        listening(folder, layout, ordered=ordered) as nodes,
        CutProxy.to(nodes[1].network.port) as proxy,
        contextlib.AsyncExitStack() as stack,
    ):
        endpoints = endpoints_of(nodes)
        detour = endpoints | {Rank(1): Endpoint(host="127.0.0.1", port=proxy.port)}
        await stack.enter_async_context(nodes[0].network.joined(nodes[0].member, detour))
        await stack.enter_async_context(nodes[1].network.joined(nodes[1].member, endpoints))
        yield nodes, proxy


def gradient(index: int, layout: Layout = BIG) -> Floats:
    """Whole numbers, so that every order gives the same sum."""
    return np.arange(layout.padded_unit(0), dtype=np.float32) % 89 + np.float32(index)


@pytest.mark.parametrize("ordered", [False, True])
async def test_gradients_are_counted_once_however_often_the_connection_breaks(tmp_path: Path, ordered: bool) -> None:
    rng = random.Random(7)
    async with through_a_proxy(tmp_path, BIG, ordered=ordered) as (nodes, proxy):
        first, second = (node.member for node in nodes)
        for step in range(6):
            open_unit(nodes[0], step=step)
            out = open_unit(nodes[1], step=step)
            proxy.cut_after(rng.randrange(1 << 10, 15 << 20))
            async with asyncio.TaskGroup() as tasks:
                for index in (0, 1, 2, 3) if ordered else (2, 0, 3, 1):  # one after the other, in this order
                    work = first.scatter(step, Batches((index,), 1), 0, gradient(index))
                    tasks.create_task(work)
                tasks.create_task(second.mailbox.complete(step, 0))
            half = BIG.bounds(0, 1)
            assert np.array_equal(out, sum(gradient(index) for index in range(4))[half.start : half.stop])
        assert first.changes.failure is None
        assert second.changes.failure is None
        assert proxy.accepted > 1


async def test_weights_arrive_whole_however_often_the_connection_breaks(tmp_path: Path) -> None:
    rng = random.Random(11)
    async with through_a_proxy(tmp_path, BIG) as (nodes, proxy):
        first, second = (node.member for node in nodes)
        out = np.empty(BIG.padded_unit(0), dtype=np.float32)
        for step in range(6):
            for member in (first, second):
                bounds = BIG.bounds(0, member.group.rank)
                member.shelf.put(step, 0, gradient(step)[bounds.start : bounds.stop])
            proxy.cut_after(rng.randrange(1 << 10, 4 << 20))
            await first.gather(step, 0, out)
            assert np.array_equal(out, gradient(step))
        assert first.changes.failure is None
        assert proxy.accepted > 1


async def test_one_call_serves_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: collections.Counter[str] = collections.Counter()
    answer = PeerService.service

    def counting(service: PeerService, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        calls[details.method.removeprefix(SERVICE)] += 1
        return answer(service, details)

    monkeypatch.setattr(PeerService, "service", counting)
    async with joined(tmp_path) as nodes:
        first, second = (node.member for node in nodes)
        for step in range(3):
            open_unit(nodes[0], step=step)
            out = open_unit(nodes[1], step=step)
            for member in (first, second):
                bounds = LAYOUT.bounds(0, member.group.rank)
                member.shelf.put(step, 0, gradient(step, LAYOUT)[bounds.start : bounds.stop])
            weights = np.empty(LAYOUT.padded_unit(0), dtype=np.float32)
            async with asyncio.TaskGroup() as tasks:
                for index in range(4):
                    tasks.create_task(first.scatter(step, Batches((index,), 1), 0, gradient(index, LAYOUT)))
                    tasks.create_task(first.gather(step, 0, weights))
            await second.mailbox.complete(step, 0)
            assert np.array_equal(weights, gradient(step, LAYOUT))
            half = LAYOUT.bounds(0, 1)
            assert np.array_equal(out, sum(gradient(i, LAYOUT) for i in range(4))[half.start : half.stop])
    assert calls == {"Fetch": 1, "SendGradient": 1, "Watch": 2}


async def test_claims_and_votes_survive_lost_answers(tmp_path: Path) -> None:
    """The second member's calls to the first pass the proxy; a lost answer is asked for again."""
    async with (
        listening(tmp_path) as nodes,
        CutProxy.to(nodes[0].network.port) as proxy,
        contextlib.AsyncExitStack() as stack,
    ):
        endpoints = endpoints_of(nodes)
        detour = endpoints | {Rank(0): Endpoint(host="127.0.0.1", port=proxy.port)}
        await stack.enter_async_context(nodes[0].network.joined(nodes[0].member, endpoints))
        await stack.enter_async_context(nodes[1].network.joined(nodes[1].member, detour))
        leader, other = (node.member for node in nodes)
        for step in range(6):
            claimed: list[int] = []
            proxy.cut_after(100 + 61 * step)  # a call and its answer are about 200 bytes
            while (index := await other.claim(step, 4)) is not None:
                claimed.append(index)
            assert claimed == [0, 1, 2, 3]
            assert await leader.claim(step, 4) is None
            proxy.cut_after(40 + 37 * step)
            ballots = (Ballot(True, Batches((), 0), 4, 1.0), Ballot(True, Batches((0, 1, 2, 3), 40), 4, 2.0))
            verdicts = await asyncio.gather(leader.vote(step, ballots[0]), other.vote(step, ballots[1]))
            assert verdicts[0] == verdicts[1]
            assert (verdicts[0].commit, verdicts[0].loss_sum, verdicts[0].tokens) == (True, 3.0, 40)
        assert proxy.accepted > 4


async def test_a_plan_may_arrive_later_at_one_member_than_at_another(tmp_path: Path) -> None:
    """The early one's calls wait; nothing of them is lost."""
    async with listening(tmp_path) as nodes, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(nodes[1].network.joined(nodes[1].member, endpoints_of(nodes)))
        early = nodes[1].member
        calls = [
            asyncio.ensure_future(early.claim(0, 4)),
            asyncio.ensure_future(early.scatter(0, Batches((0,), 1), 0, np.ones(2 * CHUNK, dtype=np.float32))),
            asyncio.ensure_future(early.gather(0, 0, np.empty(2 * CHUNK, dtype=np.float32))),
        ]
        open_unit(nodes[1])
        early.shelf.put(0, 0, np.ones(CHUNK, dtype=np.float32))
        done, _ = await asyncio.wait(calls, timeout=0.3)
        assert not done
        await stack.enter_async_context(nodes[0].network.joined(nodes[0].member, endpoints_of(nodes)))
        out = open_unit(nodes[0])
        nodes[0].member.shelf.put(0, 0, np.ones(CHUNK, dtype=np.float32))
        await asyncio.gather(*calls)
        assert calls[0].result() == 0
        assert (out == 1).all()


async def test_a_peer_that_dies_is_noticed_in_time_and_named(tmp_path: Path) -> None:
    async with through_a_proxy(tmp_path, LAYOUT) as (nodes, proxy):
        fetch = asyncio.ensure_future(nodes[0].member.gather(0, 0, np.empty(2 * CHUNK, dtype=np.float32)))
        nodes[0].member.shelf.put(0, 0, np.ones(CHUNK, dtype=np.float32))
        await nodes[0].member.links[Rank(1)].send_gradient(0, Batches((0,), 1), 0, admitted(nodes[1]))
        started = time.monotonic()
        proxy.refuse = True
        proxy.cut()
        error = await failed(nodes[0])
        took_s = time.monotonic() - started
        assert isinstance(error, PeerLost)
        assert nodes[1].member.me in str(error)
        assert nodes[0].member.changes.lost_peer == nodes[1].member.me
        assert SILENT_S <= took_s < SILENT_S + 3.0
        with pytest.raises(PeerLost, match=nodes[1].member.me):
            await fetch


async def test_who_was_there_before_the_plan_and_listens_no_more_is_gone(tmp_path: Path) -> None:
    """Who was not may be on its way: an engine that starts listens later."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Endpoint(host="127.0.0.1", port=free.getsockname()[1])
    async with listening(tmp_path) as nodes:
        there, gone = nodes[0].member, nodes[1].member.me
        endpoints = endpoints_of(nodes) | {Rank(1): nobody}
        async with nodes[0].network.joined(there, endpoints, [gone]):
            started = time.monotonic()
            error = await failed(nodes[0])
            assert REFUSED_S <= time.monotonic() - started < SILENT_S
    assert isinstance(error, PeerLost)
    assert there.changes.lost_peer == gone


async def test_a_peer_that_is_connected_and_says_nothing_is_lost(tmp_path: Path) -> None:
    """Not one connection breaks: what is sent never arrives, in either direction."""
    async with through_a_proxy(tmp_path, LAYOUT) as (nodes, proxy):
        await nodes[0].member.links[Rank(1)].send_gradient(0, Batches((0,), 1), 0, admitted(nodes[1]))
        started = time.monotonic()
        proxy.each_carries_bytes = 0
        error = await failed(nodes[0])
        took_s = time.monotonic() - started
        assert isinstance(error, PeerLost)
        assert f"{nodes[1].member.me} is connected, and has said nothing for" in str(error)
        assert nodes[0].member.changes.lost_peer == nodes[1].member.me
        assert LEAST_S - BEAT_S <= took_s < FACTOR * SLOWEST_AT_FIRST_S + 3.0
        assert proxy.accepted == 1
        assert nodes[1].member.changes.failure is None, "its own link does not pass there"


async def test_nobody_is_lost_for_saying_nothing_while_its_words_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that computes for long answers nothing, and its loop says that it lives."""
    monkeypatch.setattr(liveness, "LEAST_S", 0.6)
    monkeypatch.setattr(liveness, "SLOWEST_AT_FIRST_S", 0.0)
    monkeypatch.setattr(server, "BEAT_S", 0.1)
    async with joined(tmp_path) as nodes:
        nodes[0].member.shelf.put(0, 0, np.ones(CHUNK, dtype=np.float32))
        out = np.empty(2 * CHUNK, dtype=np.float32)
        fetch = asyncio.ensure_future(nodes[0].member.gather(0, 0, out))
        await asyncio.wait({fetch}, timeout=2.0)
        assert not fetch.done()
        nodes[1].member.shelf.put(0, 0, np.ones(CHUNK, dtype=np.float32))
        await fetch
        assert nodes[0].member.changes.failure is None


def admitted(node: Node) -> Floats:
    """Values that the node takes at once: the link is known to work."""
    open_unit(node)
    return np.ones(CHUNK, dtype=np.float32)


@pytest.mark.parametrize(("reason", "fails"), [("complete", False), ("stopped by its user", True)])
async def test_a_farewell_says_whether_anything_is_wrong(tmp_path: Path, reason: str, fails: bool) -> None:
    async with joined(tmp_path) as nodes:
        await nodes[0].member.links[Rank(1)].send_gradient(0, Batches((0,), 1), 0, admitted(nodes[1]))
        if not fails:
            await nodes[1].network.leave(reason)
            assert nodes[0].member.changes.failure is None
            return
        error, _ = await asyncio.gather(failed(nodes[0]), nodes[1].network.leave(reason))
        assert str(error) == f"{nodes[1].member.me} left: {reason}"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("codec", ["none", "bf16", "int8"])
async def test_who_sends_a_large_bad_gradient_is_told(tmp_path: Path, bad: float, codec: str) -> None:
    """4 MiB, bad at their start: the refusal must get through while the rest is still on its way.

    A lossy codec finds it at the sender already.
    """
    async with joined(tmp_path, BIG) as nodes:
        sender = nodes[0].member
        sender.gradients_codec = by_name(codec)
        open_unit(nodes[1])
        values = np.ones(256 * CHUNK, dtype=np.float32)
        values[5] = bad
        with pytest.raises(NotFinite) as caught:
            await sender.links[Rank(1)].send_gradient(0, Batches((0,), 1), 0, values)
        assert sender.me in str(caught.value)
        if codec == "none":
            assert sender.me in str(nodes[1].member.changes.failure)
        with pytest.raises(NotFinite, match=sender.me):  # also as the compute thread sees it
            await sender.scatter(0, Batches((1,), 1), 0, np.concatenate((values, values)))


async def test_a_failed_member_calls_nobody(tmp_path: Path) -> None:
    """Its channels are closed: what failed comes out, not a complaint about channels."""
    async with joined(tmp_path) as nodes:
        nodes[1].member.changes.fail(NotFinite("the gradient of ann"))
        for _ in range(3):  # before, while and after its channels close
            for call in (
                nodes[1].member.claim(0, 4),
                nodes[1].member.vote(0, Ballot(False, Batches((), 0), 4)),
                nodes[1].member.links[Rank(0)].fetch(0, 0, np.empty(CHUNK, dtype=np.float32)),
            ):
                with pytest.raises(NotFinite, match="ann"):
                    await call
            await asyncio.sleep(0)
