"""Clusters of real engine processes that average by rounds."""

import signal
import threading

import pytest

from legion.ids import ClusterId
from legion.rounds import SpanReport
from legion_client.engine.protocol import Evaluated, Finished, StepDone
from tests.client.engine.disturbed_table import DisturbedTable
from tests.client.engine.engine_processes import WAIT_S, Dataset, EngineProcess, Engines, with_config
from tests.client.engine.round_table import seated


def in_rounds(data: Dataset, **change: object) -> Dataset:
    return with_config(data, cluster={"policy": "fixed", "size": 2}, **change)


@pytest.mark.parametrize("codec", ["none", "int4"])
def test_two_clusters_reach_equal_anchors(engines: Engines, text_data: Dataset, codec: str) -> None:
    data = in_rounds(text_data, steps=20, rounds={"steps": 4, "codec": codec})
    four = engines.start(4)
    table = seated(data, [four[:2], four[2:]])
    assert [engine.ended() for engine in four] == [0] * 4, "".join(engine.log for engine in four)
    assert len(table.records) == 5
    for number in range(1, 6):
        roots = table.roots[number]
        # Both clusters are laid out alike here: rank by rank, their slices of the anchor are the same bits.
        assert {(rank, root) for _, rank, root in roots} == {(rank, root) for c, rank, root in roots if c == "c1"}
        assert len(roots) == 4
    for engine in four:
        assert engine.reports[-1] == Finished(step=20)
        assert "Traceback" not in engine.log
    losses = {engine.all(Evaluated)[-1].record.loss for engine in four}
    assert len(losses) == 1
    assert losses.pop() < first_loss(four[0])


IN_SMALL_ROUNDS = {"steps": 2, "quorum": 0.6, "grace_s": 0.3}


def uses(codec: str) -> str:
    """This process contributes with a codec of its own."""
    return f"""
from legion.codec.registry import any_by_name
from legion.outer.courier import Courier
Courier.codec = lambda self: any_by_name({codec!r})
"""


def assert_equal_anchors(table: DisturbedTable, engines: list[EngineProcess]) -> None:
    """Of clusters of one: the roots are those of the whole anchor."""
    rounds = table.data.config.round_count
    assert [record.round for record in table.records] == list(range(rounds))
    for number in range(1, rounds + 1):
        assert len({root for _, _, root in table.roots[number]}) == 1, f"round {number}: {table.roots[number]}"
    assert {cluster for cluster, _, _ in table.roots[rounds]} == {table.cluster_of(engine).name for engine in engines}
    assert len({engine.all(Evaluated)[-1].record.loss for engine in engines}) == 1
    for engine in engines:
        assert "Traceback" not in engine.log


def test_a_cluster_that_was_stopped_for_some_rounds_catches_up(engines: Engines, text_data: Dataset) -> None:
    """With another codec in every cluster."""
    rounds = IN_SMALL_ROUNDS | {"codec": "auto"}
    data = with_config(text_data, cluster={"policy": "fixed", "size": 1}, steps=12, rounds=rounds)
    three = engines.start(3, patches={1: uses("int8"), 2: uses("onebit")})
    sleeper = three[2]

    all_there = threading.Event()

    def have_two(table: DisturbedTable, anchor: int) -> None:
        """Then all take part in the round that has just ended or ends soon, however busy this machine is."""
        if anchor == 2 and len(table.roots[2]) == 3:
            all_there.set()

    table = seated(data, [[engine] for engine in three], DisturbedTable, hold=3, on_root=have_two)
    assert all_there.wait(WAIT_S), table.roots
    sleeper.signal(signal.SIGSTOP)
    with table.lock:
        table.lose(sleeper, dead=False)
    table.go_on(until=5)
    table.wait_until_held()
    sleeper.signal(signal.SIGCONT)
    with table.lock:
        table.take_back(sleeper)
    table.go_on()
    assert [engine.ended() for engine in three] == [0, 0, 0], "".join(engine.log for engine in three)
    assert_equal_anchors(table, three)
    names = [cluster.name for cluster in table.clusters]
    asleep = table.records[3].spans[0]
    assert [asleep.inclusion(name) is not None for name in names] == [True, True, False]
    assert {number for number, roots in table.roots.items() if len(roots) == 3} == set(range(1, 7))


def test_a_reducer_that_dies_after_it_has_received_everything(engines: Engines, text_data: Dataset) -> None:
    """Nobody has its update: the next in the list makes another, of the parts that senders still hold."""
    data = with_config(text_data, cluster={"policy": "fixed", "size": 1}, steps=8, rounds=IN_SMALL_ROUNDS)
    three = engines.start(3)
    lost: list[tuple[EngineProcess, int, ClusterId]] = []

    def kill_the_first(table: DisturbedTable, engine: EngineProcess, report: SpanReport) -> bool:
        if report.round != 1 or lost:
            return True
        engine.kill()
        lost.append((engine, report.span, table.lose(engine, dead=True)))
        return False

    table = seated(data, [[engine] for engine in three], DisturbedTable, on_reduced=kill_the_first)
    survivors = [engine for engine in three if engine.ended() == 0]
    [(victim, span, name)] = lost
    assert [engine for engine in three if engine not in survivors] == [victim], "".join(e.log for e in three)
    assert_equal_anchors(table, survivors)
    record = table.records[1]
    assert [found.term for found in record.spans] == [1 if number == span else 0 for number in range(3)]
    assert record.spans[span].reducer != victim.identity.worker_id
    assert {i.cluster for i in record.spans[span].included} == {f"c{n}" for n in (1, 2, 3)} - {name}


def first_loss(engine: EngineProcess) -> float:
    return engine.all(StepDone)[0].record.loss
