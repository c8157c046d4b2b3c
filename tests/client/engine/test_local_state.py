"""What an engine keeps and when, and how the next one starts from it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from legion.config import RunConfig, config_digest, merge
from legion.errors import CheckpointInvalid
from legion.ids import ClusterId, Epoch, Rank, RunId, WorkerId
from legion.layout import CHUNK, Layout
from legion.messages import Endpoint, Member, Message, ModelShape, Plan, TensorShape, UnitShape
from legion.outer.member import Office, Place, RoundMember
from legion.outer.state import WEAR_BYTES_PER_S, opened
from legion.zero.engine import Zero3
from legion.zero.optimizers import Slice
from legion_client.engine.local_state import LocalState, anchor_of, started
from legion_client.engine.protocol import StateSaved, Train

UNITS = (3 * CHUNK,)
LAYOUT = Layout(UNITS, (1,))
ROUNDS = {"steps": 4, "checkpoint_every": 10}


def config_of(**change: Any) -> RunConfig:
    return merge(RunConfig(), {"cluster": {"policy": "solo"}, "rounds": ROUNDS} | change)


def place_of(config: RunConfig, cluster: str) -> Place:
    return Place(RunId("run-test"), ClusterId(cluster), Rank(0), LAYOUT, config.round_count)


@dataclass
class Zero:
    """What of a Zero3 is kept."""

    slice: Slice
    optimizer_steps: int = 17


def slice_of(seed: int) -> Slice:
    draw = torch.Generator().manual_seed(seed)
    return Slice(*(torch.randn(LAYOUT.total, generator=draw) for _ in range(4)))


@dataclass
class Engine:
    """A member with its keeper, by a clock of its own."""

    path: Path
    config: RunConfig = field(default_factory=config_of)
    now_s: float = 0.0
    reports: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.zero = Zero(slice_of(1))
        place = place_of(self.config, "c3")
        momentum = np.full(LAYOUT.total, 0.25, np.float32) if self.config.rounds.outer_momentum else None
        weights = self.zero.slice.weights.numpy()
        self.theta = weights.copy()
        # No plan and no record is asked for here.
        self.member = RoundMember(self.config.rounds, place, weights, 5, cast(Office, None), momentum)
        weights -= 1  # work
        zero, tell = cast(Zero3, self.zero), self.reports.append
        self.keeper = LocalState(self.path, self.config, place, self.member, zero, tell, clock=lambda: self.now_s)

    def reach(self, anchor: int, now_s: float) -> int:
        """How many states it has saved then."""
        self.member.anchor, self.now_s = anchor, now_s
        self.keeper.reached()
        return len(self.reports)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "local.safetensors"


def train_of(config: RunConfig, local_state: Path | None, resume_slice: Path | None = None) -> Train:
    shape = ModelShape(units=(UnitShape(name="all", tensors=(TensorShape(name="w", shape=UNITS),)),))
    plan = Plan(
        run_id=RunId("run-test"),
        epoch=Epoch(9),
        members=(Member(worker_id=WorkerId("me"), endpoint=Endpoint(host="127.0.0.1", port=1), share=1),),
        shape=shape,
        first_step=32,
        config_digest=config_digest(config),
        cluster=ClusterId("c9"),
        round=9,
    )
    return Train(plan=plan, local_state=local_state, resume_slice=resume_slice)


def test_a_state_is_kept_as_often_as_checkpoints_are_made_and_the_disk_allows(path: Path) -> None:
    engine = Engine(path)
    size_bytes = 16 * LAYOUT.total
    long_s = 2 * size_bytes / WEAR_BYTES_PER_S
    assert engine.reach(14, long_s) == 0, "too few rounds"
    assert engine.reach(15, size_bytes / WEAR_BYTES_PER_S / 2) == 0, "too much for the disk"
    assert engine.reach(16, long_s) == 1
    assert engine.reach(26, long_s + 0.001) == 1
    assert engine.reach(27, 2 * long_s) == 2
    saved = engine.reports[-1]
    assert isinstance(saved, StateSaved)
    assert (saved.path, saved.anchor, saved.final) == (path, 27, False)
    assert saved.size_bytes == path.stat().st_size > size_bytes


def test_what_is_taken_up_or_over_is_deleted(path: Path) -> None:
    engine = Engine(path)
    for end in (engine.keeper.entered, lambda: engine.keeper.left(complete=True)):
        engine.keeper.left(complete=False)
        with opened(path) as kept:
            assert kept.info.final
        end()
        assert not path.exists()
        end()  # again: nothing is there


def test_a_disk_that_takes_no_state_stops_nobody(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.write_text("a file is in the way")
    engine = Engine(path)
    engine.keeper.left(complete=False)
    assert engine.reports == []
    assert "local state not kept anchor=5" in caplog.text


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_by_updates_everything_is_as_it_was(path: Path, momentum: float) -> None:
    config = config_of(rounds=ROUNDS | {"outer_momentum": momentum})
    before = Engine(path, config)
    before.keeper.left(complete=False)
    command, after = train_of(config, path), slice_of(2)
    assert anchor_of(command) == 5
    returned = started(config, place_of(config, "c9"), command, 5, after, cast(Office, None))
    assert returned.optimizer_steps == 17
    for name in ("weights", "exp_avg", "exp_avg_sq"):
        assert torch.equal(getattr(after, name), getattr(before.zero.slice, name))
    _, _, anchor = returned.member.state(final=True)
    assert np.array_equal(anchor.values, before.theta)
    assert (anchor.momentum is None) == (momentum == 0)
    assert anchor.momentum is None or (anchor.momentum == 0.25).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_by_a_checkpoint_what_waited_is_added(path: Path, momentum: float) -> None:
    config = config_of(rounds=ROUNDS | {"outer_momentum": momentum})
    before = Engine(path, config)
    before.keeper.left(complete=False)
    after = slice_of(2)
    theta, of_anchor = after.weights.clone(), after.exp_avg.clone()
    command = train_of(config, path, resume_slice=path)  # which was read already
    assert anchor_of(command) is None
    returned = started(config, place_of(config, "c9"), command, 8, after, cast(Office, None))
    assert torch.allclose(after.weights, theta - 1, atol=1e-6)
    assert torch.equal(after.exp_avg, before.zero.slice.exp_avg)
    _, _, anchor = returned.member.state(final=True)
    assert np.array_equal(anchor.values, theta.numpy())
    assert anchor.momentum is None or np.array_equal(anchor.momentum, of_anchor.numpy())


def test_a_newcomer_starts_with_no_moments(path: Path) -> None:
    config = config_of(rounds=ROUNDS | {"outer_momentum": 0.9})
    after = slice_of(2)
    of_anchor = after.exp_avg.clone()
    returned = started(config, place_of(config, "c9"), train_of(config, None), 8, after, cast(Office, None))
    assert returned.optimizer_steps == 0
    assert not after.exp_avg.any()
    _, _, anchor = returned.member.state(final=True)
    assert anchor.momentum is not None
    assert np.array_equal(anchor.momentum, of_anchor.numpy()), "of the anchor that it starts from"


def test_with_onebit_adam_moments_start_anew(path: Path) -> None:
    config = config_of(optimizer={"name": "onebit_adam"})
    Engine(path, config).keeper.left(complete=False)
    after = slice_of(2)
    returned = started(config, place_of(config, "c9"), train_of(config, path), 5, after, cast(Office, None))
    assert returned.optimizer_steps == 0
    assert not after.exp_avg.any()


def test_a_state_of_another_slice_is_refused(path: Path) -> None:
    config = config_of()
    Engine(path, config).keeper.left(complete=False)
    other = Slice(*(torch.zeros(CHUNK) for _ in range(4)))
    with pytest.raises(CheckpointInvalid, match="elements of anchor"):
        started(config, place_of(config, "c9"), train_of(config, path), 5, other, cast(Office, None))
