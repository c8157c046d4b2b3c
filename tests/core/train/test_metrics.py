"""Every second and byte of a run is in exactly one step's record."""

import pytest

from legion.comm.api import Usage
from legion.reports import StepRecord
from legion.train import metrics
from legion.train.metrics import StepMeter
from legion.zero.engine import Committed

OUTCOME = Committed(loss=2.5, grad_norm=0.75, tokens=100)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def record(meter: StepMeter, step: int = 1) -> StepRecord:
    return meter.record(step=step, outcome=OUTCOME, lr=0.01, tokens=40, micro_batches=2, state_bytes=160)


def test_a_record_says_what_happened_since_the_last(clock: Clock) -> None:
    usage = Usage(sent_bytes=500, received_bytes=700, waiting_s=3.0)  # of before this meter
    meter = StepMeter(usage)
    clock.now += 2.0
    usage.sent_bytes += 10
    usage.received_bytes += 20
    usage.waiting_s += 0.5
    first = record(meter)
    assert (first.sent_bytes, first.received_bytes) == (10, 20)
    assert (first.step_s, first.waiting_s, first.compute_s) == (2.0, 0.5, 1.5)
    clock.now += 1.0
    second = record(meter, 2)
    assert (second.sent_bytes, second.received_bytes, second.step_s, second.waiting_s) == (0, 0, 1.0, 0.0)


def test_the_clusters_figures_and_the_members_own(clock: Clock) -> None:
    found = record(StepMeter(Usage()), 7)
    assert (found.step, found.loss, found.grad_norm, found.lr) == (7, 2.5, 0.75, 0.01)
    assert (found.step_tokens, found.tokens, found.micro_batches, found.state_bytes) == (100, 40, 2, 160)
    assert found.peak_rss_bytes > 0


def test_waiting_never_exceeds_the_step(clock: Clock) -> None:
    """A wait that began in the step before is counted when it ends."""
    usage = Usage()
    meter = StepMeter(usage)
    clock.now += 1.0
    usage.waiting_s += 1.5
    found = record(meter)
    assert (found.waiting_s, found.compute_s) == (1.0, 0.0)


def test_sums_over_a_run_lose_nothing(clock: Clock) -> None:
    usage = Usage()
    meter = StepMeter(usage)
    records = []
    for step in range(20):
        clock.now += 0.1 * step
        usage.sent_bytes += step * step
        records.append(record(meter, step + 1))
    assert sum(r.sent_bytes for r in records) == usage.sent_bytes
    assert sum(r.step_s for r in records) == pytest.approx(clock.now - 1000.0)
