"""A worker that stops in good order and comes back: its engines are two, its work is one."""

from pathlib import Path

import pytest

from legion.outer.state import opened
from legion_client.engine.protocol import Finished, Left, StateSaved, StepDone, Stop
from tests.client.engine.engine_processes import Dataset, EngineProcess, Engines, prepared, with_config
from tests.client.engine.round_table import Table, seated


def rounds_of(data: Dataset, rounds: int, **change: object) -> Dataset:
    return with_config(
        data, cluster={"policy": "solo"}, steps=2 * rounds, rounds={"steps": 2, "codec": "int4"} | change
    )


def stopped(engine: EngineProcess) -> StateSaved:
    engine.send(Stop(reason="the volunteer wants the computer"))
    assert engine.ended() == 0, engine.log
    assert isinstance(engine.reports[-1], Left)
    return engine.all(StateSaved)[-1]


def ended_alike(table: Table, engines: list[EngineProcess], rounds: int) -> None:
    assert [engine.ended() for engine in engines] == [0] * len(engines), "".join(e.log for e in engines)
    assert len(table.records) == rounds
    for engine in engines:
        assert engine.reports[-1] == Finished(step=2 * rounds)
        assert "Traceback" not in engine.log
        assert not engine.state_path.exists(), "of a run that is complete nothing is kept"
    for number, roots in table.roots.items():
        assert len({root for _, _, root in roots}) == 1, f"anchors {number} differ"


@pytest.mark.parametrize("feedback", ["residual", "buffer"])
def test_who_comes_back_goes_on_with_what_it_had(engines: Engines, text_data: Dataset, feedback: str) -> None:
    data = rounds_of(text_data, 9, feedback=feedback)
    first, other = engines.start(2)
    table = seated(data, [[first], [other]], hold=3)
    table.wait_until_held()
    saved = stopped(first)
    assert saved.final
    with opened(saved.path) as kept:
        kept.check()
        assert kept.info.anchor == saved.anchor == 2, "nobody had the plan of round 3"
    table.leave(table.clusters[0].name)
    table.go_on(until=6)
    table.wait_until_held()
    again = engines.again(first)
    (heard,) = prepared([again], data)
    name = table.enter(again, heard, since=2, local_state=moved(saved.path, again))
    table.go_on()
    ended_alike(table, [again, other], 9)
    assert "local state taken up kept_at=2 anchor=2" in again.log
    assert any(span.inclusion(name) for record in table.records[6:] for span in record.spans)
    assert again.all(StepDone)[0].record.step > 12


def moved(state: Path, engine: EngineProcess) -> Path:
    """Where the agent has it: one place, whoever the engine is."""
    engine.state_path.parent.mkdir()
    return state.rename(engine.state_path)
