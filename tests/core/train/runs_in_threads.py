"""Whole runs of `Training` in threads of one process, on a small synthetic text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cluster_of_threads import VOCAB, in_threads, small_config

from legion.checkpoint.shards import SliceInfo, read_slice, write_slice
from legion.comm.arrays import array_of
from legion.comm.local import LocalCluster
from legion.config import RunConfig
from legion.data.loader import Loader
from legion.data.stream import NO_LABEL, Block
from legion.ids import Epoch, RunId, UnitId
from legion.layout import Layout
from legion.model.build import blueprint
from legion.model.init import fill, theta_0
from legion.reports import EvaluationRecord, StepRecord
from legion.train.loop import Training
from legion.train.writer import Writer
from legion.zero.engine import Zero3

SEQ_LEN = 16


class SyntheticBlocks:
    """Block n counts up from n, with every third block a short one. Learnable, and of unequal token counts."""

    seq_len = SEQ_LEN
    epoch_blocks = 1 << 30

    def __init__(self, validation_count: int = 5) -> None:
        self.validation_count = validation_count

    def train(self, number: int) -> Block:
        stream = (np.arange(SEQ_LEN + 1, dtype=np.int64) * (1 + number % 2) + number) % VOCAB
        labels = stream[1:].copy()
        if number % 3 == 0:
            labels[5:] = NO_LABEL
        return Block(stream[:-1].copy(), labels)

    def validation(self, index: int) -> Block:
        return self.train(1000 + index)


@dataclass
class Heard:
    """What one member's listener was told, in order; `slices`: copies of its slice at checkpoints."""

    zero: Zero3
    folder: Path
    rank: int
    on_step: Callable[[int], None] = lambda _: None
    steps: list[StepRecord] = field(default_factory=list)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    checkpoints: list[tuple[int, int]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    returned: int = -1

    def step_done(self, record: StepRecord) -> None:
        self.order.append(f"step {record.step}")
        self.steps.append(record)
        self.on_step(record.step)

    def evaluated(self, record: EvaluationRecord) -> None:
        self.order.append(f"evaluation {record.step}")
        self.evaluations.append(record)

    def checkpoint_due(self, step: int, tokens: int) -> None:
        self.order.append(f"checkpoint {step}")
        self.checkpoints.append((step, tokens))
        info = SliceInfo(run_id=RunId("run"), step=step, rank=self.rank, epoch=Epoch(1), tokens=tokens)
        write_slice(self.slice_file(step), info, parts_of(self.zero))

    def slice_file(self, step: int) -> Path:
        return self.folder / f"step-{step}-rank-{self.rank}.safetensors"

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.steps]


def parts_of(zero: Zero3) -> dict[str, list[Any]]:
    state = zero.slice
    return {
        "weights": [array_of(state.weights)],
        "exp_avg": [array_of(state.exp_avg)],
        "exp_avg_sq": [array_of(state.exp_avg_sq)],
    }


def run_config(**changes: Any) -> RunConfig:
    defaults = {
        "batch__micro_batches": 3,
        "batch__micro_batch_blocks": 2,
        "optimizer__warmup_steps": 2,
        "evaluation__max_blocks": 5,
        "checkpoint__every_steps": 4,
    }
    steps = changes.pop("steps", 10)
    return small_config(**(defaults | changes)).model_copy(update={"steps": steps})


def run(
    config: RunConfig,
    shares: Sequence[int],
    folder: Path,
    *,
    blocks: SyntheticBlocks | None = None,
    resume_step: int = 0,
    stop_after: int | None = None,
    writer: Writer | None = None,
) -> list[Heard]:
    """One start of a run on all members; `stop_after`: every member is asked to stop once it has done that step."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = Layout(blueprint(config, VOCAB).shape.sizes, tuple(shares))
    with LocalCluster(layout, static_claims=config.cluster.claims == "static") as cluster:
        members = [_member(config, cluster, layout, rank, folder, resume_step) for rank in layout.ranks]

        def work(rank: int) -> Heard:
            zero, model, heard, tokens = members[rank]
            with Loader(blocks or SyntheticBlocks(), config.batch) as loader:
                exchange, device = cluster.exchanges[rank], torch.device("cpu")
                training = Training(config, model, zero, exchange, loader, heard, device, writer=writer)
                if stop_after is not None:
                    heard.on_step = lambda step: training.stopping.set() if step == stop_after else None
                heard.returned = training.run(resume_step, tokens)
                assert training.steps_done == heard.returned
            return heard

        return in_threads(work, len(shares), cluster.fail)


def _member(
    config: RunConfig, cluster: LocalCluster, layout: Layout, rank: int, folder: Path, resume_step: int
) -> tuple[Zero3, Any, Heard, int]:
    plan = blueprint(config, VOCAB)
    zero = Zero3(
        plan.units,
        layout,
        cluster.exchanges[rank],
        cluster=config.cluster,
        optimizer=config.optimizer,
        steps=config.steps,
        device=torch.device("cpu"),
    )
    heard, tokens = Heard(zero, folder, rank), 0
    if resume_step:
        tokens = read_slice(heard.slice_file(resume_step), parts_of(zero)).tokens
    else:
        for number, unit in enumerate(plan.shape.units):
            start = layout.bounds(UnitId(number), rank).start
            fill(array_of(zero.part(UnitId(number)).weights), unit, start, theta_0(config))
    return zero, plan.model, heard, tokens
