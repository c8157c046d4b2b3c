"""How the run stands, as a window asks: of a real server that a scripted engine has trained with."""

import asyncio
import json
import sys
from pathlib import Path
from typing import cast

import pytest

from legion.ids import RunId
from legion.reports import CreditView, EvaluationRecord, LossBucket, LossCurve, MetricsView, TextSample
from legion_client.agent import standing
from legion_client.agent.coordinator import Coordinator
from legion_client.agent.standing import Standing, drawn
from legion_client.control.messages import Contribution
from tests.client.agent.hosting import RunningServer, hosted, seen
from tests.client.agent.relaying import SHAPE

SCRIPT = Path(__file__).with_name("scripted_engine.py")
STEPS = 130  # more than the newest hundred


async def test_the_curve_begins_with_the_first_step(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "ASK_S", 0.1)
    server.configure(steps=200, optimizer={"warmup_steps": 0})
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"steps": STEPS, "hang": True}))
    script.with_name("shape.json").write_text(SHAPE.model_dump_json())
    command = (sys.executable, str(SCRIPT), str(script))
    async with hosted(server, tmp_path / "home", engine_command=command) as (_, desk):
        await seen(desk, lambda status: status.face == "training")
        while (await asyncio.to_thread(server.call, "GET", "/metrics"))["step"] < STEPS:
            assert desk.status().face == "training"
        given = Contribution(accepted_tokens=1024 * STEPS, rank=1, ranked=1, share=0.5)
        await seen(desk, lambda status: status.contribution == given)
        (line,) = [one for one in await desk.happenings(0, 100) if one.kind == "accepted"]
        assert line.sentence.startswith("The run accepted ")
        assert 0 < int(line.said[0].values["total"]) <= 1024 * STEPS
        whole = await desk.curve(500)
        assert [point.step for point in whole.training] == list(range(1, STEPS + 1))
        assert whole.training[0].loss == 4.9
        thin = await desk.curve(20)
        assert [point.step for point in thin.training] == list(range(10, STEPS + 1, 10))
        assert all(one.least is not None and one.most is not None for one in thin.training)
        assert all((one.least or 0) <= one.loss <= (one.most or 0) for one in thin.training)


class Answers:
    """A server of which nothing but this is asked."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    async def metrics(self) -> MetricsView:
        return MetricsView(
            run_id=RunId("run"), phase="training", step=1, steps=2, tokens=60, tokens_per_s=1.0,
            recent=(), evaluations=(), workers=(),
        )  # fmt: skip

    async def credit(self) -> CreditView:
        return CreditView(run_id=RunId("run"), tokens=self.tokens, rank=2, workers=3)


async def test_credit_is_kept_whole_and_written_only_when_it_is_new(tmp_path: Path) -> None:
    path = tmp_path / "activity" / "standing.json"
    kept = Standing(path)
    kept.save()
    assert not path.exists(), "nothing is known yet"
    await kept.look(cast("Coordinator", Answers(10)))
    before = path.stat().st_ino
    await kept.look(cast("Coordinator", Answers(10)))
    assert path.stat().st_ino == before
    await kept.look(cast("Coordinator", Answers(15)))
    assert path.stat().st_ino != before, "in one piece"
    assert kept.contribution == Contribution(accepted_tokens=15, rank=2, ranked=3, share=0.25)
    assert Standing(path).contribution == Contribution(accepted_tokens=15, rank=2, ranked=3), "of how many is not kept"
    assert list(path.parent.iterdir()) == [path]


def test_a_bucket_stands_at_its_last_step() -> None:
    curve = LossCurve(
        run_id=RunId("run"),
        width=2,
        training=(
            LossBucket(first=1, last=2, tokens=10, loss=3.0, least=2.0, most=4.0),
            LossBucket(first=3, last=3, tokens=5, loss=1.0, least=1.0, most=1.0),
        ),
        validation=(EvaluationRecord(step=3, loss=1.5, tokens=15),),
        sample=TextSample(step=3, text="def f():"),
    )
    told = drawn(curve)
    assert [(one.step, one.tokens, one.least, one.most) for one in told.training] == [(2, 10, 2.0, 4.0), (3, 15, 1, 1)]
    assert [(one.step, one.loss) for one in told.validation] == [(3, 1.5)]
    assert (told.text, told.text_step) == ("def f():", 3)
