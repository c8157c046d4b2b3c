"""One run from theta_0 to its last loss: what every arm has in common is here once."""

import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convergence.arms import Run, config_of
from convergence.replica import Replica
from convergence.rounds import Averaging
from legion import digest
from legion.codec.api import Floats
from legion.comm.api import Verdict
from legion.config import RunConfig
from legion.data.blocks import Blocks, open_blocks
from legion.data.prepare import Prepared
from legion.data.stream import Block
from legion.ids import UnitId
from legion.layout import Layout
from legion.messages import ModelShape
from legion.model.init import fill, theta_0
from legion.outer.member import RoundMember
from legion.train.schedule import learning_rate

MOST_HELD_OUT = 512  # blocks; every other one is for choosing rates, the rest for reporting
CURVE_EVERY = 8  # rounds
CURVE_BLOCKS = 64


@dataclass
class Course:
    """What is written down on the way."""

    curve: list[tuple[int, float]] = field(default_factory=list)  # rounds done, loss of the anchor on few blocks
    train_loss: float = 0.0  # of the last round, mean over workers and steps
    before_flush: float | None = None  # loss of the anchor before the last round, which is a flush
    mean_before_flush: float | None = None  # and of the mean of all local weights there


class Session:
    """One run."""

    def __init__(self, run: Run, config: RunConfig, prepared: Prepared, folder: Path) -> None:
        self.run, self.config, self.arm = run, config, run.arm
        vocab_size = prepared.manifest.vocab_size
        self.blocks: Blocks = open_blocks(prepared.manifest, folder, seed=run.seed)
        count = min(MOST_HELD_OUT, self.blocks.validation_count)
        held_out = [self.blocks.validation(i * self.blocks.validation_count // count) for i in range(count)]
        self.choice, self.report = held_out[::2], held_out[1::2]
        self.judge = Replica(config, vocab_size)
        workers = 1 if self.arm.kind != "rounds" else self.arm.clusters
        self.replicas = [Replica(config, vocab_size) for _ in range(workers)]
        self.theta_0 = start_of(config, self.judge.shape)
        for replica in self.replicas:
            replica.weights[:] = self.theta_0
        self.course = Course()
        self._chance = random.Random(f"churn:{run.seed}")

    def batch(self, step: int, worker: int) -> list[Block]:
        """What one worker trains on in one step: the same blocks in every arm of a setting."""
        size = self.config.batch.micro_batch_blocks
        round_number, within = divmod(step, self.arm.steps)
        first = ((round_number * self.arm.clusters + worker) * self.arm.steps + within) * size
        return [self.blocks.train(first + i) for i in range(size)]

    def loss_of(self, weights: Floats, blocks: list[Block]) -> float:
        self.judge.weights[:] = weights
        return self.judge.loss(blocks)

    def note(self, rounds_done: int, weights: Floats) -> None:
        if rounds_done % CURVE_EVERY == 0:
            blocks = self.report[:: max(1, len(self.report) // CURVE_BLOCKS)]
            self.course.curve.append((rounds_done, self.loss_of(weights, blocks)))

    def train_alone(self) -> Floats:
        """`solo` sees the first worker's blocks; `synchronous` everybody's, in the steps in which they see them."""
        (replica,) = self.replicas
        workers = range(1) if self.arm.kind == "solo" else range(self.arm.clusters)
        losses: list[float] = []
        for step in range(self.arm.all_steps):
            blocks = [block for worker in workers for block in self.batch(step, worker)]
            losses.append(replica.step(blocks, learning_rate(self.config.optimizer, step, self.arm.all_steps)))
            if (step + 1) % self.arm.steps == 0:
                self.note((step + 1) // self.arm.steps, replica.weights)
        self.course.train_loss = float(np.mean(losses[-self.arm.steps :]))
        return replica.weights

    def train_in_rounds(self, averaging: Averaging) -> Floats:
        """H steps of everybody, then an exchange, which the first `delay_steps` of the next round hide."""
        arm, everybody, newcomers = self.arm, set(range(self.arm.clusters)), set[int]()
        members = {worker: averaging.member(worker, self.replicas[worker].weights) for worker in everybody}
        averaging.plan_round(newcomers)
        for number in range(arm.rounds):
            last = number + 1 == arm.rounds
            if last:
                self._judge_before_flush(averaging.anchor.values)
            losses = []
            for worker, member in members.items():
                while not averaging.has_sent(worker):
                    losses.append(self._step(worker, member))
            present = {worker for worker in sorted(everybody) if self._chance.random() >= arm.churn}
            present = present or {self._chance.choice(sorted(everybody))}  # a round of nobody would not be committed
            hidden = range(0 if last else arm.delay_steps)
            losses += [self._step(worker, members[worker]) for worker in present for _ in hidden]
            averaging.commit(present)
            newcomers = everybody - present
            if not last:
                averaging.plan_round(newcomers)
            for worker in present:
                members[worker].cross(Verdict(True, ready=averaging.ready))
            for worker in newcomers:
                self.replicas[worker].join(averaging.anchor.values)
                members[worker] = averaging.member(worker, self.replicas[worker].weights)
            self.course.train_loss = float(np.mean(losses))
            self.note(number + 1, averaging.anchor.values)
        return averaging.anchor.values

    def _step(self, worker: int, member: RoundMember) -> float:
        """One step on the member's next blocks, and whatever is due at the border after it; the loss."""
        count = self.config.batch.micro_batch_blocks
        first = member.next_blocks(count)
        if first is None:
            raise RuntimeError(f"worker {worker} waits for anchor {member.anchor + 1} in the middle of a round")
        lr = learning_rate(self.config.optimizer, member.at, self.arm.all_steps)
        member.took(count)
        loss = self.replicas[worker].step([self.blocks.train(first + i) for i in range(count)], lr)
        verdict = Verdict(True, tokens=count * self.config.data.seq_len, ready=member.anchor)
        if member.reached(verdict):
            member.cross(verdict)
        return loss

    def _judge_before_flush(self, anchor: Floats) -> None:
        mean = np.mean([replica.weights for replica in self.replicas], axis=0)
        self.course.before_flush = self.loss_of(anchor, self.report)
        self.course.mean_before_flush = self.loss_of(mean, self.report)


def start_of(config: RunConfig, shape: ModelShape) -> Floats:
    """theta_0 in the flat space."""
    layout = Layout(shape.sizes, (1,))
    values = np.zeros(layout.total, np.float32)
    for number, unit in enumerate(shape.units):
        start = layout.offsets[number]
        fill(values[start : start + layout.padded_unit(UnitId(number))], unit, 0, theta_0(config))
    return values


def train(run: Run, scale: str, prepared: Prepared, folder: Path) -> dict[str, Any]:
    """The run's row, as JSON has it; `prepared` data lies in `folder`. Raises LegionError."""
    torch.set_num_threads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    config = config_of(run, scale)
    session = Session(run, config, prepared, folder)
    bits: dict[str, float] = {}
    if run.arm.kind == "rounds":
        averaging = Averaging(run.arm, config, session.judge.shape, session.theta_0)
        weights = session.train_in_rounds(averaging)
        bits = averaging.traffic.bits_per_value(weights.size)
    else:
        weights = session.train_alone()
    return {
        "choice_loss": session.loss_of(weights, session.choice),
        "loss": session.loss_of(weights, session.report),
        **asdict(session.course),
        **bits,
        "parameters": session.judge.shape.parameters,
        "tokens_per_worker": run.arm.all_steps * config.batch.micro_batch_blocks * config.data.seq_len,
        "root": digest.root(digest.leaves(weights)),
        "data": prepared.manifest.fingerprint,
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }
