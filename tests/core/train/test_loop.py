"""What a run does from its first step to its last, alone and with others, stopped and resumed."""

from pathlib import Path

import pytest

from legion.errors import FingerprintMismatch
from legion.train.loop import require_same_data
from tests.core.train.runs_in_threads import SyntheticBlocks, run, run_config

WORLDS = [(1,), (2, 1)]


@pytest.mark.parametrize("shares", WORLDS)
def test_a_whole_run_in_order(tmp_path: Path, shares: tuple[int, ...]) -> None:
    members = run(run_config(evaluation__every_steps=5), shares, tmp_path)
    for heard in members:
        assert heard.returned == 10
        assert [record.step for record in heard.steps] == list(range(1, 11))
        assert [record.step for record in heard.evaluations] == [5, 10]
        assert [step for step, _ in heard.checkpoints] == [4, 8, 10]
        assert heard.order[3:6] == ["step 4", "checkpoint 4", "step 5"]
        assert heard.order[-3:] == ["step 10", "evaluation 10", "checkpoint 10"]  # the last: measured, then kept
        assert heard.losses[-1] < heard.losses[0] - 0.3
    first = members[0]
    for heard in members[1:]:
        assert heard.losses == first.losses
        assert heard.evaluations == first.evaluations
        assert heard.checkpoints == first.checkpoints


@pytest.mark.parametrize("shares", WORLDS)
def test_tokens_are_those_of_the_blocks(tmp_path: Path, shares: tuple[int, ...]) -> None:
    members = run(run_config(steps=4), shares, tmp_path)
    blocks = SyntheticBlocks()
    per_step = [sum(blocks.train(6 * step + n).tokens for n in range(6)) for step in range(4)]
    assert [record.step_tokens for record in members[0].steps] == per_step
    for step, tokens in enumerate(per_step):
        assert sum(heard.steps[step].tokens for heard in members) == tokens
        assert sum(heard.steps[step].micro_batches for heard in members) == 3
    assert members[0].checkpoints == [(4, sum(per_step))]
    assert members[0].evaluations[0].tokens == sum(blocks.validation(n).tokens for n in range(5))


def test_the_number_of_members_changes_nothing(tmp_path: Path) -> None:
    alone, together = (run(run_config(), shares, tmp_path / str(len(shares))) for shares in WORLDS)
    assert together[0].losses == pytest.approx(alone[0].losses, rel=1e-5)
    assert together[0].evaluations[0].loss == pytest.approx(alone[0].evaluations[0].loss, rel=1e-4)


@pytest.mark.parametrize("every", [1, 3, 10, 11])
def test_checkpoints_are_due_when_the_run_says_and_at_its_end(tmp_path: Path, every: int) -> None:
    [heard] = run(run_config(checkpoint__every_steps=every, steps=7), (1,), tmp_path)
    assert [step for step, _ in heard.checkpoints] == sorted({*range(every, 8, every), 7})


@pytest.mark.parametrize("count", [0, 1, 2])
def test_little_held_out_text(tmp_path: Path, count: int) -> None:
    """Fewer batches than members: some have nothing to evaluate, and say so."""
    members = run(run_config(steps=2), (1, 1, 1), tmp_path, blocks=SyntheticBlocks(count))
    assert [len(heard.evaluations) for heard in members] == [min(count, 1)] * 3


def test_stopping_takes_effect_between_two_steps(tmp_path: Path) -> None:
    [heard] = run(run_config(), (1,), tmp_path, stop_after=3)
    assert heard.returned == 3
    assert heard.order == ["step 1", "step 2", "step 3"]


def test_stopping_in_a_checkpoints_step_still_keeps_it(tmp_path: Path) -> None:
    [heard] = run(run_config(), (1,), tmp_path, stop_after=4)
    assert heard.order[-2:] == ["step 4", "checkpoint 4"]


@pytest.mark.parametrize("claims", ["static", "dynamic"])
@pytest.mark.parametrize("shares", WORLDS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, shares: tuple[int, ...], claims: str) -> None:
    config = run_config(cluster__claims=claims)
    whole = run(config, shares, tmp_path / "whole")
    resumed = run(config, shares, tmp_path / "whole", resume_step=4)
    for before, after in zip(whole, resumed, strict=True):
        assert [record.step for record in after.steps] == list(range(5, 11))
        assert after.checkpoints == before.checkpoints[1:]
        if claims == "static":
            assert after.losses == before.losses[4:]
            assert after.evaluations == before.evaluations
            assert [r.grad_norm for r in after.steps] == [r.grad_norm for r in before.steps[4:]]
        else:
            assert after.losses == pytest.approx(before.losses[4:], rel=1e-5)
            assert after.evaluations[0].loss == pytest.approx(before.evaluations[0].loss, rel=1e-5)
        assert [r.lr for r in after.steps] == [r.lr for r in before.steps[4:]]


def test_a_run_that_was_complete_has_nothing_to_do(tmp_path: Path) -> None:
    config = run_config(steps=4)
    run(config, (1,), tmp_path)
    [heard] = run(config, (1,), tmp_path, resume_step=4)
    assert (heard.returned, heard.order) == (4, [])


def test_other_data_than_the_runs_is_refused() -> None:
    config = run_config()
    known = config.model_copy(update={"data": config.data.model_copy(update={"fingerprint": "a" * 64})})
    require_same_data(known, "a" * 64)
    with pytest.raises(FingerprintMismatch, match=f"{'a' * 64}.*{'b' * 64}"):
        require_same_data(known, "b" * 64)
    with pytest.raises(FingerprintMismatch):
        require_same_data(config, "a" * 64)
