"""The run page: alive, self-contained, silent about workers."""

import re
from typing import Any

from legion.reports import EvaluationRecord, LossBucket, LossCurve, MetricsView, StepSummary
from legion_server.web.pages import loss_chart, remaining

FOREIGN = re.compile(r"(?:src|href|action)=[\"'](?![/#])|url\(|@import|https?://(?!www\.w3\.org)", re.IGNORECASE)
INLINE = re.compile(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", re.IGNORECASE)


def summary(step: int, loss: float) -> StepSummary:
    return StepSummary(step=step, loss=loss, grad_norm=1.0, lr=0.1, tokens=100, tokens_per_s=50.0)


async def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(house: Any) -> None:
    page = await house.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not INLINE.search(page.text)
    found = re.findall(r"/static/[^\"]+", page.text)
    assert len(set(found)) == 3
    for address in found:
        answer = await house.http.get(address)
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not FOREIGN.search(answer.text)
    assert not FOREIGN.search(page.text)
    assert "Waiting for workers" in page.text


async def test_a_file_of_another_version_is_not_served(house: Any) -> None:
    answer = await house.http.get("/static/000000000000/legion.css")
    assert answer.status_code == 404
    assert (await house.http.get("/static/000000000000/..%2fpages.py")).status_code == 404


async def test_browsers_get_errors_as_pages_and_programs_as_problems(house: Any) -> None:
    page = await house.http.get("/nowhere", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert "Not Found" in page.text
    assert not INLINE.search(page.text)
    document = await house.http.get("/nowhere")
    assert document.headers["content-type"] == "application/problem+json"


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
    text = (await house.http.get("/parts/run")).text
    assert "Step 3 of 8" in text
    assert "<polyline" in text
    assert ">3.000<" in text
    await house.http.delete(f"/workers/{two.worker_id}", headers=two.headers)
    text = (await house.http.get("/parts/run")).text
    assert "Failed" in text
    assert "a member of the cluster was lost" in text
    for member in (one, two):
        assert member.worker_id[:8] not in text
    assert "127.0.0.1" not in text


async def test_the_page_shows_rounds(house: Any) -> None:
    (member,) = await house.start(1, cluster={"policy": "solo"}, rounds={"steps": 2})
    text = (await house.http.get("/parts/run")).text
    assert "<dt>Rounds</dt><dd>0 of 4</dd>" in text
    assert "<dt>Clusters</dt><dd>1</dd>" in text
    assert "Waiting for workers" not in text
    await house.http.delete(f"/workers/{member.worker_id}", headers=member.headers)
    text = (await house.http.get("/parts/run")).text
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


def test_the_loss_chart_has_both_losses() -> None:
    bucket = LossBucket(first=1, last=2, tokens=1, loss=2.0, least=2.0, most=2.0)
    curve = LossCurve(
        run_id="r",  # type: ignore[arg-type]
        width=1,
        training=(bucket, bucket.model_copy(update={"last": 4, "loss": 1.0})),
        validation=(EvaluationRecord(step=4, loss=1.5, tokens=10),),
    )
    chart = loss_chart(curve)
    assert chart is not None
    assert [line.name for line in chart.lines] == ["Training loss", "Validation loss"]
    assert loss_chart(curve.model_copy(update={"training": (), "validation": ()})) is None


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
    assert remaining(view) == "2 h"
    assert remaining(view.model_copy(update={"steps": 301})) == "10 min"
    assert remaining(view.model_copy(update={"steps": 2})) == "2 s"
    assert remaining(view.model_copy(update={"phase": "complete"})) is None
