"""Engines as real processes: how a run goes well, and every way it can end."""

import hashlib
import signal
import time

import pytest

from legion.checkpoint.shards import read_info
from legion.errors import FingerprintMismatch, NotFinite, PeerLost, RunError
from legion_client.engine.protocol import Evaluated, Failed, Finished, Left, SliceWritten, StepDone, Stop, Train
from tests.client.engine.engine_processes import (
    Dataset,
    EngineProcess,
    Engines,
    plan_of,
    prepare_command,
    prepared,
    training,
    with_config,
)

NAN = """
import torch
forward = torch.nn.Embedding.forward
calls = 0

def poisoned(self, ids):
    global calls
    calls += 1
    # Two micro-batches a step are this member's: from its third step on, what it computes is NaN.
    return forward(self, ids) * (float("nan") if calls > 4 else 1.0)

torch.nn.Embedding.forward = poisoned
"""


@pytest.fixture(scope="module")
def endless(text_data: Dataset) -> Dataset:
    """A run that ends by what the test does."""
    return with_config(text_data, steps=1_000_000, checkpoint={"every_steps": 1_000_000})


@pytest.fixture(scope="module")
def finished(engines: Engines, text_data: Dataset) -> tuple[list[EngineProcess], Dataset]:
    """A run of two engines without trouble, to its end."""
    data = with_config(text_data, steps=12, checkpoint={"every_steps": 5}, evaluation={"every_steps": 6})
    pair = engines.start(2)
    training(pair, data)
    assert [engine.ended() for engine in pair] == [0, 0], pair[0].log + pair[1].log
    return pair, data


def at_work(engines: Engines, endless: Dataset, members: int) -> list[EngineProcess]:
    """So many in one cluster, the first of which has made a step."""
    cluster = engines.start(members)
    training(cluster, endless)
    cluster[0].wait_for(StepDone)
    return cluster


def losses(engine: EngineProcess) -> list[float]:
    return [report.record.loss for report in engine.all(StepDone)]


def test_two_engines_finish_with_equal_losses(finished: tuple[list[EngineProcess], Dataset]) -> None:
    pair, _ = finished
    for engine in pair:
        assert engine.reports[-1] == Finished(step=12)
        assert [report.record.step for report in engine.all(StepDone)] == list(range(1, 13))
        assert [report.record.step for report in engine.all(Evaluated)] == [6, 12]
        assert "Traceback" not in engine.log
    assert losses(pair[0]) == losses(pair[1])
    assert losses(pair[0])[-1] < losses(pair[0])[0]
    evaluated = [[report.record.loss for report in engine.all(Evaluated)] for engine in pair]
    assert evaluated[0] == evaluated[1]
    counted = [[report.record for report in engine.all(StepDone)] for engine in pair]
    for first, second in zip(*counted, strict=True):
        assert first.tokens + second.tokens == first.step_tokens == second.step_tokens
        assert min(first.sent_bytes, first.received_bytes, second.sent_bytes, second.received_bytes) > 0


def test_slices_are_what_the_reports_say(finished: tuple[list[EngineProcess], Dataset]) -> None:
    pair, _ = finished
    tokens = [sum(r.record.step_tokens for r in pair[0].all(StepDone)[:step]) for step in (5, 10, 12)]
    for rank, engine in enumerate(pair):
        slices = engine.all(SliceWritten)
        assert [(report.step, report.rank, report.tokens) for report in slices] == [
            (step, rank, count) for step, count in zip((5, 10, 12), tokens, strict=True)
        ]
        for report in slices:
            assert hashlib.sha256(report.path.read_bytes()).hexdigest() == report.sha256
            assert report.path.stat().st_size == report.size_bytes
            info, elements = read_info(report.path)
            assert (info.step, info.rank, info.tokens) == (report.step, rank, report.tokens)
            assert elements > 0


def test_a_resumed_run_is_the_uninterrupted_one(
    engines: Engines, finished: tuple[list[EngineProcess], Dataset]
) -> None:
    before, data = finished
    pair = engines.start(2)
    plan = plan_of(pair, prepared(pair, data), data, first_step=5)
    for engine, old in zip(pair, before, strict=True):
        [slice_] = [report for report in old.all(SliceWritten) if report.step == 5]
        engine.send(Train(plan=plan, resume_slice=slice_.path))
    assert [engine.ended() for engine in pair] == [0, 0]
    assert losses(pair[0]) == losses(before[0])[5:]
    assert pair[0].all(Evaluated) == before[0].all(Evaluated)
    assert pair[1].all(SliceWritten)[-1].tokens == before[1].all(SliceWritten)[-1].tokens


def test_a_killed_engine_is_noticed_and_named(engines: Engines, endless: Dataset) -> None:
    pair = engines.start(2)
    training(pair, endless)
    for engine in pair:
        engine.wait_for(StepDone)
    pair[1].kill()
    killed_at = time.monotonic()
    assert pair[0].ended() == PeerLost.exit_code == 30
    assert time.monotonic() - killed_at < 15
    failed = pair[0].only(Failed)
    assert failed.slug == "peer-lost"
    assert pair[1].identity.worker_id in failed.message
    assert failed.lost_peer == pair[1].identity.worker_id
    assert failed.step >= 1
    assert "Traceback" not in pair[0].log


def test_one_stops_and_the_other_says_who_left_and_why(engines: Engines, endless: Dataset) -> None:
    pair = engines.start(2)
    training(pair, endless)
    for engine in pair:
        engine.wait_for(StepDone)
    pair[0].send(Stop(reason="the user wants the machine"))
    assert pair[0].ended() == 0
    left = pair[0].reports[-1]
    assert isinstance(left, Left)
    assert left.step == len(losses(pair[0])) >= 1
    assert pair[1].ended() == 30
    failed = pair[1].only(Failed)
    assert failed.message == f"{pair[0].identity.worker_id} left: stopped by its user"
    assert failed.lost_peer == pair[0].identity.worker_id
    assert failed.hint
    # What was committed was committed by both.
    assert losses(pair[0]) == losses(pair[1])[: left.step]
    assert failed.step == left.step


def test_an_engine_ends_with_its_agent(engines: Engines, endless: Dataset) -> None:
    """At three moments: before the first command, before the plan, in the middle of training."""
    [fresh] = engines.start(1)
    fresh.close_input()
    [listening] = engines.start(1)
    prepared([listening], endless)
    listening.close_input()
    [busy] = at_work(engines, endless, 1)
    busy.close_input()
    assert [engine.ended() for engine in (fresh, listening, busy)] == [0, 0, 0]
    assert fresh.reports == []
    assert isinstance(busy.reports[-1], Left)
    assert not [engine.log for engine in (fresh, listening, busy) if "Traceback" in engine.log]


def test_an_engine_whose_agent_is_gone_does_not_wait_for_a_step_that_cannot_end(
    engines: Engines, endless: Dataset
) -> None:
    pair = at_work(engines, endless, 2)
    pair[1].signal(signal.SIGSTOP)
    pair[0].until_silent(1.0)  # what had come from the other may have been enough for the step under way
    pair[0].close_input()
    assert pair[0].ended() == 0
    assert "in the middle of a step" in pair[0].log
    assert "Traceback" not in pair[0].log
    pair[1].signal(signal.SIGCONT)
    assert pair[1].ended() == PeerLost.exit_code == 30


def test_a_line_that_is_no_command_in_the_middle_of_training_stops_it_in_good_order(
    engines: Engines, endless: Dataset
) -> None:
    pair = at_work(engines, endless, 2)
    pair[0].send_line(b"hello")
    assert pair[0].ended() == RunError.exit_code == 50
    assert pair[1].ended() == PeerLost.exit_code == 30
    assert "left" in pair[1].only(Failed).message
    assert "Traceback" not in pair[0].log


@pytest.mark.parametrize("line", [b"hello", b"{}", b'{"kind": "fly"}', b"\xff"])
def test_a_line_that_is_no_command_ends_the_engine_with_a_sentence(engines: Engines, line: bytes) -> None:
    [engine] = engines.start(1)
    engine.send_line(line)
    assert engine.ended() == RunError.exit_code == 50
    assert "cannot read" in engine.only(Failed).message
    assert "Traceback" not in engine.log


def test_data_of_another_fingerprint_is_refused(engines: Engines, text_data: Dataset) -> None:
    data = with_config(text_data, data={"fingerprint": "0" * 64})
    [engine] = engines.start(1)
    engine.send(prepare_command(engine, data))
    assert engine.ended() == FingerprintMismatch.exit_code == 20
    failed = engine.only(Failed)
    assert failed.slug == "fingerprint-mismatch"
    assert "0" * 64 in failed.message
    assert text_data.manifest.fingerprint in failed.message
    assert "Traceback" not in engine.log


def test_a_plan_for_another_configuration_is_refused(engines: Engines, text_data: Dataset) -> None:
    [engine] = engines.start(1)
    plan = plan_of([engine], prepared([engine], text_data), with_config(text_data, seed=7))
    engine.send(Train(plan=plan))
    assert engine.ended() == RunError.exit_code == 50
    failed = engine.only(Failed)
    assert failed.slug == "run"
    assert "another configuration" in failed.message


@pytest.mark.parametrize("culprit", [0, 1])
def test_nan_from_one_engine_ends_both_with_its_name(engines: Engines, endless: Dataset, culprit: int) -> None:
    pair = engines.start(2, patches={culprit: NAN})
    training(pair, endless)
    codes = [engine.ended() for engine in pair]
    name = pair[culprit].identity.worker_id
    for engine in pair:
        assert name in engine.only(Failed).message, engine.log
        assert len(losses(engine)) == 2
    assert all(code in (NotFinite.exit_code, RunError.exit_code) for code in codes)
    assert any(engine.only(Failed).slug == "not-finite" for engine in pair)
    assert not [engine.log for engine in pair if "Traceback" in engine.log]
