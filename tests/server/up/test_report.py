"""What `up` says while it goes on and when it is done: exact, and null where nothing is known."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from legion.counters import RoundCounters, RoundsView
from legion.errors import StorageFailed
from legion.ids import RunId, WorkerId
from legion.reports import EvaluationRecord, MetricsView, StepSummary, WorkerTotals
from legion_server.up.console import Screen
from legion_server.up.progress import progress
from legion_server.up.report import Outcome, report, summary, write_json

A, B = WorkerId("a" * 32), WorkerId("b" * 32)


def totals(worker: WorkerId, tokens: int) -> WorkerTotals:
    return WorkerTotals(
        worker_id=worker,
        tokens=tokens,
        micro_batches=tokens // 1024,
        compute_s=1.5,
        waiting_s=0.5,
        sent_bytes=3_000_000,
        received_bytes=4_000_000,
        peak_rss_bytes=500,
        state_bytes=100,
    )


def metrics(steps: int = 3) -> MetricsView:
    recent = tuple(
        StepSummary(step=step, loss=5.0 - step, grad_norm=1.0, lr=0.1, tokens=2048, tokens_per_s=4096.0)
        for step in range(1, steps + 1)
    )
    return MetricsView(
        run_id=RunId("run-1"),
        phase="complete",
        step=steps,
        steps=3,
        tokens=2048 * steps,
        tokens_per_s=4096.0,
        recent=recent,
        evaluations=(
            EvaluationRecord(step=1, loss=4.5, tokens=10),
            EvaluationRecord(step=3, loss=2.25, tokens=10),
        )
        if steps
        else (),
        workers=(totals(A, 4096), totals(B, 2048)) if steps else (),
        unigram_entropy=3.5,
        bigram_entropy=2.5,
    )


def test_the_report_has_exactly_what_the_manual_promises(tmp_path: Path) -> None:
    outcome = Outcome(metrics(), 12.0, tmp_path / "step-3", "digest")
    write_json(tmp_path / "report.json", report(outcome))
    content = json.loads((tmp_path / "report.json").read_text())
    promised = "run_id steps tokens wall_s first_loss last_loss validation_loss workers checkpoint weights_digest"
    assert set(promised.split()) <= content.keys()
    assert (content["first_loss"], content["last_loss"], content["validation_loss"]) == (4.0, 2.0, 2.25)
    assert content["workers"][0] == {
        "id": A,
        "tokens": 4096,
        "micro_batches": 4,
        "state_bytes": 100,
        "peak_rss_bytes": 500,
        "sent_bytes": 3_000_000,
        "received_bytes": 4_000_000,
        "compute_s": 1.5,
        "waiting_s": 0.5,
    }
    assert [step["step"] for step in content["per_step"]] == [1, 2, 3]


def test_what_is_not_known_is_null() -> None:
    content = report(Outcome(metrics(steps=0), 1.0, None, None))
    unknown = ("first_loss", "last_loss", "validation_loss", "checkpoint", "weights_digest")
    assert [content[key] for key in unknown] == [None] * 5


def test_the_last_lines_name_loss_entropy_and_folder() -> None:
    text = "\n".join(summary(Outcome(metrics(), 12.0, Path("somewhere/step-3"), "digest")))
    for part in ("3 steps", "6,144 tokens", "4.000", "2.000", "validation loss 2.250", "3.500", "2.500", "somewhere"):
        assert part in text
    assert len(summary(Outcome(metrics(steps=0), 1.0, None, None))) == 1


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed):
        write_json(tmp_path / "file" / "report.json", {})


def test_progress_in_one_line_with_everybodys_share() -> None:
    now = progress(metrics(), {A: "worker-1"})
    assert now.headline == "step 3/3  loss 2.000  4,096 tokens/s  6.0 MB exchanged"
    assert now.shares == "bbbbbbbb 33%  worker-1 67%"
    assert progress(metrics(steps=0), {}).shares == ""


def test_plain_progress_comes_every_few_seconds_and_at_the_end() -> None:
    out, now = io.StringIO(), [0.0]
    with Screen(Console(file=out, width=200), clock=lambda: now[0]) as screen:
        for step in (1, 2, 3):
            view = metrics().model_copy(update={"step": step, "steps": 10})
            screen.show(progress(view, {}))
        now[0] = 6.0
        screen.show(progress(metrics().model_copy(update={"step": 4, "steps": 10}), {}))
        screen.show(progress(metrics().model_copy(update={"step": 10, "steps": 10}), {}))
        screen.show(progress(metrics().model_copy(update={"step": 10, "steps": 10}), {}))
    shown = [line.split("step ")[1].split("/")[0] for line in out.getvalue().splitlines()]
    assert shown == ["1", "4", "10"]


def test_lines_are_timed_and_named_once() -> None:
    out = io.StringIO()
    with Screen(Console(file=out, width=40, soft_wrap=True)) as screen:
        screen.line("worker-1", "12:34:56 INFO    legion_client.agent [bold]joined[/bold] " + "x" * 100)
        screen.line("worker-1", "12:34:56,123 ERROR   it broke")
    first, second = out.getvalue().splitlines()
    assert first.count(":") == 2
    assert "worker-1  INFO    legion_client.agent [bold]joined[/bold] " + "x" * 100 in first
    assert second.endswith("worker-1  ERROR   it broke")


def test_a_terminal_gets_colours_and_a_live_line() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system="standard")
    with Screen(console) as screen:
        screen.show(progress(metrics(), {}))
        screen.line("worker-1", "hello")
        screen.line("server", "hello")
    assert "3/3" in out.getvalue()
    colours = {line.split("worker-1")[0][-6:] for line in out.getvalue().splitlines() if "worker-1" in line}
    assert colours
    assert "\x1b[36mworker-1" in out.getvalue()
    assert "\x1b[35mserver" in out.getvalue()


def in_rounds(**counters: Any) -> MetricsView:
    figures = RoundsView(
        committed=2, rounds=5, participants=2, tokens=1000, round_s=1.5, counters=RoundCounters.model_validate(counters)
    )
    return metrics().model_copy(update={"rounds": figures})


def test_rounds_are_shown_and_reported() -> None:
    assert progress(in_rounds(), {}).headline.startswith("round 2/5  step 3/3  loss 2.000")
    content = report(Outcome(in_rounds(terms_raised=3), 1.0, None, None))
    assert (content["rounds"]["committed"], content["rounds"]["counters"]["terms_raised"]) == (2, 3)
    assert report(Outcome(metrics(), 1.0, None, None))["rounds"] is None
    calm = summary(Outcome(in_rounds(), 1.0, None, None))
    assert "2 rounds of 5, 1,000 tokens counted" in calm
    rough = summary(Outcome(in_rounds(terms_raised=3, refused={"late": 2}), 1.0, None, None))
    assert "2 rounds of 5, 1,000 tokens counted (terms raised 3, refused as late 2)" in rough
