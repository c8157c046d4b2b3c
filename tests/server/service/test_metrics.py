"""Metrics of long runs: a page an answer, and figures that do not depend on which page was asked for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.ids import Epoch
from legion.reports import EvaluationRecord, LossCurve, MetricsReport, MetricsView, StepRecord, TextSample
from legion_server.service import metrics
from legion_server.up.report import whole_run
from tests.server.service.test_coordinator import record


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


async def curve(house: Any, points: int) -> LossCurve:
    return LossCurve.model_validate_json((await house.http.get(f"/metrics/curve?points={points}")).content)


async def test_the_whole_run_is_told_in_few_points(house: Any) -> None:
    """Each step's loss is its number."""
    await train(house, 1203)
    whole = await curve(house, 500)
    assert (whole.width, len(whole.training)) == (5, 241)
    assert [whole.training[0].first, whole.training[0].last, whole.training[-1].last] == [1, 5, 1203]
    assert [(b.least, b.loss, b.most) for b in whole.training[:2]] == [(1, 3, 5), (6, 8, 10)]
    assert sum(bucket.tokens for bucket in whole.training) == 64 * 1203
    assert (await curve(house, 2000)).width == 1
    assert (await house.http.get("/metrics/curve?points=1")).status_code == 422


async def test_a_run_that_has_not_begun_has_no_curve(house: Any) -> None:
    whole = await curve(house, 500)
    assert (whole.width, whole.training, whole.validation) == (1, (), ())


async def write(house: Any, member: Any, *texts: str) -> int:
    samples = [{"step": step, "text": text} for step, text in enumerate(texts, start=1)]
    reply = await house.http.post("/metrics", json={"epoch": 1, "samples": samples}, headers=member.headers)
    return int(reply.status_code)


async def test_the_newest_text_comes_with_the_curve(house: Any) -> None:
    (member,) = await house.start(1, steps=9)
    done = {"epoch": 1, "steps": [record(step=2)]}
    assert (await house.http.post("/metrics", json=done, headers=member.headers)).status_code == 204
    assert await write(house, member, "def", "class A:\n\tpass  # <b>\u00e9\0\r\u202e", "of a step to come") == 204
    assert (await curve(house, 10)).sample == TextSample(step=2, text="class A:\n\tpass  # <b>\u00e9   ")
    await house.admin.delete(f"/workers/{member.worker_id}")
    assert (await curve(house, 10)).sample is None


async def test_the_first_member_writes_for_its_cluster(house: Any) -> None:
    first, second = await house.start(2)
    for member in (first, second):
        done = {"epoch": 1, "steps": [record(step=1)]}
        assert (await house.http.post("/metrics", json=done, headers=member.headers)).status_code == 204
    assert await write(house, second, "mine") == 204
    assert (await curve(house, 10)).sample is None
    assert await write(house, first, "ours") == 204
    assert (await curve(house, 10)).sample == TextSample(step=1, text="ours")


@pytest.mark.parametrize("texts", [("",), ("x" * 2001,), ("x",) * 9])
async def test_texts_that_nobody_writes_are_refused(house: Any, texts: tuple[str, ...]) -> None:
    (member,) = await house.start(1)
    assert await write(house, member, *texts) == 422


async def test_a_curve_grows_with_its_run(house: Any) -> None:
    await train(house, 40)
    before = await curve(house, 10)
    assert (before.width, before.training[-1].last) == (5, 40)
    assert await curve(house, 10) == before
    assert metrics.is_fresh(before, 44)
    assert not metrics.is_fresh(before, 45)
    assert not metrics.is_fresh(before, 39), "a run that was resumed has lost steps"


@given(st.integers(0, 10**7), st.integers(2, 2000))
def test_buckets_are_few_and_round(steps: int, points: int) -> None:
    width = metrics.bucket_width(steps, points)
    assert -(-steps // width) <= points
    assert str(width)[0] in "125"
    assert set(str(width)[1:]) <= {"0"}
    assert width == 1 or -(-steps // (width / 2.5)) > points, "no more steps together than there must be"


@given(st.integers(0, 300), st.integers(2, 50))
def test_the_first_and_the_newest_stay(count: int, most: int) -> None:
    records = [EvaluationRecord(step=step, loss=1.0, tokens=1) for step in range(count)]
    kept = metrics.thinned(records, most)
    assert len(kept) == min(count, most)
    assert [record.step for record in kept] == sorted({record.step for record in kept})
    if records:
        assert (kept[0], kept[-1]) == (records[0], records[-1])
