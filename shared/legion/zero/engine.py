"""ZeRO stage 3 over an Exchange: the facade that the training loop sees.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv 1910.02054), with
weights pulled from their owners instead of collectives, so that members may run different numbers of micro-batches.

[Note: a step]
1. begin: my slice's weights are offered, room for gradient parts is opened.
2. backward_of, any number of times: units come and go with the model's own forward and backward; gradients leave.
3. finish: every part is in, everybody votes; on commit each owner updates its slice and offers it for the next step.
Nothing is in flight between two steps but the next step's weights.

Memory at its peak: 16 bytes for each element of the slice (weights, gradient, two moments), and three units: the
weights at work, the gradient that fills, and either the weights prefetched or the last unit's gradient still on its
way. So in the backward a prefetch waits until that gradient has left; both want the same uplink anyway.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from legion.comm.api import Ballot, Batches, Exchange, Verdict, Work
from legion.config import ClusterConfig, OptimizerConfig
from legion.errors import LegionError, StepAborted
from legion.ids import Step, UnitId
from legion.layout import Layout
from legion.zero import hooks
from legion.zero.flat import ModelUnit
from legion.zero.gradient import GradientBuffer, GradientSender, norm_squared
from legion.zero.muon import UnitMuon
from legion.zero.onebit import CODEC, LocalMomentum, UnitOneBitAdam
from legion.zero.optimizers import PIECE, Slice, UnitAdamW, UnitOptimizer
from legion.zero.unit import GatheredUnit


@dataclass(frozen=True, slots=True)
class Committed:
    """A step that all members made."""

    loss: float  # nats per token
    grad_norm: float  # of the mean gradient, before clipping; where 1-bit Adam compresses, of the mean momentum
    tokens: int


class Border(Protocol):
    """What else happens to the slice's weights between two steps: rounds. The same on all members of a cluster."""

    @property
    def ready(self) -> int: ...  # for our ballot: the newest anchor we could move to

    @property
    def late(self) -> bool: ...  # for our ballot: time to contribute

    @property
    def keep(self) -> bool: ...  # for our ballot: we can keep another restore point

    def reached(self, verdict: Verdict) -> bool:
        """A step was committed; whether `cross` is to be called before the weights are offered again."""

    def cross(self, verdict: Verdict) -> None:
        """The slice's weights are at rest: read them, change them."""


class Zero3:
    """One member's share of a model in training. Everything here runs on the compute thread."""

    def __init__(
        self,
        units: Sequence[ModelUnit],
        layout: Layout,
        exchange: Exchange,
        *,
        cluster: ClusterConfig,
        optimizer: OptimizerConfig,
        steps: int,
        device: torch.device,
    ) -> None:
        optimizer.require_members(layout.world)
        self._layout = layout
        self._exchange = exchange
        self._cluster = cluster
        self._optimizer_config = optimizer
        self._batch_count = 0  # of the step under way
        self._onebit: LocalMomentum | None = None
        self._onebit_warmup_steps = optimizer.onebit_warmup_steps(steps)
        self._optimizer_steps = 0  # since the moments were zero
        self._device = device
        self._rank = exchange.group.rank
        owned = layout.owned(self._rank)
        self.slice = Slice(*(torch.zeros(owned) for _ in range(4)))
        self._units = [GatheredUnit(UnitId(i), unit, exchange, device) for i, unit in enumerate(units)]
        self._needs = [(UnitId(i), *(UnitId(n) for n in unit.needs)) for i, unit in enumerate(units)]
        self._gradients = [GradientBuffer(unit.flat) for unit in self._units]
        self._sender = GradientSender(exchange)
        self._optimizers: list[UnitOptimizer] = []
        self._collects: list[Work[None]] = []
        self._step = Step(0)
        self._batches: Batches | None = None
        self._done: list[Batches] = []
        self._ahead: list[UnitId] = []  # sites to prefetch in this backward
        for unit in self._units:
            hooks.install(unit.number, unit.flat, self)

    @property
    def state_bytes(self) -> int:
        """What this member keeps from step to step, in host memory."""
        return self._optimizer_config.state_bytes(self.slice.weights.numel(), self._layout.total)

    @property
    def step(self) -> Step:
        """The version of the weights that are offered; grows with every step and with every wait at a border."""
        return self._step

    def part(self, unit: UnitId) -> Slice:
        """The slice's part of a unit."""
        start = self._layout.slice_offset(unit, self._rank)
        return self.slice.part(start, start + len(self._layout.bounds(unit, self._rank)))

    @property
    def optimizer_steps(self) -> int:
        """That the moments stand for."""
        return self._optimizer_steps

    def start(self, step: Step, optimizer_steps: int | None = None) -> None:
        """The slice holds the weights after `step` steps: offer them. Moments are of `optimizer_steps`, or as old."""
        step_of_moments = step if optimizer_steps is None else Step(optimizer_steps)
        self._step = step
        self._optimizer_steps = step_of_moments
        if self._optimizer_config.name == "onebit_adam":
            self._onebit = LocalMomentum(self._optimizer_config, self._layout, self._rank)
        self._optimizers = [self._optimizer_of(unit, step_of_moments) for unit in self._units]
        self._offer_all()

    def _optimizer_of(self, unit: GatheredUnit, step: Step) -> UnitOptimizer:
        config, slots = self._optimizer_config, unit.flat.unit.parameters
        bounds, part = self._layout.bounds(unit.number, self._rank), self.part(unit.number)
        hidden = 0 < unit.number < len(self._units) - 1  # neither embedding nor head
        if config.name == "muon" and hidden:
            return UnitMuon(config, slots, bounds, part, step, self._device)
        if config.name == "onebit_adam":
            return UnitOneBitAdam(config, slots, bounds, part, step, self._onebit_warmup_steps)
        return UnitAdamW(config, slots, bounds, part, step)

    def _publish(self, unit: UnitId) -> None:
        self._exchange.publish(self._step, unit, self.part(unit).weights)

    # A step

    def begin(self, batch_count: int) -> None:
        """Make room for the gradients of a step of so many micro-batches."""
        self._batch_count = batch_count
        self._done = []
        parts = self._batch_count + (self._exchange.group.world if self._compressing else 0)
        self._collects = [
            self._exchange.collect(self._step, unit.number, parts, self.part(unit.number).gradient)
            for unit in self._units
        ]

    @property
    def _compressing(self) -> LocalMomentum | None:
        """1-bit Adam's momentum, if it is what travels in this step."""
        return self._onebit if self._optimizer_steps >= self._onebit_warmup_steps else None

    @contextlib.contextmanager
    def backward_of(self, index: int, tokens: int) -> Iterator[None]:
        """Forward and backward of one micro-batch, whose loss is the *sum* over its tokens, inside the block."""
        self._batches = Batches((index,), tokens)
        yield
        for gradient in self._gradients:
            gradient.end_micro_batch()
        self._done.append(self._batches)
        self._batches = None

    def let_go(self) -> None:
        """Nothing more is computed in this step: weights that are here or on their way go, and the card's memory."""
        self._release_all()
        match self._device.type:
            case "cuda":
                torch.cuda.empty_cache()
            case "mps":
                torch.mps.empty_cache()
            case "xpu":
                torch.xpu.empty_cache()

    def finish(self, loss_sum: float, lr: float, *, last: bool = False, border: Border | None = None) -> Committed:
        """Vote and, on commit, update. StepAborted if any member could not finish.

        `loss_sum`: nats over all tokens of the micro-batches this member computed. `last`: no step follows.
        """
        batches = Batches(
            tuple(sorted(index for done in self._done for index in done.indices)),
            sum(done.tokens for done in self._done),
        )
        try:
            if momentum := self._compressing:
                self._send_momentum(momentum, batches)
            elif self._cluster.reduce_every == "step" and self._done:
                self._send_sums(batches)
            self._sender.wait()
            self._release_all()
            norm_squared = self._norm_squared()
            ballot = Ballot(True, batches, self._batch_count, loss_sum, norm_squared)
            if border is not None:
                ballot = replace(ballot, ready=border.ready, late=border.late, keep=border.keep)
        except LegionError as error:
            self._vote(Ballot(False, batches, self._batch_count, reason=f"{error.title}: {error}"))
            raise
        verdict = self._vote(ballot)
        divisor: float = verdict.tokens
        if momentum := self._compressing:
            divisor = momentum.divisor(verdict.tokens, [self.part(unit.number) for unit in self._units])
        norm = math.sqrt(verdict.norm_squared) / divisor
        at_border = border is not None and border.reached(verdict)
        ahead = 0 if last else self._cluster.prefetch_units + 1
        self._update(norm, divisor, lr, offer=not at_border, ahead=ahead)
        if momentum:
            momentum.settle()
        if border is not None and at_border:
            border.cross(verdict)
            self._offer_all()
        return Committed(verdict.loss_sum / verdict.tokens, norm, verdict.tokens)

    def _vote(self, ballot: Ballot) -> Verdict:
        verdict = self._exchange.vote(self._step, ballot).wait()
        if ballot.ok and not verdict.commit:
            raise StepAborted(f"step {self._step} was aborted: {verdict.reason}")
        return verdict

    def _send_sums(self, batches: Batches) -> None:
        for unit, gradient in zip(reversed(self._units), reversed(self._gradients), strict=True):
            self._sender.send(self._step, batches, unit.number, gradient.take)

    def _send_momentum(self, momentum: LocalMomentum, batches: Batches) -> None:
        """See `onebit`: my momentum is a micro-batch of its own."""
        gradients = [torch.cat(gradient.take()) for gradient in self._gradients] if self._done else []
        momentum.follow(gradients, batches, self._batch_count)
        named = Batches((*batches.indices, self._batch_count + self._rank), batches.tokens)
        for unit in reversed(self._units):
            message = functools.partial(momentum.message, unit.number)
            self._sender.send(self._step, named, unit.number, message, CODEC)

    def _norm_squared(self) -> float:
        """Of my slice of the gradient sum, unit by unit as their sums are complete."""
        squares = []
        for unit, collect in zip(reversed(self._units), reversed(self._collects), strict=True):
            collect.wait()
            squares.append(norm_squared(self.part(unit.number).gradient))
        return math.fsum(squares)

    def wait_at_border(self, border: Border) -> None:
        """No step: cross once every member is here. What was fetched ahead is of the weights before."""
        self._release_all()
        verdict = self._vote(Ballot(True, Batches((), 0), 0, purpose="border", ready=border.ready, late=border.late))
        self._step = Step(self._step + 1)
        border.cross(verdict)
        self._offer_all()

    def offer_anew(self) -> None:
        """The slice's weights are others than those offered; every member calls this between the same two steps."""
        self._release_all()
        self._step = Step(self._step + 1)
        self._offer_all()

    def _offer_all(self) -> None:
        for unit in self._units:
            self._publish(unit.number)

    def _update(self, norm: float, divisor: float, lr: float, *, offer: bool, ahead: int) -> None:
        """Mean, clip, AdamW; each unit is offered as soon as it is new. The first `ahead` set out for the next step."""
        most = self._optimizer_config.clip_norm
        clip = 1.0 if most is None else min(1.0, most / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_
        self._step = Step(self._step + 1)
        self._optimizer_steps += 1
        for unit, optimizer in zip(self._units, self._optimizers, strict=True):
            for piece in self.part(unit.number).gradient.split(PIECE):
                piece.div_(divisor).mul_(clip)
            optimizer.update(lr)
            if not offer:
                continue
            self._publish(unit.number)
            if unit.number < ahead:
                self._hold(unit.number)

    def stop(self) -> None:
        """No step follows. Waits for the weights that set out for one, and lets go of them, also if they failed."""
        for unit in self._units:
            with contextlib.suppress(LegionError):
                unit.release()

    # Evaluation

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Forward passes without gradients inside the block, at the weights of the step to come."""
        with torch.no_grad():
            yield
        self._release_all()

    def vote_evaluation(self, batches: Batches, batch_count: int, loss_sum: float) -> Verdict:
        """Everybody's sums; `batches` are those this member evaluated of `batch_count`."""
        return self._vote(Ballot(True, batches, batch_count, loss_sum, purpose="evaluation"))

    # What the model's hooks tell

    def enter_forward(self, site: UnitId) -> None:
        self._hold(site)
        for ahead in range(site + 1, min(site + 1 + self._cluster.prefetch_units, len(self._units))):
            self._hold(UnitId(ahead))
        self._wait(site)

    def leave_forward(self, site: UnitId) -> None:
        # The last site's backward follows at once: what it holds stays.
        backward_follows = torch.is_grad_enabled() and site == len(self._units) - 1
        if not backward_follows and (self._cluster.reshard_after_forward or not torch.is_grad_enabled()):
            self._drop(site)

    def enter_backward(self, site: UnitId) -> None:
        self._hold(site)
        lowest = max(0, site - self._cluster.prefetch_units)
        self._ahead = [UnitId(u) for u in range(site - 1, lowest - 1, -1) if not self._units[u].flat.only_looks_up]
        self._prefetch_if_room()
        self._wait(site)

    def gradient_ready(self, site: UnitId, parameter: int) -> None:
        if self._gradients[site].fill(parameter):
            if self._cluster.reshard_after_forward:
                self._drop(site)
            if self._cluster.reduce_every == "micro_batch" and not self._compressing:
                assert self._batches is not None
                self._sender.send(self._step, self._batches, site, self._gradients[site].take)
        self._prefetch_if_room()

    def _prefetch_if_room(self) -> None:
        if self._ahead and self._sender.idle:
            for site in self._ahead:
                self._hold(site)
            self._ahead = []

    def _hold(self, site: UnitId) -> None:
        for unit in self._needs[site]:
            self._units[unit].hold(site, self._step)

    def _wait(self, site: UnitId) -> None:
        for unit in self._needs[site]:
            self._units[unit].wait()

    def _drop(self, site: UnitId) -> None:
        for unit in self._needs[site]:
            self._units[unit].drop(site)

    def _release_all(self) -> None:
        for unit in self._units:
            unit.release()
