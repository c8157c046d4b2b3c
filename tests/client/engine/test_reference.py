"""--verify: passes a right run, and fails one whose gradients, weighting or parts are wrong.

Real runs of real engines; a wrong one differs in a patch of one line, put into its processes from outside.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from legion.checkpoint.assemble import assemble
from legion.config import config_digest
from legion.errors import VerificationFailed
from legion.messages import CheckpointManifest, Plan, SliceRef
from legion.reports import MetricsView, StepSummary
from legion_client.engine.protocol import Evaluated, Listening, SliceWritten, StepDone
from legion_client.engine.reference import (
    DISTANCE_BOUND,
    EXACT_STEPS,
    STEP_BOUND,
    Check,
    StepFigures,
    compare_steps,
    show,
    verify,
)
from legion_server.up.report import Outcome, trace
from tests.client.engine.engine_processes import (
    EPOCH,
    RUN,
    Dataset,
    EngineProcess,
    Engines,
    training,
    with_config,
    write_json,
)

STEPS = 50

SCALED = """
from legion.zero.gradient import GradientBuffer
fill = GradientBuffer.fill

def scaled(self, index):
    self._unit.parameters[index].grad.mul_(1.01)
    return fill(self, index)

GradientBuffer.fill = scaled
"""

# Each micro-batch's mean loss, times what a full micro-batch holds: right as long as all hold the same.
UNWEIGHTED = """
from legion.train import loop
loss_sum_of = loop.loss_sum_of

def unweighted(logits, labels):
    return loss_sum_of(logits, labels) / (labels != -100).sum() * labels.numel()

loop.loss_sum_of = unweighted
"""

DROPPED = """
import numpy
from legion.comm.member import Member
scatter = Member.scatter

async def dropped(self, step, batches, unit, *gradient, **codec):
    await scatter(self, step, batches, unit, *map(numpy.zeros_like, gradient), **codec)

Member.scatter = dropped
"""


@pytest.fixture(scope="module")
def data(text_data: Dataset) -> Dataset:
    return with_config(
        text_data,
        steps=STEPS,
        cluster={"claims": "dynamic"},
        optimizer={"warmup_steps": 10, "clip_norm": 0.5},
        checkpoint={"every_steps": 1000},
    )


@dataclass(frozen=True)
class Verification:
    code: int
    output: str
    trace: dict[str, Any]


def run_and_verify(engines: Engines, data: Dataset, world: int, patches: dict[int, str] | None = None) -> Verification:
    cluster = engines.start(world, patches=patches)
    plan = training(cluster, data)
    assert [engine.ended() for engine in cluster] == [0] * world, [engine.log for engine in cluster]
    folder = cluster[0].folder
    content = trace(
        outcome_of(cluster, assembled(cluster, plan, data, folder)), data.config, data.manifest, data.folder
    )
    return verified(content, folder)


def verified(content: dict[str, Any], folder: Path) -> Verification:
    path = write_json(folder / "trace.json", content)
    process = subprocess.run(
        [sys.executable, "-m", "legion_client.engine.reference", "--trace", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    sys.stdout.write(process.stdout)  # the figures, for pytest -rP
    return Verification(process.returncode, process.stdout + process.stderr, content)


def assembled(cluster: list[EngineProcess], plan: Plan, data: Dataset, folder: Path) -> Path:
    slices = [engine.only(SliceWritten) for engine in cluster]
    manifest = CheckpointManifest(
        run_id=RUN,
        epoch=EPOCH,
        step=STEPS,
        tokens=slices[0].tokens,
        shares=tuple(member.share for member in plan.members),
        shape=cluster[0].only(Listening).shape,
        config_digest=config_digest(data.config),
        slices=tuple(SliceRef(rank=s.rank, sha256=s.sha256, size_bytes=s.size_bytes) for s in slices),
    )
    assemble(
        manifest,
        {s.rank: s.path for s in slices},
        data.config,
        data.manifest.vocab_size,
        data.folder / data.manifest.tokenizer_sha256,
        data.manifest.end_of_text,
        folder / "checkpoint",
    )
    return folder / "checkpoint"


def outcome_of(cluster: list[EngineProcess], checkpoint: Path) -> Outcome:
    records = [report.record for report in cluster[0].all(StepDone)]
    view = MetricsView(
        run_id=RUN,
        phase="complete",
        step=STEPS,
        steps=STEPS,
        tokens=sum(record.step_tokens for record in records),
        tokens_per_s=1.0,
        recent=tuple(
            StepSummary(
                step=r.step, loss=r.loss, grad_norm=r.grad_norm, lr=r.lr, tokens=r.step_tokens, tokens_per_s=1.0
            )
            for r in records
        ),
        evaluations=tuple(report.record for report in cluster[0].all(Evaluated)),
        workers=(),
    )
    return Outcome(metrics=view, wall_s=1.0, checkpoint=checkpoint, weights_digest=None)


@pytest.fixture(scope="module")
def right(engines: Engines, data: Dataset) -> Verification:
    return run_and_verify(engines, data, 2)


def test_two_engines_agree_with_one_process(right: Verification) -> None:
    assert right.code == 0, right.output
    assert "FAILED" not in right.output
    assert right.output.count("ok") >= 4  # loss, norm, weights, validation


def test_three_engines_agree_with_one_process(engines: Engines, data: Dataset) -> None:
    found = run_and_verify(engines, data, 3)
    assert found.code == 0, found.output
    assert "FAILED" not in found.output


def test_the_run_is_one_worth_comparing(right: Verification, data: Dataset) -> None:
    """Unequal token counts, gradients that are clipped, a loss that falls."""
    tokens = {shard.tokens for shard in data.manifest.train}
    assert (sum(tokens) - 1) % data.manifest.seq_len in (2, 3, 4)
    steps = right.trace["per_step"]
    assert len(steps) == STEPS == EXACT_STEPS
    assert sum(step["grad_norm"] > 0.5 for step in steps) > STEPS / 2
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert right.trace["validation_loss"] is not None
    assert right.trace["checkpoint"] is not None


@pytest.mark.parametrize(
    ("patches", "seen_in"),
    [
        pytest.param({0: SCALED, 1: SCALED}, "gradient norm", id="gradients scaled by 1.01"),
        pytest.param({0: UNWEIGHTED, 1: UNWEIGHTED}, "loss", id="token weights ignored"),
        pytest.param({1: DROPPED}, "gradient norm", id="one member's part dropped"),
    ],
)
def test_a_wrong_run_fails(engines: Engines, data: Dataset, patches: dict[int, str], seen_in: str) -> None:
    found = run_and_verify(engines, data, 2, patches)
    assert found.code == VerificationFailed.exit_code == 1, found.output
    assert "FAILED" in found.output
    [sentence] = [line for line in found.output.splitlines() if "differs from the single-process reference" in line]
    assert seen_in in sentence
    assert "Traceback" not in found.output


def test_a_trace_with_a_missing_step_fails(right: Verification) -> None:
    content = json.loads(json.dumps(right.trace))
    del content["per_step"][20]
    with pytest.raises(VerificationFailed, match="no record of its steps 21 to compare"):
        verify(content)


def figures(*losses: float, norms: tuple[float, ...] = ()) -> list[StepFigures]:
    norms = norms or (1.0,) * len(losses)
    return [StepFigures(i + 1, loss, norm) for i, (loss, norm) in enumerate(zip(losses, norms, strict=True))]


def checks_of(run: list[StepFigures], reference: list[StepFigures], *, exact: bool = True) -> list[bool]:
    return [check.ok for check in compare_steps(run, reference, exact=exact)]


NAN = math.nan
GOOD = figures(3.0, 2.0, 1.0)
TABLE = [
    (GOOD, [True, True]),
    (figures(3.0, 2.0 * (1 + 0.5 * STEP_BOUND), 1.0), [True, True]),
    (figures(3.0, 2.0 * (1 + 2 * STEP_BOUND), 1.0), [False, True]),
    (figures(3.0, 2.0 * (1 - 2 * STEP_BOUND), 1.0), [False, True]),
    (figures(3.0, 2.0, 1.0, norms=(1.0, 1.0, 1.01)), [True, False]),
    (figures(NAN, 2.0, 1.0), [False, True]),
    (figures(3.0, NAN, 1.0), [False, True]),
    (figures(3.0, 2.0, NAN), [False, True]),
    (figures(3.0, 2.0, math.inf), [False, True]),
    (figures(3.0, 2.0, 1.0, norms=(NAN, 1.0, 1.0)), [True, False]),
    (figures(3.0, 2.0, 1.0, norms=(1.0, NAN, 1.0)), [True, False]),
    (list(reversed(GOOD)), [True, True]),
]


@pytest.mark.parametrize(("run", "ok"), TABLE)
def test_the_largest_difference_decides_and_nan_is_one(run: list[StepFigures], ok: list[bool]) -> None:
    assert checks_of(run, GOOD) == ok


def test_a_reference_that_is_nan_agrees_with_nothing() -> None:
    assert checks_of(GOOD, figures(3.0, NAN, 1.0)) == [False, True]
    assert checks_of(figures(3.0, NAN, 1.0), figures(3.0, NAN, 1.0)) == [False, True]


@pytest.mark.parametrize("kept", [(), (0,), (1, 2), (0, 2)])
def test_missing_steps_are_named(kept: tuple[int, ...]) -> None:
    missing = ", ".join(str(i + 1) for i in range(3) if i not in kept)
    with pytest.raises(VerificationFailed, match=f"steps {missing} to compare"):
        compare_steps([GOOD[i] for i in kept], GOOD, exact=True)


def test_lossy_runs_are_compared_for_information_only() -> None:
    far = figures(9.0, 9.0)
    checks = compare_steps(far, GOOD, exact=False)
    assert [(check.ok, check.bound) for check in checks] == [(True, None)] * 2
    assert checks[0].value == pytest.approx(3.5)
    assert compare_steps([], GOOD, exact=False)[0].value == 0.0


def test_steps_beyond_those_that_must_agree_do_not_count() -> None:
    reference = figures(*([2.0] * (EXACT_STEPS + 5)))
    run = figures(*([2.0] * EXACT_STEPS), *([9.0] * 5))
    assert checks_of(run, reference) == [True, True]


@pytest.mark.parametrize(
    ("value", "bound", "ok"),
    [
        (0.0, 1e-5, True),
        (1e-5, 1e-5, True),
        (1.1e-5, 1e-5, False),
        (NAN, 1e-5, False),
        (math.inf, 1e-5, False),
        (NAN, None, True),
    ],
)
def test_a_check_and_its_bound(value: float, bound: float | None, ok: bool) -> None:
    assert Check("figure", value, bound).ok is ok


def test_the_table_says_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    show([Check("one", 1e-9, STEP_BOUND), Check("two", NAN, DISTANCE_BOUND), Check("three", 0.5, None)])
    lines = {
        name: line for line in capsys.readouterr().out.splitlines() for name in ("one", "two", "three") if name in line
    }
    assert "ok" in lines["one"]
    assert "FAILED" in lines["two"]
    assert "ok" not in lines["three"]
    assert "FAILED" not in lines["three"]
