"""Read top to bottom: this is what one member of a cluster does.

Runs on the compute thread from the first step of its plan to the last of the run. Everything it needs is handed in;
everything it has to say goes to its `Listener`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from legion.comm.api import Batches, Exchange
from legion.config import RunConfig
from legion.data.loader import Loader, MicroBatch
from legion.errors import FingerprintMismatch, PeerPaused, StepAborted
from legion.ids import Step
from legion.reports import EvaluationRecord, StepRecord
from legion.train.device import autocast
from legion.train.metrics import StepMeter
from legion.train.pace import Pace
from legion.train.schedule import learning_rate
from legion.train.writer import Writer
from legion.zero.engine import Border, Committed, Zero3


class Listener(Protocol):
    """Who is told what happens. Called on the compute thread."""

    def step_done(self, record: StepRecord) -> None: ...

    def evaluated(self, record: EvaluationRecord) -> None: ...

    def checkpoint_due(self, step: int, tokens: int) -> None:
        """The slice now holds the state after `step` steps and `tokens` tokens; it changes after this returns."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which step, over which data; the same on all members."""

    step: Step  # of the cluster's exchange
    at: int  # where the run stands, from 0: for the schedule and the record
    first_block: int  # of the first micro-batch; the others follow
    batch_count: int  # micro-batches
    ease: float = 1.0  # a factor on the learning rate
    last: bool = False  # no step follows


class Training:
    """One member's run."""

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        zero: Zero3,
        exchange: Exchange,
        loader: Loader,
        listener: Listener,
        device: torch.device,
        clock: Callable[[], float] | None = None,
        pace: Pace | None = None,
        writer: Writer | None = None,
    ) -> None:
        """`clock`: s, for the times in records, if not this machine's. `writer`: at every evaluation, on rank 0."""
        self._config = config
        self._model = model
        self._zero = zero
        self._exchange = exchange
        self._loader = loader
        self._listener = listener
        self._device = device
        self._meter = StepMeter(exchange.usage, clock)
        self.pace = pace or Pace()
        self._writer = writer
        self.stopping = threading.Event()  # set by anyone: leave after the step under way
        self.resting = threading.Event()  # set by anyone: what was done is kept for the others, when we leave
        self.regrouping = threading.Event()  # set by anyone: in rounds, break off once a contribution is made
        self.steps_done = 0
        self._tokens = 0
        self._kept = 0  # steps that a checkpoint has

    def run(self, first_step: int, tokens_before: int) -> int:
        """Train to the run's last step, or until `stopping`; returns the steps done, of the whole run.

        Whether we leave to rest or another member does, the state after the last committed step becomes a checkpoint.
        """
        self.steps_done = self._kept = first_step
        self._tokens = tokens_before
        self._zero.start(Step(first_step))
        try:
            self._train_on()
        except PeerPaused:  # an aborted step changes nothing: what was done before it is whole
            self._keep()
            raise
        if self.resting.is_set():
            self._keep()
        self._zero.stop()
        return self.steps_done

    def _train_on(self) -> None:
        config = self._config
        while self.steps_done < config.steps and not self.stopping.is_set():
            at = self.steps_done
            first, count = self._loader.first_block(at, 0), config.batch.micro_batches
            last = self.stopping.is_set() or at + 1 == config.steps
            try:
                self._tokens += self.step(Assignment(Step(at), at, first, count, last=last)).tokens
            except StepAborted:
                if self.pace.given_up:
                    break
                raise
            self.steps_done += 1
            self.pace.contributed()
            last = self.steps_done == config.steps
            every = config.evaluation.every_steps
            if last or (every and self.steps_done % every == 0):
                self.evaluate()
            if last or self.steps_done % config.checkpoint.every_steps == 0:
                self._keep()

    def _keep(self) -> None:
        if self.steps_done > self._kept:
            self._kept = self.steps_done
            self._listener.checkpoint_due(self.steps_done, self._tokens)

    def step(self, work: Assignment, border: Border | None = None) -> Committed:
        """One optimizer step of the cluster."""
        self._zero.begin(work.batch_count)
        loss_sum, tokens, micro_batches = 0.0, 0, 0
        while (index := self._next_batch(work, idle=not micro_batches)) is not None:
            batch = self._loader.blocks_from(work.first_block + index * self._loader.blocks_each)
            self._prefetch(work, index)
            with self.pace.micro_batch():
                with self._zero.backward_of(index, batch.tokens), autocast(self._config.cluster, self._device):
                    loss = self._loss_sum(batch)
                    loss.backward()
                loss_sum += float(loss.detach())
            tokens += batch.tokens
            micro_batches += 1
        lr = work.ease * learning_rate(self._config.optimizer, work.at, self._config.steps)
        last = work.last or self.pace.serving
        outcome = self._zero.finish(loss_sum, lr, last=last, border=border)
        record = self._meter.record(
            step=work.at + 1,
            outcome=outcome,
            lr=lr,
            tokens=tokens,
            micro_batches=micro_batches,
            state_bytes=self._zero.state_bytes,
        )
        self._listener.step_done(record)
        return outcome

    def _next_batch(self, work: Assignment, *, idle: bool) -> int | None:
        """Claimed only when it may be computed: a claim that rests would keep the others waiting.

        `idle`: nothing was computed in this step.
        """
        self.pace.between()
        if not self.pace.serving:
            return self._exchange.claim(work.step, work.batch_count)
        self._zero.let_go()
        self._exchange.rest(work.step, work.batch_count)
        if idle or self._config.cluster.reduce_every == "micro_batch":  # else gradients are still on the device
            self.pace.rests()
        return None

    def _prefetch(self, work: Assignment, index: int) -> None:
        """The micro-batch this member will most likely claim next."""
        ahead = index + self._exchange.group.world
        if work.at + ahead // work.batch_count < self._config.steps:
            self._loader.prefetch(work.first_block + ahead * self._loader.blocks_each)

    def evaluate(self) -> None:
        """Held-out loss of the weights offered: batch b is evaluated by member b mod N."""
        most = self._config.evaluation.max_blocks
        count = self._loader.validation_batch_count(most)
        if not count:
            return
        group = self._exchange.group
        mine = tuple(range(group.rank, count, group.world))
        loss_sum, tokens = 0.0, 0
        with self._zero.evaluation(), autocast(self._config.cluster, self._device):
            for number in mine:
                self._go_on()
                batch = self._loader.validation_batch(number, most)
                with self.pace.micro_batch():
                    loss_sum += float(self._loss_sum(batch))
                tokens += batch.tokens
            if self._writer is not None and group.rank == 0:
                self._writer.write(self._model, self.steps_done, self._go_on)
        verdict = self._zero.vote_evaluation(Batches(mine, tokens), count, loss_sum)
        self._listener.evaluated(
            EvaluationRecord(step=self.steps_done, loss=verdict.loss_sum / verdict.tokens, tokens=verdict.tokens)
        )

    def _go_on(self) -> None:
        """With an evaluation, which nobody takes over from who is to rest."""
        self.pace.between()
        if self.pace.serving:
            raise StepAborted("the evaluation was given up, as this computer rests")

    def _loss_sum(self, batch: MicroBatch) -> Tensor:
        """Cross-entropy in nats, summed over the batch's tokens."""
        inputs, labels = (_to(self._device, values) for values in (batch.inputs, batch.labels))
        logits = self._model(input_ids=inputs, use_cache=False).logits
        return loss_sum_of(logits, labels)


def loss_sum_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (B, L, V) logits and (B, L) labels in float32, summed over the labels that are not -100."""
    return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")


def _to(device: torch.device, values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)


def require_same_data(config: RunConfig, fingerprint: str) -> None:
    """The worker's data must be what the run was started with."""
    if config.data.fingerprint != fingerprint:
        raise FingerprintMismatch(f"the run wants data {config.data.fingerprint}, the manifest is {fingerprint}")
