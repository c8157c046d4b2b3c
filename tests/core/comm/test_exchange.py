"""One contract for every network: members running 0, 1 and 5 micro-batches, awkward sizes, lossy codecs, failures."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cluster_of_threads import in_threads
from network_cluster import NetworkCluster

from legion.codec.registry import by_name
from legion.comm.api import Ballot, Batches
from legion.comm.arrays import array_of
from legion.comm.local import LocalCluster
from legion.errors import LegionError, NotFinite, PartInvalid, PeerLost, PeerPaused
from legion.layout import Layout

MakeCluster = Callable[..., Any]


@pytest.fixture(params=["local", "network"])
def make_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> MakeCluster:
    if request.param == "local":
        return LocalCluster
    return lambda *args, **options: NetworkCluster(tmp_path, *args, **options)


def unit_values(layout: Layout, unit: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * 100 + unit)
    return torch.randn(layout.padded_unit(unit), generator=generator)


SHAPES = [((5000,), (1,)), ((1, 4096, 12289), (1, 1)), ((60_001, 4097), (5, 1, 2)), ((300_000,), (1,) * 7)]


@pytest.mark.parametrize(("units", "shares"), SHAPES)
def test_everyone_gathers_every_unit(
    make_cluster: MakeCluster, units: tuple[int, ...], shares: tuple[int, ...]
) -> None:
    layout = Layout(units, shares)

    def work(rank: int) -> list[torch.Tensor]:
        exchange = cluster.exchanges[rank]
        keep = []
        for unit in range(len(units)):
            bounds = layout.bounds(unit, rank)
            keep.append(unit_values(layout, unit, 0)[bounds.start : bounds.stop].clone())
            exchange.publish(0, unit, keep[-1])
        outs = [torch.empty(layout.padded_unit(unit)) for unit in range(len(units))]
        for work in [exchange.fetch(0, unit, out) for unit, out in enumerate(outs)]:
            work.wait()
        exchange.vote(0, Ballot(True, Batches((rank,), 1), len(shares))).wait()
        return outs

    with make_cluster(layout) as cluster:
        for outs in in_threads(work, len(shares)):
            assert all(torch.equal(out, unit_values(layout, unit, 0)) for unit, out in enumerate(outs))


@pytest.mark.parametrize("counts", [(6,), (0, 6), (1, 5), (5, 0, 1), (2, 2, 2)])
@pytest.mark.parametrize("static", [False, True])
def test_owners_hold_the_sum_of_all_parts(make_cluster: MakeCluster, counts: tuple[int, ...], static: bool) -> None:
    """Member r computes counts[r] of 6 micro-batches. Small integers, so that every order gives the same sum."""
    layout = Layout((9000, 3), tuple(range(1, len(counts) + 1)))
    firsts = np.cumsum((0, *counts))

    def gradient(index: int, unit: int) -> torch.Tensor:
        return torch.arange(layout.padded_unit(unit), dtype=torch.float32) % 97 * (index + 1)

    def work(rank: int) -> list[torch.Tensor]:
        exchange = cluster.exchanges[rank]
        outs = [torch.full((len(layout.bounds(unit, rank)),), torch.nan) for unit in range(2)]
        collects = [exchange.collect(3, unit, 6, out) for unit, out in enumerate(outs)]
        sends, keep = [], []
        for index in range(firsts[rank], firsts[rank + 1]):
            for unit in (1, 0):
                keep.append(gradient(index, unit).split((index + 1) * 999))  # one after the other
                sends.append(exchange.send_gradient(3, Batches((index,), 7), unit, *keep[-1]))
        for work in (*sends, *collects):
            work.wait()
        mine = tuple(range(firsts[rank], firsts[rank + 1]))
        verdict = exchange.vote(3, Ballot(True, Batches(mine, 7 * len(mine)), 6, 1.5, 2.0)).wait()
        assert verdict.commit
        assert (verdict.tokens, verdict.loss_sum, verdict.norm_squared) == (42, 1.5 * len(counts), 2.0 * len(counts))
        return outs

    with make_cluster(layout, static_claims=static) as cluster:
        results = in_threads(work, len(counts))
    for unit in range(2):
        whole = torch.cat([outs[unit] for outs in results])
        assert torch.equal(whole, sum(gradient(index, unit) for index in range(6)))


def test_a_codec_may_be_named_for_one_gradient(make_cluster: MakeCluster) -> None:
    """Others get what the codec made of it, in fewer bytes; the sender's own range is exact."""
    layout = Layout((9000, 70_000), (1, 2))
    codecs = (None, "onebit", None)

    def decoded(gradient: torch.Tensor) -> torch.Tensor:
        codec, out = by_name("onebit"), np.empty(gradient.numel(), dtype=np.float32)
        codec.decode(memoryview(codec.encode(array_of(gradient))), out)
        return torch.from_numpy(out)

    def work(rank: int) -> tuple[list[list[torch.Tensor]], list[int]]:
        exchange = cluster.exchanges[rank]
        sums, sent = [], [0]
        for step, codec in enumerate(codecs):
            outs = [torch.empty(len(layout.bounds(unit, rank))) for unit in range(2)]
            collects = [exchange.collect(step, unit, 2, out) for unit, out in enumerate(outs)]
            for unit in range(2):
                gradient = unit_values(layout, unit, rank).split(5000)
                exchange.send_gradient(step, Batches((rank,), 1), unit, *gradient, codec=codec).wait()
            for collect in collects:
                collect.wait()
            assert exchange.vote(step, Ballot(True, Batches((rank,), 1), 2)).wait().commit
            sums.append(outs)
            sent.append(exchange.usage.sent_gradient_bytes)
        return sums, [after - before for before, after in itertools.pairwise(sent)]

    with make_cluster(layout) as cluster:
        results = in_threads(work, 2)
    for rank, (sums, sent) in enumerate(results):
        theirs = sum(len(layout.bounds(unit, 1 - rank)) for unit in range(2))
        assert sent[0] == pytest.approx(sent[2], abs=16)  # a header's step
        assert sent[0] >= 4 * theirs
        assert theirs / 8 <= sent[1] <= sent[0] / 25
        for unit in range(2):
            bounds = layout.bounds(unit, rank)
            mine, other = (unit_values(layout, unit, r)[bounds.start : bounds.stop] for r in (rank, 1 - rank))
            for codec, outs in zip(codecs, sums, strict=True):
                assert torch.equal(outs[unit], mine + (other if codec is None else decoded(other)))


def test_claims_are_given_once_and_end(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 3,), (1, 1, 1))

    def work(rank: int) -> list[int]:
        exchange, found = cluster.exchanges[rank], []
        for step in range(3):
            while (index := exchange.claim(step, 11)) is not None:
                found.append(step * 100 + index)
            mine = tuple(i - step * 100 for i in found if i // 100 == step)
            assert exchange.vote(step, Ballot(True, Batches(mine, len(mine)), 11)).wait().commit
        return found

    with make_cluster(layout) as cluster:
        results = in_threads(work, 3)
    assert sorted(itertools.chain(*results)) == [step * 100 + i for step in range(3) for i in range(11)]


def test_what_a_resting_member_leaves_the_others_claim(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 3,), (1, 1, 1))

    def work(rank: int) -> list[int]:
        exchange, found = cluster.exchanges[rank], []
        for step in range(3):
            mine = []
            if rank == step:  # the leader too, once
                exchange.rest(step, 5)
            else:
                while (index := exchange.claim(step, 5)) is not None:
                    mine.append(index)
            if rank == 0:
                exchange.rest(step, 5)  # nothing is left
            assert exchange.vote(step, Ballot(True, Batches(tuple(mine), len(mine)), 5)).wait().commit
            found += [step * 100 + index for index in mine]
        return found

    with make_cluster(layout) as cluster:
        results = in_threads(work, 3)
    assert sorted(itertools.chain(*results)) == [step * 100 + i for step in range(3) for i in range(5)]


def test_a_cluster_ends_when_all_of_it_rests(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 2,), (1, 1))

    def work(rank: int) -> None:
        exchange = cluster.exchanges[rank]
        if rank:
            assert exchange.claim(0, 5) == 0
        exchange.rest(0, 5)
        if rank == 0:
            with pytest.raises(PeerPaused, match="every computer"):
                exchange.vote(0, Ballot(True, Batches((), 0), 5)).wait()

    with make_cluster(layout) as cluster:
        in_threads(work, 2)


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_lossy_weights_are_the_same_for_everyone(make_cluster: MakeCluster, codec: str) -> None:
    layout = Layout((70_000,), (1, 2))

    def work(rank: int) -> torch.Tensor:
        exchange = cluster.exchanges[rank]
        bounds = layout.bounds(0, rank)
        mine = unit_values(layout, 0, 1)[bounds.start : bounds.stop].clone()
        exchange.publish(0, 0, mine)
        out = torch.empty(layout.padded_unit(0))
        exchange.fetch(0, 0, out).wait()
        exchange.vote(0, Ballot(True, Batches((rank,), 1), 2)).wait()
        return out

    with make_cluster(layout, weights=codec) as cluster:
        first, second = in_threads(work, 2)
    exact = unit_values(layout, 0, 1)
    assert torch.equal(first, second)
    assert not torch.equal(first, exact)
    assert torch.allclose(first, exact, atol=0.02)


def test_a_no_aborts_the_step_for_everyone_at_once(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 2,), (1, 1))

    def work(rank: int) -> str:
        ballot = Ballot(rank == 0, Batches((rank,), 1), 2, reason="out of memory")
        verdict = cluster.exchanges[rank].vote(0, ballot).wait()
        assert not verdict.commit
        return verdict.reason

    with make_cluster(layout) as cluster:
        assert in_threads(work, 2) == ["out of memory"] * 2


def test_micro_batches_must_be_all_of_them_once(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 2,), (1, 1))

    def work(rank: int) -> bool:
        verdict = cluster.exchanges[rank].vote(0, Ballot(True, Batches((0,), 1), 2)).wait()
        return verdict.commit

    with make_cluster(layout) as cluster:
        assert in_threads(work, 2) == [False, False]


def test_a_part_that_is_not_finite_is_refused_and_says_whose_it_is(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 2,), (1, 1))

    def work(rank: int) -> Exception | None:
        exchange = cluster.exchanges[rank]
        out = torch.empty(4096)
        collect = exchange.collect(0, 0, 2, out)
        gradient = torch.ones(4096 * 2)
        gradient[5000] = torch.nan if rank == 0 else 1.0  # in the range of rank 1
        try:
            exchange.send_gradient(0, Batches((rank,), 1), 0, gradient).wait()
            collect.wait()
        except LegionError as error:
            cluster.fail(error)
            return error
        return None

    with make_cluster(layout) as cluster:
        errors = in_threads(work, 2)
        culprit = cluster.members[0].me
    found = [error for error in errors if isinstance(error, NotFinite)]
    assert found
    assert culprit in str(found[0])


def test_the_same_micro_batch_from_two_members_is_refused(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 2,), (1, 1))

    def work(rank: int) -> Exception | None:
        exchange = cluster.exchanges[rank]
        collect = exchange.collect(0, 0, 2, torch.empty(4096))
        try:
            exchange.send_gradient(0, Batches((0,), 1), 0, torch.ones(4096 * 2)).wait()
            collect.wait()
        except LegionError as error:
            cluster.fail(error)
            return error
        return None

    with make_cluster(layout) as cluster:
        errors = in_threads(work, 2)
    assert any(isinstance(error, PartInvalid) for error in errors)


def test_a_failure_ends_every_wait(make_cluster: MakeCluster) -> None:
    layout = Layout((4096 * 2,), (1, 1))
    with make_cluster(layout) as cluster:
        out = torch.empty(4096 * 2)
        waits = [
            cluster.exchanges[0].fetch(0, 0, out),
            cluster.exchanges[0].collect(0, 0, 2, torch.empty(4096)),
            cluster.exchanges[1].vote(0, Ballot(True, Batches((1,), 1), 2)),
        ]
        cluster.fail(PeerLost("worker7 cannot be reached"))
        for work in waits:
            with pytest.raises(PeerLost, match="worker7"):
                work.wait()


def test_a_member_that_leaves_is_named_with_its_reason(tmp_path: Path) -> None:
    layout = Layout((4096 * 2,), (1, 1))
    with NetworkCluster(tmp_path, layout) as cluster:
        out, parts = torch.empty(4096 * 2), [torch.zeros(4096) for _ in range(2)]
        for rank in (0, 1):
            cluster.exchanges[rank].publish(0, 0, parts[rank])
        cluster.exchanges[0].fetch(0, 0, out).wait()
        fetch = cluster.exchanges[0].fetch(1, 0, out)  # rank 1 never publishes that step
        cluster.leave(1, "stopped by its user")
        with pytest.raises(PeerLost, match="stopped by its user"):
            fetch.wait()
        assert cluster.members[0].changes.lost_peer == cluster.members[1].me


def test_100_megabytes_and_more_pass(tmp_path: Path) -> None:
    layout = Layout((52_000_000,), (1, 1))
    with NetworkCluster(tmp_path, layout) as cluster:
        parts = [torch.full((len(layout.bounds(0, rank)),), float(rank + 1)) for rank in (0, 1)]
        for rank in (0, 1):
            cluster.exchanges[rank].publish(0, 0, parts[rank])
        out = torch.zeros(layout.padded_unit(0))
        cluster.exchanges[0].fetch(0, 0, out).wait()
        assert torch.equal(out, torch.cat(parts))
        assert cluster.members[0].usage.received_bytes > 104_000_000


def test_views_of_tensors_share_memory_and_leave_it_resizable() -> None:
    tensor = torch.arange(4096, dtype=torch.float32)
    view = array_of(tensor)
    view[7] = -1
    assert tensor[7] == -1
    tensor.untyped_storage().resize_(0)
    assert array_of(torch.empty(0)).size == 0
    with pytest.raises(ValueError, match="float32"):
        array_of(torch.arange(3))
