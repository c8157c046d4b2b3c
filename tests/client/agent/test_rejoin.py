"""Which way back costs less, what of an old state is of use, and what an engine is told of it."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.codec.auto import for_flush
from legion.codec.registry import any_by_name
from legion.config import RunConfig, merge
from legion.errors import StorageFailed
from legion.ids import ClusterId, Epoch, Rank, RunId, WorkerId
from legion.layout import CHUNK, Layout, spans
from legion.messages import Endpoint, Member, ModelShape, Plan, TensorShape, UnitShape
from legion.outer.log import HEADER, blob_of
from legion.outer.state import StateInfo, write_state
from legion.rounds import Inclusion, RoundRecord, RoundsPage, SpanRecord
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.rejoin import WayBack, catch_up, checkpoint_bytes, unfit, updates_bytes, way_back

RUN = RunId("run-test")
DIGEST = "1" * 64
UNITS = (40 * CHUNK,)
SOLO = Layout(UNITS, (1,))
ME = WorkerId("me")
OLD, OTHER = ClusterId("c3"), ClusterId("c4")
CONFIG = merge(RunConfig(), {"cluster": {"policy": "solo"}, "rounds": {"steps": 4}})


def record_of(number: int, sizes_bytes: list[int], total: int = SOLO.total) -> RoundRecord:
    return RoundRecord(
        run_id=RUN,
        round=number,
        spans=tuple(
            SpanRecord(
                term=0,
                reducer=ME,
                digest="a" * 64,
                size_bytes=size_bytes,
                included=tuple(Inclusion(cluster=name, parts=("b" * 64,), tokens=7) for name in (OLD, OTHER)),
            )
            for size_bytes in sizes_bytes
        ),
        bounds=tuple((bounds.start, bounds.stop) for bounds in spans(total, len(sizes_bytes))),
        tokens=14,
        total_tokens=14,
        committed_at=0.0,
    )


# The cheaper way.


@given(
    sizes=st.lists(st.lists(st.integers(1, 10**6), min_size=2, max_size=2), max_size=30),
    anchor=st.integers(0, 9),
    ahead=st.integers(-3, 30),
    shares=st.sampled_from([(1,), (1, 3), (5, 1, 1)]),
    rank=st.integers(0, 2),
    momentum=st.booleans(),
)
def test_the_way_back_is_the_one_that_fetches_less(
    sizes: list[list[int]], anchor: int, ahead: int, shares: tuple[int, ...], rank: int, momentum: bool
) -> None:
    layout, mine = Layout(UNITS, shares), Rank(rank % len(shares))
    missed = [record_of(anchor + place, each) for place, each in enumerate(sizes)][: max(0, ahead)]
    way = catch_up(missed, anchor, anchor + ahead, layout, mine, momentum=momentum)
    log_is_whole = len(missed) >= ahead
    by_updates, by_checkpoint = updates_bytes(missed, layout, mine), checkpoint_bytes(layout, mine, momentum=momentum)
    if ahead <= 0:
        assert way == "updates"
    elif not log_is_whole:
        assert way == "checkpoint"
    else:
        assert (by_updates if way == "updates" else by_checkpoint) == min(by_updates, by_checkpoint)


@pytest.mark.parametrize("momentum", [False, True])
def test_it_changes_once_as_the_absence_grows(momentum: bool) -> None:
    size_bytes = checkpoint_bytes(SOLO, Rank(0), momentum=momentum) // 8
    ways = [
        catch_up([record_of(n, [size_bytes]) for n in range(away)], 0, away, SOLO, Rank(0), momentum=momentum)
        for away in range(20)
    ]
    assert ways == ["updates"] * 9 + ["checkpoint"] * 11


def test_updates_of_spans_that_a_slice_does_not_meet_cost_nothing() -> None:
    layout = Layout(UNITS, (1, 1))
    record = record_of(0, [100, 1000])
    assert [updates_bytes([record], layout, rank) for rank in layout.ranks] == [100, 1000]
    assert updates_bytes([record], SOLO, Rank(0)) == 1100


def test_a_gap_in_the_log_closes_the_way_by_updates() -> None:
    records = [record_of(number, [1]) for number in (0, 1, 3)]
    assert catch_up(records, 0, 4, SOLO, Rank(0), momentum=False) == "checkpoint"


AWAY = 20  # rounds


def update_bytes(codec: str, *, density: float = 1.0) -> int:
    """Of a model, by the real codec: this share of its values is not zero."""
    draw = np.random.default_rng(3)
    values = draw.standard_normal(SOLO.total).astype(np.float32)
    values[draw.random(SOLO.total) >= density] = 0
    return len(blob_of(any_by_name(codec), values)) - HEADER.size


@pytest.mark.parametrize(
    ("codec", "density", "flushes", "ratio", "way"),
    [
        ("int8", 1.0, 2, 5.08, "checkpoint"),
        ("int4", 1.0, 2, 2.66, "checkpoint"),
        ("topk240x4", 2 / 64, 0, 0.23, "updates"),  # of two clusters that send 1.56 % each, none what the other sends
        ("topk240x4", 4 / 64, 0, 0.36, "updates"),  # of four
        # In the residual form one round in 16 is a flush, and its update dense: one or two of twenty.
        ("topk240x4", 2 / 64, 1, 0.35, "updates"),
        ("topk240x4", 4 / 64, 1, 0.47, "updates"),
        ("topk240x4", 2 / 64, 2, 0.47, "updates"),
        ("topk240x4", 4 / 64, 2, 0.58, "updates"),
    ],
)
def test_what_twenty_rounds_cost_against_an_fp32_checkpoint(
    codec: str, density: float, flushes: int, ratio: float, way: str
) -> None:
    """With sparse updates <= 40 % where no more than one is a flush, and then of two clusters; else what it says."""
    sparse, dense = update_bytes(codec, density=density), update_bytes(for_flush(any_by_name(codec)).name)
    missed = [record_of(number, [dense if number < flushes else sparse]) for number in range(AWAY)]
    full = checkpoint_bytes(SOLO, Rank(0), momentum=False)
    assert updates_bytes(missed, SOLO, Rank(0)) / full == pytest.approx(ratio, abs=0.01)
    assert catch_up(missed, 0, AWAY, SOLO, Rank(0), momentum=False) == way


# What fits.


def plan_of(first_step: int = 0, **changes: Any) -> Plan:
    shape = ModelShape(units=(UnitShape(name="all", tensors=(TensorShape(name="w", shape=UNITS),)),))
    member = Member(worker_id=ME, endpoint=Endpoint(host="127.0.0.1", port=1), share=1)
    plan = Plan(
        run_id=RUN,
        epoch=Epoch(9),
        members=(member,),
        shape=shape,
        first_step=first_step,
        config_digest=DIGEST,
        cluster=ClusterId("c9"),
        round=30,
    )
    return plan.model_copy(update=changes)


def info_of(**changes: Any) -> StateInfo:
    fields: dict[str, Any] = {
        "run_id": RUN,
        "config_digest": DIGEST,
        "units": UNITS,
        "shares": (1,),
        "rank": Rank(0),
        "cluster": OLD,
        "sent_as": ClusterId("c1"),
        "anchor": 2,
        "final": True,
        "steps": 3,
        "tokens": 300,
        "optimizer_steps": 11,
        "momentum": False,
        "spans": (),
    }
    return StateInfo(**(fields | changes))


@pytest.mark.parametrize(
    ("state", "plan", "says"),
    [
        ({}, {}, None),
        ({"shares": (7,)}, {}, None),
        ({"run_id": RunId("another")}, {}, "of run another"),
        ({"config_digest": "2" * 64}, {}, "another configuration"),
        ({"shares": (1, 1)}, {}, "another part"),
        ({"anchor": 31}, {}, "of round 31"),
    ],
)
def test_what_of_a_state_fits_a_plan(state: dict[str, Any], plan: dict[str, Any], says: str | None) -> None:
    found = unfit(info_of(**state), plan_of(**plan), Rank(0))
    assert found is None if says is None else says in str(found)


# On the way.


class Log:
    """What of a coordinator is asked: pages of at most three records."""

    def __init__(self, first: int, stop: int, size_bytes: int) -> None:
        self.records = [record_of(number, [size_bytes]) for number in range(first, stop)]
        self.asked: list[int] = []

    async def rounds(self, since: int) -> RoundsPage:
        self.asked.append(since)
        found = [record for record in self.records if record.round >= since][:3]
        return RoundsPage(first=self.records[0].round, records=tuple(found))


def state_at(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    info = info_of(**changes)
    values = np.zeros(info.layout.owned(info.rank), np.float32)
    write_state(path, info, dict.fromkeys(("weights", "exp_avg", "exp_avg_sq", "anchor"), values), [])
    return path


async def back(log: Log, path: Path, plan: Plan) -> WayBack | None:
    return await way_back(cast(Coordinator, log), path, plan, Rank(0), CONFIG)


async def test_by_updates_the_engine_starts_where_it_stopped(tmp_path: Path) -> None:
    path, log = state_at(tmp_path / "local"), Log(0, 30, 10)
    assert await back(log, path, plan_of(first_step=4 * 12)) == WayBack(path, "updates", 2)
    assert log.asked == [2, 5, 8, 11], "what the checkpoint has, no more"


async def test_by_a_checkpoint_it_hears_what_became_of_its_parts(tmp_path: Path) -> None:
    path, log = state_at(tmp_path / "local"), Log(0, 30, SOLO.total)
    found = await back(log, path, plan_of(first_step=4 * 12))
    assert found is not None
    assert (found.by, found.anchor) == ("checkpoint", 12)
    assert [record.round for record in found.missed] == list(range(2, 12))
    names = {i.cluster for record in found.missed for span in record.spans for i in span.included}
    assert names == {OLD}, "and nothing of others"


async def test_what_the_log_has_forgotten_is_not_waited_for(tmp_path: Path) -> None:
    path, log = state_at(tmp_path / "local"), Log(6, 30, 10)
    found = await back(log, path, plan_of(first_step=4 * 12))
    assert found is not None
    assert (found.by, [record.round for record in found.missed]) == ("checkpoint", list(range(6, 12)))


async def test_without_a_checkpoint_nothing_is_asked(tmp_path: Path) -> None:
    path, log = state_at(tmp_path / "local"), Log(0, 30, 10)
    assert await back(log, path, plan_of()) == WayBack(path, "updates", 2)
    assert log.asked == []


async def test_nothing_kept_is_no_way_back(tmp_path: Path) -> None:
    assert await back(Log(0, 30, 10), tmp_path / "nothing", plan_of()) is None


@pytest.mark.parametrize("what", ["run", "damage", "noise"])
async def test_what_is_of_no_use_is_said_and_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path = state_at(tmp_path / "local", **({"run_id": RunId("another")} if what == "run" else {}))
    data = bytearray(path.read_bytes())
    if what == "damage":
        data[-100] ^= 1
    path.write_bytes(b"noise" if what == "noise" else data)
    assert await back(Log(0, 30, 10), path, plan_of()) is None
    assert not path.exists()
    assert "local state not used" in caplog.text


async def test_a_state_that_cannot_be_deleted_ends_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = state_at(tmp_path / "local", run_id=RunId("another"))

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StorageFailed, match="Permission denied"):
        await back(Log(0, 30, 10), path, plan_of())
