"""A real engine that is told to rest: nothing is computed, what it has contributed goes out, and it goes on then."""

import time

import psutil
import pytest

from legion.outer.state import opened
from legion_client.engine.protocol import (
    AnchorReached,
    Failed,
    Held,
    Left,
    Pause,
    Resume,
    StateSaved,
    StepDone,
    Stop,
    Throttle,
)
from tests.client.engine.engine_processes import Dataset, EngineProcess, Engines, training, with_config
from tests.client.engine.round_table import seated

PAUSE_S = 2.0  # from the request to no more compute, beside one micro-batch


def cpu_s(engine: EngineProcess) -> float:
    times = psutil.Process(engine.pid).cpu_times()
    return float(times.user + times.system)


def assert_silent(engine: EngineProcess, for_s: float) -> None:
    """It uses next to no processor time for so long."""
    before, began = cpu_s(engine), time.monotonic()
    engine.until_silent(for_s)
    used, took = cpu_s(engine) - before, time.monotonic() - began
    assert used <= 0.05 * took + 0.05, f"{used:.2f} s of computing in {took:.2f} s of a pause"


def test_a_pause_ends_computing_and_resume_loses_nothing(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, steps=400)
    [engine] = engines.start(1)
    training([engine], data)
    engine.wait_for(StepDone)
    engine.send(Pause(reason="the volunteer asked"))
    held = engine.wait_for(Held)
    assert held.after_s <= PAUSE_S
    assert_silent(engine, 1.0)
    engine.send(Resume())
    engine.wait_for(StepDone)
    engine.send(Stop(reason="enough"))
    assert engine.ended() == 0, engine.log
    steps = [report.record.step for report in engine.all(StepDone)]
    assert steps == list(range(1, len(steps) + 1)), "no step is lost or done twice"


def test_a_paused_engine_stops_at_once_and_keeps_its_state(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, cluster={"policy": "solo"}, steps=4000, rounds={"steps": 400, "codec": "int4"})
    first, other = engines.start(2)
    seated(data, [[first], [other]])
    first.wait_for(StepDone)
    first.send(Pause(reason="a game needs the graphics card"))
    first.wait_for(Held)
    done = first.all(StepDone)[-1].record
    began = time.monotonic()
    first.send(Stop(reason="a game needs the graphics card", within_s=0))
    assert first.ended() == 0, first.log
    assert time.monotonic() - began < 8.0  # 5 s of it for a handover that nobody may take
    assert isinstance(first.reports[-1], Left)
    with opened(first.only(StateSaved).path) as kept:
        kept.check()
        assert (kept.info.final, kept.info.steps) == (True, done.step)
    other.kill()


def test_finish_contributes_first(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, cluster={"policy": "solo"}, steps=4000, rounds={"steps": 20, "codec": "int4"})
    first, other = engines.start(2)
    table = seated(data, [[first], [other]])
    first.wait_for(AnchorReached)
    first.send(Pause(reason="finish this round", after_contribution=True))
    first.wait_for(Held)
    name = table.clusters[0].name
    rounds = {span.inclusion(name) is not None for record in table.records for span in record.spans}
    assert rounds
    first.send(Resume())
    first.wait_for(AnchorReached)
    for engine in (first, other):
        engine.kill()


def in_clusters(data: Dataset, round_steps: int, claims: str = "dynamic") -> Dataset:
    cluster = {"policy": "fixed", "size": 2, "claims": claims}
    return with_config(data, cluster=cluster, steps=4000, rounds={"steps": round_steps, "codec": "int4"})


def batches_since(engine: EngineProcess, step: int) -> list[int]:
    """Micro-batches that it computed in each step after `step`."""
    return [report.record.micro_batches for report in engine.all(StepDone) if report.record.step > step]


def test_a_resting_member_serves_its_slice_until_the_round_ends(engines: Engines, text_data: Dataset) -> None:
    resting, other, alone = engines.start(3)
    seated(in_clusters(text_data, 20), [[resting, other], [alone]])
    resting.wait_for(StepDone)
    resting.send(Pause(reason="a game runs", serves=True))
    assert resting.wait_for(Held).after_s <= PAUSE_S
    at = resting.all(StepDone)[-1].record.step
    resting.wait_for(Left)
    assert resting.ended() == 0, resting.log
    rested = batches_since(resting, at + 1)
    assert sum(rested) == 0, "it computes nothing"
    assert all(batches_since(other, at + 1)[: len(rested)]), "the other does all of it"
    assert resting.all(StepDone)[-1].record.step % 20 == 0, "it stays until its round is contributed"
    with opened(resting.only(StateSaved).path) as kept:
        kept.check()
    failed = other.wait_for(Failed)
    assert (failed.slug, failed.lost_peer) == ("peer-paused", resting.identity.worker_id)
    alone.kill()


def test_a_resting_member_goes_on_when_it_may(engines: Engines, text_data: Dataset) -> None:
    resting, other, alone = engines.start(3)
    seated(in_clusters(text_data, 400), [[other, resting], [alone]])
    resting.wait_for(StepDone)
    resting.send(Pause(reason="a game runs", serves=True))
    resting.wait_for(Held)
    at = resting.all(StepDone)[-1].record.step
    while len(batches_since(resting, at + 1)) < 3:
        resting.wait_for(StepDone)
    assert sum(batches_since(resting, at + 1)) == 0
    resting.send(Resume())
    while not resting.wait_for(StepDone).record.micro_batches:
        pass
    for engine in (resting, other, alone):
        engine.kill()


def test_a_cluster_whose_members_all_rest_ends_and_keeps_what_it_has(engines: Engines, text_data: Dataset) -> None:
    first, second, alone = engines.start(3)
    seated(in_clusters(text_data, 400), [[first, second], [alone]])
    for engine in (first, second):
        engine.wait_for(StepDone)
    for engine in (first, second):
        engine.send(Pause(reason="a game runs", serves=True))
    for engine in (first, second):
        assert engine.wait_for(Failed).slug in ("peer-paused", "peer-lost"), engine.log
        with opened(engine.only(StateSaved).path) as kept:
            kept.check()
    alone.kill()


def test_who_waits_for_others_while_it_rests_can_be_stopped(engines: Engines, text_data: Dataset) -> None:
    resting, other, alone = engines.start(3)
    seated(in_clusters(text_data, 400), [[resting, other], [alone]])
    resting.wait_for(StepDone)
    other.send(Pause(reason="its card is hot"))
    other.wait_for(Held)
    # It waits for the other's say on the step, and finds no micro-batch after which it could rest.
    resting.send(Pause(reason="a game runs", serves=True))
    resting.send(Stop(reason="a game runs", within_s=0.0, rests=True))
    assert resting.ended() == 0, resting.log
    assert isinstance(resting.reports[-1], Left)
    with opened(resting.only(StateSaved).path) as kept:
        kept.check()
    other.send(Resume())
    assert other.wait_for(Failed).slug == "peer-paused", "nothing is wrong with those who are left"
    alone.kill()


def test_where_nobody_can_take_over_its_work_a_resting_member_leaves(engines: Engines, text_data: Dataset) -> None:
    resting, other, alone = engines.start(3)
    seated(in_clusters(text_data, 400, "static"), [[resting, other], [alone]])
    resting.wait_for(StepDone)
    resting.send(Pause(reason="a game runs", serves=True))
    assert resting.ended() == 0, resting.log
    assert isinstance(resting.reports[-1], Left)
    assert other.wait_for(Failed).slug == "peer-paused"
    alone.kill()


@pytest.mark.parametrize("duty", [0.25, 0.5])
def test_a_limit_rests_between_micro_batches(engines: Engines, text_data: Dataset, duty: float) -> None:
    data = with_config(text_data, steps=100_000)
    [engine] = engines.start(1)
    training([engine], data)
    engine.wait_for(StepDone)
    engine.send(Throttle(duty=duty, threads=1))
    engine.wait_for(StepDone)
    before, began = cpu_s(engine), time.monotonic()
    while time.monotonic() - began < 4.0:
        engine.wait_for(StepDone)
    share = (cpu_s(engine) - before) / (time.monotonic() - began)
    assert share <= duty + 0.1
    engine.send(Throttle())
    engine.wait_for(StepDone)
    engine.kill()
