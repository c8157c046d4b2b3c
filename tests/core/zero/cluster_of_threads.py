"""A cluster whose members are threads of this process, and the same training in one process by torch alone."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from legion.comm.local import LocalCluster
from legion.config import RunConfig
from legion.errors import LegionError, RunError
from legion.layout import Layout
from legion.model.build import Blueprint, blueprint
from legion.model.init import fill, theta_0
from legion.zero.engine import Committed, Zero3

T = TypeVar("T")
VOCAB = 61
Batch = tuple[Tensor, Tensor]  # inputs and labels, int64 (B, L); label -100 counts for nothing


def small_config(**changes: Any) -> RunConfig:
    body: dict[str, Any] = {
        "model": {
            "preset": None,
            "architecture": "llama",
            "settings": {
                "hidden_size": 32,
                "intermediate_size": 72,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 64,
                "tie_word_embeddings": False,
            },
        },
        "data": {"seq_len": 16},
        "batch": {"micro_batches": 4, "micro_batch_blocks": 2},
        "optimizer": {"lr": 0.01, "warmup_steps": 0},
    }
    for key, value in changes.items():
        section, _, field = key.partition("__")
        body.setdefault(section, {})[field] = value
    return RunConfig.model_validate(body)


def batches_of(step: int, count: int) -> list[Batch]:
    """Micro-batches of unequal token counts, the same for everyone."""
    found = []
    for index in range(count):
        rng = np.random.default_rng((step, index))
        tokens = torch.from_numpy(rng.integers(0, VOCAB, (2, 17)))
        labels = tokens[:, 1:].clone()
        labels[0, 16 - 3 * index :] = -100
        found.append((tokens[:, :-1].contiguous(), labels))
    return found


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(input_ids=batch[0], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten(), ignore_index=-100, reduction="sum")


def tokens_of(batch: Batch) -> int:
    return int((batch[1] != -100).sum())


def in_threads(work: Callable[[int], T], world: int, failed: Callable[[LegionError], None] | None = None) -> list[T]:
    """`work(rank)` in one thread a rank; the first exception comes out. `failed` ends what the others wait for."""
    results: list[Any] = [None] * world
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:  # noqa: BLE001  raised again by the caller
            errors.append(error)
            if failed is not None:
                failed(RunError(f"rank {rank} failed"))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def theta_of(config: RunConfig, plan: Blueprint) -> list[np.ndarray[Any, Any]]:
    """theta_0 of every unit, padded, as numpy."""
    layout = Layout(plan.shape.sizes, (1,))
    found = []
    for number, unit in enumerate(plan.shape.units):
        values = np.empty(layout.padded_unit(number), dtype=np.float32)
        fill(values, unit, 0, theta_0(config))
        found.append(values)
    return found


class Trainer:
    """One member: its own model and engine."""

    def __init__(self, config: RunConfig, cluster: Any, layout: Layout, rank: int) -> None:
        self.config = config
        self.exchange = cluster.exchanges[rank]
        plan = blueprint(config, VOCAB)
        self.model = plan.model
        self.zero = Zero3(
            plan.units,
            layout,
            self.exchange,
            cluster=config.cluster,
            optimizer=config.optimizer,
            steps=config.steps,
            device=torch.device("cpu"),
        )
        for number, values in enumerate(theta_of(config, plan)):
            bounds = layout.bounds(number, rank)
            self.zero.part(number).weights.copy_(torch.from_numpy(values[bounds.start : bounds.stop]))
        self.zero.start(0)

    def step(self, step: int, my_turn: Callable[[int], bool] = lambda _: True) -> Committed:
        batches = batches_of(step, self.config.batch.micro_batches)
        self.zero.begin(len(batches))
        total = 0.0
        while my_turn(step) and (index := self.exchange.claim(step, len(batches))) is not None:
            with self.zero.backward_of(index, tokens_of(batches[index])):
                loss = loss_sum(self.model, batches[index])
                loss.backward()
            total += float(loss.detach())
        return self.zero.finish(total, self.config.optimizer.lr)


def train_in_threads(
    config: RunConfig, shares: Sequence[int], steps: int, my_turn: Callable[[int, int], bool] = lambda *_: True
) -> tuple[list[Committed], np.ndarray[Any, Any]]:
    """Each step's outcome, the same on every member (checked), and the final weights, unit after unit."""
    plan = blueprint(config, VOCAB)
    layout = Layout(plan.shape.sizes, tuple(shares))
    codecs = config.codecs
    with LocalCluster(
        layout,
        static_claims=config.cluster.claims == "static",
        weights=codecs.weights,
        gradients=codecs.gradients,
    ) as cluster:
        # Not in the threads: building models there mutates what torch has once for all of them.
        trainers = [Trainer(config, cluster, layout, rank) for rank in layout.ranks]

        def work(rank: int) -> tuple[list[Committed], list[np.ndarray[Any, Any]]]:
            trainer = trainers[rank]
            outcomes = [trainer.step(s, lambda s: my_turn(rank, s)) for s in range(steps)]
            parts = [trainer.zero.part(u).weights.numpy().copy() for u in range(len(layout.units))]
            return outcomes, parts

        results = in_threads(work, len(shares), cluster.fail)
    assert all(outcomes == results[0][0] for outcomes, _ in results)
    weights = [
        np.concatenate([parts[unit] for _, parts in results])[: layout.units[unit]] for unit in range(len(layout.units))
    ]
    return results[0][0], np.concatenate(weights)


Update = Callable[[], None]


def adamw_of(config: RunConfig, parameters: dict[str, nn.Parameter]) -> Update:
    """A step of torch.optim.AdamW, which takes the gradients with it."""
    settings = config.optimizer
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in parameters.values() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        foreach=False,
    )

    def update() -> None:
        adamw.step()
        adamw.zero_grad()

    return update


def train_alone(
    config: RunConfig, steps: int, optimizer: Callable[[RunConfig, dict[str, nn.Parameter]], Update] = adamw_of
) -> tuple[list[Committed], np.ndarray[Any, Any]]:
    """The reference: one process, an optimizer over whole parameters by name, clip_grad_norm_."""
    plan = blueprint(config, VOCAB)
    parameters: dict[str, nn.Parameter] = {}
    for unit, values in zip(plan.units, theta_of(config, plan), strict=True):
        for slot in unit.parameters:
            value = torch.from_numpy(values[slot.offset : slot.offset + slot.numel].copy()).view(slot.shape)
            parameters[slot.name] = nn.Parameter(value)
            for module, attribute in slot.owners:
                module._parameters[attribute] = parameters[slot.name]
    update = optimizer(config, parameters)
    outcomes = []
    for step in range(steps):
        batches = batches_of(step, config.batch.micro_batches)
        tokens = sum(tokens_of(batch) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = loss_sum(plan.model, batch) / tokens
            loss.backward()
            total += float(loss.detach())
        clip = config.optimizer.clip_norm or float("inf")
        norm = float(nn.utils.clip_grad_norm_(parameters.values(), clip))
        update()
        outcomes.append(Committed(total, norm, tokens))
    weights = [parameters[slot.name].detach().numpy().ravel() for unit in plan.units for slot in unit.parameters]
    return outcomes, np.concatenate(weights)
