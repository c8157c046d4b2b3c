"""The status page: alive, self-contained, silent about workers."""

import re
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from legion.reports import LossBucket, MetricsView, StepSummary
from legion_server.web.pages import HEIGHT, LEFT, WIDTH, curve, remaining

FOREIGN = re.compile(r"(?:src|href|action)=[\"'](?!/)|url\(|@import|https?://", re.IGNORECASE)


def bucket(step: int, loss: float) -> LossBucket:
    return LossBucket(first=step, last=step, tokens=1, loss=loss, least=loss, most=loss)


def summary(step: int, loss: float) -> StepSummary:
    return StepSummary(step=step, loss=loss, grad_norm=1.0, lr=0.1, tokens=100, tokens_per_s=50.0)


async def test_the_page_loads_nothing_from_elsewhere(house: Any) -> None:
    page = await house.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    script = await house.http.get("/status.js")
    assert script.headers["content-type"].startswith("text/javascript")
    for text in (page.text, script.text):
        assert not FOREIGN.search(text)
    assert 'name="viewport"' in page.text
    assert "Waiting for workers" in page.text


async def test_the_page_shows_the_run_but_nobody_in_it(house: Any) -> None:
    one, two = await house.start(2)
    numbers = (
        "step_tokens",
        "tokens",
        "micro_batches",
        "sent_bytes",
        "received_bytes",
        "peak_rss_bytes",
        "state_bytes",
    )
    times = dict.fromkeys(("grad_norm", "lr", "step_s", "compute_s", "waiting_s"), 1.0)
    steps = [{"step": n, "loss": 6.0 - n} | times | dict.fromkeys(numbers, 7) for n in (1, 2, 3)]
    await house.http.post("/metrics", json={"epoch": 1, "steps": steps}, headers=one.headers)
    text = (await house.http.get("/status")).text
    assert "step 3 of 8" in text
    assert "<polyline" in text
    assert ">3.000<" in text
    await house.http.delete(f"/workers/{two.worker_id}", headers=two.headers)
    text = (await house.http.get("/status")).text
    assert "Failed" in text
    assert "a member of the cluster was lost" in text
    for member in (one, two):
        assert member.worker_id[:8] not in text
    assert "127.0.0.1" not in text


async def test_the_page_shows_rounds(house: Any) -> None:
    (member,) = await house.start(1, cluster={"policy": "solo"}, rounds={"steps": 2})
    text = (await house.http.get("/status")).text
    assert "<dt>Rounds</dt><dd>0 of 4</dd>" in text
    assert "<dt>Clusters</dt><dd>1</dd>" in text
    assert "Waiting for workers" not in text
    await house.http.delete(f"/workers/{member.worker_id}", headers=member.headers)
    text = (await house.http.get("/status")).text
    assert "<dt>Clusters</dt><dd>0</dd>" in text
    assert "Training" in text
    assert "Waiting for workers" in text


async def test_names_in_the_configuration_are_escaped(house: Any) -> None:
    run = house.backend.coordinator.run
    data = run.config.data.model_copy(update={"name": "<script>alert(1)</script>"})
    config = run.config.model_copy(update={"data": data})
    await house.backend.coordinator.configure(config, None)
    text = (await house.http.get("/")).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-100, 100)), min_size=2, unique_by=lambda point: point[0]))
def test_the_curve_stays_inside_its_frame(points: list[tuple[int, float]]) -> None:
    found = curve([bucket(step, loss) for step, loss in sorted(points)])
    assert found is not None
    drawn = [tuple(map(float, point.split(","))) for point in found.points.split()]
    assert len(drawn) == len(points)
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn)
    assert all(a[0] <= b[0] for a, b in pairwise(drawn))


def test_one_point_is_no_curve() -> None:
    assert curve([]) is None
    assert curve([bucket(1, 2.0)]) is None


def test_the_time_that_remains() -> None:
    view = MetricsView(
        run_id="r",  # type: ignore[arg-type]
        phase="training",
        step=1,
        steps=3601,
        tokens=100,
        tokens_per_s=50.0,
        recent=(summary(1, 2.0),),
        evaluations=(),
        workers=(),
    )
    assert remaining(view) == "2 h 0 min"
    assert remaining(view.model_copy(update={"steps": 301})) == "10 min"
    assert remaining(view.model_copy(update={"steps": 2})) == "under a minute"
    assert remaining(view.model_copy(update={"phase": "complete"})) is None
