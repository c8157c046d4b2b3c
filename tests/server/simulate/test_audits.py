"""Whole runs of the production engine and the production coordinator with audits: honest ones, and with a liar."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from legion.codec.api import AnyCodec, Floats
from legion.ids import WorkerId
from legion.outer.log import blob_of
from legion.outer.reducer import SpanReducer
from legion.outer.reducing import Reducing
from legion.rounds import RoundPlan, SpanReport
from legion_server.simulate.course import Course
from tests.server.simulate.test_times import simulated

ROUNDS = 4


def run(tmp_path: Path, *settings: str, workers: int = 4) -> Course:
    course, _ = simulated(tmp_path, *settings, workers=workers, steps=2 * ROUNDS)
    assert len(course.points) == ROUNDS
    assert course.counts["root_mismatches"] == 0
    return course


@pytest.mark.parametrize("feedback", ["residual", "buffer"])
def test_honest_workers_pass_every_audit(tmp_path: Path, feedback: str) -> None:
    settings = (f"rounds.feedback={feedback}", "rounds.update_codec=int4", "rounds.flush_every=3")
    audited = run(tmp_path, "rounds.audit=1.0", *settings)
    spans = 4 * ROUNDS
    assert audited.counts["audits_passed"] == spans
    assert sum(audited.counts[f"audits_{what}"] for what in ("failed", "inconclusive", "silent")) == 0
    plain = run(tmp_path, "rounds.audit=0.0", *settings)
    assert sum(count for name, count in plain.counts.items() if name.startswith("audits")) == 0
    assert audited.points[-1].loss == pytest.approx(plain.points[-1].loss, rel=0.02)


class Liar:
    """The first worker that combines a span makes others than it should from then on: as reducer or as auditor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, reduces: bool, audits: bool) -> None:
        self.me: WorkerId | None = None
        self.told = 0
        made = Reducing._reducer
        told: dict[int, WorkerId] = {}
        honest = SpanReducer.reduce

        def remember(reducing: Reducing, plan: RoundPlan, span: int, term: int) -> SpanReducer:
            reducer = made(reducing, plan, span, term)
            told[id(reducer)] = reducing._me
            return reducer

        def reduce(reducer: SpanReducer, residual: Floats | None, codec: AnyCodec) -> Any:
            blob, report, dropped = honest(reducer, residual, codec)
            self.me = self.me or told[id(reducer)]
            if told[id(reducer)] != self.me or not (audits if reducer.audit else reduces):
                return blob, report, dropped
            self.told += 1
            blob = blob_of(codec, np.full(len(reducer.bounds), 1e-3, np.float32))
            return blob, report_with(report, blob), dropped

        monkeypatch.setattr(Reducing, "_reducer", remember)
        monkeypatch.setattr(SpanReducer, "reduce", reduce)


def report_with(report: SpanReport, blob: bytes) -> SpanReport:
    digest = hashlib.sha256(blob).hexdigest()
    return report.model_copy(update={"digest": digest, "size_bytes": len(blob)})


def test_a_reducer_that_lies_is_caught_and_loses_its_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = Liar(monkeypatch, reduces=True, audits=False)
    course = run(tmp_path, "rounds.audit=1.0", workers=5)
    # The third who decided has its span now. Of what it made nothing was committed.
    assert course.counts["audits_failed"] == liar.told == 1
    assert course.counts["audits_passed"] == 5 * ROUNDS - 1
    honest = run(tmp_path, "rounds.audit=0.0", workers=5)
    assert course.points[-1].loss == pytest.approx(honest.points[-1].loss, rel=0.02)


def test_an_auditor_that_lies_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = Liar(monkeypatch, reduces=False, audits=True)
    course = run(tmp_path, "rounds.audit=1.0", workers=5)
    assert course.counts["audits_failed"] == liar.told > 0
    assert course.counts["audits_passed"] == 5 * ROUNDS - liar.told
