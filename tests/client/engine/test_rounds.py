"""Clusters of real engine processes that average by rounds."""

import pytest

from legion_client.engine.protocol import Evaluated, Finished, StepDone
from tests.client.engine.engine_processes import Dataset, EngineProcess, Engines, with_config
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


def first_loss(engine: EngineProcess) -> float:
    return engine.all(StepDone)[0].record.loss
