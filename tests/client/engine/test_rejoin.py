"""A worker that stops in good order and comes back: its engines are two, its work is one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from legion.checkpoint.shards import SliceInfo, write_slice
from legion.errors import PeerLost
from legion.ids import Epoch, Rank
from legion.outer.log import Anchor, OuterStep, apply
from legion.outer.state import opened
from legion.rounds import RoundRecord
from legion_client.agent.rejoin import catch_up
from legion_client.engine.protocol import AnchorReached, Finished, Left, StateSaved, StepDone, Stop
from tests.client.engine.engine_processes import RUN, Dataset, EngineProcess, Engines, prepared, with_config
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


@pytest.mark.parametrize(
    ("feedback", "until", "checkpoint", "way"), [("residual", 6, 5, "updates"), ("buffer", 13, 12, "checkpoint")]
)
def test_who_comes_back_goes_on_with_what_it_had(
    engines: Engines, text_data: Dataset, feedback: str, until: int, checkpoint: int, way: str
) -> None:
    """After a few rounds by their updates, after many by the checkpoint and what waited: whatever costs less."""
    data = rounds_of(text_data, until + 2, feedback=feedback)
    first, other = engines.start(2)
    table = seated(data, [[first], [other]], hold=3)
    table.wait_until_held()
    saved = stopped(first)
    assert saved.final
    with opened(saved.path) as kept:
        kept.check()
        assert kept.info.anchor == saved.anchor == 2, "nobody had the plan of round 3"
        layout = kept.info.layout
    table.leave(table.clusters[0].name)
    table.go_on(until=until)
    table.wait_until_held()
    again = engines.again(first)
    (heard,) = prepared([again], data)
    missed = table.records[2:checkpoint]
    assert catch_up(missed, 2, checkpoint, layout, Rank(0), momentum=False) == way
    state = moved(saved.path, again)
    if way == "updates":
        name = table.enter(again, heard, since=2, first_step=2 * checkpoint, local_state=state)
    else:
        resume_slice = checkpoint_of(table, state, again.folder / "slice.safetensors", missed)
        name = table.enter(
            again,
            heard,
            since=checkpoint,
            first_step=2 * checkpoint,
            local_state=state,
            missed=missed,
            resume_slice=resume_slice,
        )
    table.go_on()
    ended_alike(table, [again, other], until + 2)
    assert f"local state taken up kept_at=2 anchor={2 if way == 'updates' else checkpoint}" in again.log
    assert min(number for number, roots in table.roots.items() if name in {c for c, _, _ in roots}) == (
        3 if way == "updates" else checkpoint + 1
    )
    assert any(span.inclusion(name) for record in table.records[until:] for span in record.spans)
    assert again.all(StepDone)[0].record.step > 2 * until


def test_who_is_left_of_a_cluster_keeps_its_part(engines: Engines, text_data: Dataset) -> None:
    data = with_config(
        text_data, cluster={"policy": "fixed", "size": 2}, steps=4000, rounds={"steps": 4, "codec": "int4"}
    )
    lost, left, *others = engines.start(4)
    seated(data, [[lost, left], others])
    left.wait_for(AnchorReached)
    lost.kill()
    assert left.ended() == PeerLost.exit_code, left.log
    saved = left.all(StateSaved)[-1]
    assert saved.final
    with opened(saved.path) as kept:
        kept.check()
        assert (kept.info.rank, kept.info.cluster) == (1, "c1")
        assert kept.info.anchor >= 1
    for engine in others:
        engine.kill()


def checkpoint_of(table: Table, state: Path, path: Path, missed: Sequence[RoundRecord]) -> Path:
    """theta of the anchor after these rounds, as the agent lays it out."""
    with opened(state) as kept:
        layout = kept.info.layout
        anchor = Anchor(np.empty(layout.total, np.float32))
        kept.read("anchor", anchor.values)
    for record in missed:
        apply(
            anchor,
            record,
            lambda span: layout.fragments(Rank(0), span),
            lambda digest: table.storage[digest].read_bytes(),
            OuterStep(),
        )
    info = SliceInfo(run_id=RUN, step=2 * (missed[-1].round + 1), rank=Rank(0), epoch=Epoch(1), tokens=0)
    zeros = np.zeros_like(anchor.values)
    write_slice(path, info, {"weights": [anchor.values], "exp_avg": [zeros], "exp_avg_sq": [zeros]})
    return path


def moved(state: Path, engine: EngineProcess) -> Path:
    """Where the agent has it: one place, whoever the engine is."""
    engine.state_path.parent.mkdir()
    return state.rename(engine.state_path)
