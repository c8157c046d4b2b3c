"""Metrics of long runs: a page an answer, and figures that do not depend on which page was asked for."""

from typing import Any

import pytest

from legion.ids import Epoch
from legion.messages import MetricsReport, MetricsView, StepRecord
from legion_server.service import metrics
from legion_server.up.report import whole_run


async def train(house: Any, steps: int) -> None:
    """A run of so many steps, each of which took as many seconds as its number."""
    (member,) = await house.start(1, steps=max(1, steps))
    floats = dict.fromkeys(("grad_norm", "lr", "compute_s", "waiting_s"), 1.0)
    counts = ("tokens", "micro_batches", "sent_bytes", "received_bytes", "peak_rss_bytes", "state_bytes")
    records = tuple(
        StepRecord.model_validate(
            floats | dict.fromkeys(counts, 1) | {"step": s, "loss": float(s), "step_s": float(s), "step_tokens": 64}
        )
        for s in range(1, steps + 1)
    )
    await house.backend.coordinator.report(member.worker_id, MetricsReport(epoch=Epoch(1), steps=records))


async def since(house: Any, step: int) -> MetricsView:
    return MetricsView.model_validate_json((await house.admin.get(f"/metrics?since={step}")).content)


async def test_a_reader_can_page_through_a_long_run(house: Any) -> None:
    steps = metrics.MOST_STEPS + 7
    await train(house, steps)
    first, second = await since(house, 0), await since(house, metrics.MOST_STEPS)
    assert [step.step for step in first.recent] == list(range(1, metrics.MOST_STEPS + 1))
    assert [step.step for step in second.recent] == list(range(metrics.MOST_STEPS + 1, steps + 1))
    newest = MetricsView.model_validate_json((await house.admin.get("/metrics")).content)
    assert [step.step for step in newest.recent] == list(range(steps - metrics.RECENT + 1, steps + 1))
    assert first.tokens_per_s == second.tokens_per_s == newest.tokens_per_s < 0.01
    text = await house.admin.get("/metrics?since=0", headers={"Accept": "text/plain"})
    assert f"legion_loss_nats {float(steps)}" in text.text


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 7])
async def test_a_report_is_of_the_whole_run(house: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(metrics, "MOST_STEPS", 3)
    await train(house, steps)
    view = await whole_run(lambda step: since(house, step))
    assert (view.step, [step.step for step in view.recent]) == (steps, list(range(1, steps + 1)))
