"""A plan that arrives twice, and one that arrives late: the engine goes on with the one that it follows."""

from legion.ids import Epoch
from legion_client.engine.protocol import Failed, Left, StepDone, Stop, Train
from tests.client.engine.engine_processes import Dataset, Engines, training, with_config


def test_only_a_newer_plan_takes_the_place_of_the_one_that_is_followed(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, steps=1_000_000, checkpoint={"every_steps": 1_000_000})
    [engine] = engines.start(1)
    plan = training([engine], data)
    first = engine.wait_for(StepDone).record.step
    engine.send(Train(plan=plan))
    engine.send(Train(plan=plan.model_copy(update={"epoch": Epoch(plan.epoch - 1)})))
    assert engine.wait_for(StepDone).record.step == first + 1
    engine.send(Stop(reason="the test is over"))
    assert engine.ended() == 0
    assert engine.all(Failed) == []
    assert isinstance(engine.reports[-1], Left)
    steps = [report.record.step for report in engine.all(StepDone)]
    assert steps == list(range(1, len(steps) + 1)), "no step is made anew"
    assert engine.log.count("plan ignored, a newer one is followed") == 2
