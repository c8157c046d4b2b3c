"""Real engines with a limited line: told at any time, kept while they train, and all bytes are reported."""

from legion_client.engine.protocol import Finished, Moved, Rates, StepDone
from tests.client.engine.engine_processes import Dataset, EngineProcess, Engines, training, with_config

STEPS = 8


def moved(engine: EngineProcess) -> tuple[int, int]:
    reports = engine.all(Moved)
    return sum(report.sent_bytes for report in reports), sum(report.received_bytes for report in reports)


def test_a_cluster_trains_on_through_limited_lines_and_tells_of_every_byte(
    engines: Engines, text_data: Dataset
) -> None:
    data = with_config(text_data, steps=STEPS)
    first, second = engines.start(2)
    training([first, second], data)
    first.wait_for(StepDone)
    first.send(Rates(upload_bytes_per_s=2_000_000, download_bytes_per_s=3_000_000))
    second.send(Rates(upload_bytes_per_s=4_000_000))
    first.wait_for(StepDone)
    first.send(Rates())
    for engine in (first, second):
        engine.wait_for(Finished)
        assert engine.ended() == 0, engine.log
        assert "line upload_bytes_per_s" in engine.log
    assert moved(first)[0] == moved(second)[1] > 0
    assert moved(second)[0] == moved(first)[1] > 0
    for engine in (first, second):
        steps = engine.all(StepDone)
        assert [report.record.step for report in steps] == list(range(1, STEPS + 1))
        assert moved(engine)[0] >= sum(report.record.sent_bytes for report in steps)
        kinds = [type(report) for report in engine.reports]
        assert kinds[-1] is Finished
