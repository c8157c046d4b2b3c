"""1-bit Adam against AdamW in one cluster: final loss, and the bytes that gradients take.

The product's engine and loop, two members as threads of one process; tiny preset on Python's standard library, the
configuration's defaults, same data, seeds and steps for both. Held-out loss after the last step; bytes are those that a
member encodes for the other, without frames.

    python benchmarks/onebit_adam.py [--steps 400] [--seeds 0 1 2] [--json FILE]
"""

import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from rows import Row, parser, show

from legion.comm.arrays import array_of
from legion.comm.local import LocalCluster
from legion.config import RunConfig, merge
from legion.data.blocks import open_blocks
from legion.data.loader import Loader
from legion.data.prepare import Prepared, prepare
from legion.errors import RunError
from legion.layout import Layout
from legion.model.build import blueprint
from legion.model.init import fill, theta_0
from legion.reports import EvaluationRecord, StepRecord
from legion.train.loop import Training
from legion.zero.engine import Zero3

MEMBERS = 2
CPU = torch.device("cpu")
Optimizer = Literal["adamw", "onebit_adam"]


@dataclass
class Ear:
    """One member's listener: gradient bytes after each step, and held-out losses."""

    cluster: LocalCluster
    rank: int
    gradient_bytes: list[int] = field(default_factory=lambda: [0])
    losses: list[float] = field(default_factory=list)

    def step_done(self, record: StepRecord) -> None:
        self.gradient_bytes.append(self.cluster.exchanges[self.rank].usage.sent_gradient_bytes)

    def evaluated(self, record: EvaluationRecord) -> None:
        self.losses.append(record.loss)

    def checkpoint_due(self, step: int, tokens: int) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Outcome:
    """Of a whole run."""

    loss: float  # held out, nats per byte
    gradient_bytes: list[int]  # of all members together, after each step
    state_bytes: int  # of the first member


def configuration(optimizer: Optimizer, steps: int, seed: int) -> RunConfig:
    change = {
        "optimizer": {"name": optimizer},
        "cluster": {"claims": "static", "precision": "fp32"},
        "batch": {"micro_batches": MEMBERS},
        "steps": steps,
        "seed": seed,
    }
    return merge(RunConfig(), change)


def train(config: RunConfig, prepared: Prepared, folder: Path) -> Outcome:
    """All members of one run, a thread each."""
    plan = blueprint(config, prepared.manifest.vocab_size)
    layout = Layout(plan.shape.sizes, (1,) * MEMBERS)
    blocks = open_blocks(prepared.manifest, folder, seed=config.seed)
    with LocalCluster(layout, static_claims=True) as cluster:
        # Models are built before the threads start: building changes what torch has once for all of them.
        members = [member(config, cluster, layout, rank, prepared) for rank in range(MEMBERS)]
        ears = [Ear(cluster, rank) for rank in range(MEMBERS)]
        failed: list[BaseException] = []

        def work(rank: int) -> None:
            zero, model = members[rank]
            try:
                with Loader(blocks, config.batch) as loader:
                    Training(config, model, zero, cluster.exchanges[rank], loader, ears[rank], CPU).run(0, 0)
            except BaseException as error:  # noqa: BLE001  raised again below
                failed.append(error)
                cluster.fail(RunError(f"rank {rank} failed"))

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(MEMBERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    together = [sum(counts) for counts in zip(*(ear.gradient_bytes for ear in ears), strict=True)]
    return Outcome(ears[0].losses[-1], together, members[0][0].state_bytes)


def member(
    config: RunConfig, cluster: LocalCluster, layout: Layout, rank: int, prepared: Prepared
) -> tuple[Zero3, Any]:
    plan = blueprint(config, prepared.manifest.vocab_size)
    zero = Zero3(
        plan.units,
        layout,
        cluster.exchanges[rank],
        cluster=config.cluster,
        optimizer=config.optimizer,
        steps=config.steps,
        device=CPU,
    )
    for number, unit in enumerate(plan.shape.units):
        fill(array_of(zero.part(number).weights), unit, layout.bounds(number, rank).start, theta_0(config))
    return zero, plan.model


def compare(steps: int, seed: int) -> dict[Optimizer, Outcome]:
    found: dict[Optimizer, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(RunConfig().data, seed=seed, folder=Path(folder))
        for optimizer in ("adamw", "onebit_adam"):
            found[optimizer] = train(configuration(optimizer, steps, seed), prepared, Path(folder))
            print(f"seed {seed}, {optimizer}: {found[optimizer].loss:.4f} nats per byte", flush=True)
    return found


def rows_of(runs: dict[int, dict[Optimizer, Outcome]], steps: int) -> list[Row]:
    any_run = next(iter(runs.values()))
    dense, onebit = any_run["adamw"].gradient_bytes, any_run["onebit_adam"].gradient_bytes
    warm = configuration("onebit_adam", steps, 0).optimizer.onebit_warmup_steps(steps)
    ratios = {seed: run["onebit_adam"].loss / run["adamw"].loss - 1 for seed, run in runs.items()}
    rows = [
        Row(f"seed {seed}: loss above AdamW's", 100 * ratio, "%", "", f"{_losses(runs[seed])} nats per byte")
        for seed, ratio in ratios.items()
    ]
    compressed = (dense[-1] - dense[warm]) / (onebit[-1] - onebit[warm])
    state = [any_run[name].state_bytes >> 10 for name in ("adamw", "onebit_adam")]
    return [
        *rows,
        Row("loss above AdamW's, mean over the seeds", 100 * mean(ratios.values()), "%", "<= 1"),
        Row("warm-up", 100 * warm / steps, "% of the steps", "<= 20"),
        Row("gradient bytes, AdamW / 1-bit Adam, compressed phase", compressed, "x", ">= 25"),
        Row("gradient bytes, AdamW / 1-bit Adam, whole run", dense[-1] / onebit[-1], "x", ">= 4"),
        Row("state of one of two members, 1-bit Adam / AdamW", state[1] / state[0], "x", "", f"{state} KiB"),
    ]


def _losses(run: dict[Optimizer, Outcome]) -> str:
    return f"{run['onebit_adam'].loss:.4f} against {run['adamw'].loss:.4f}"


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    runs = {seed: compare(options.steps, seed) for seed in options.seeds}
    return show(
        f"1-bit Adam, tiny, {MEMBERS} members, {options.steps} steps", rows_of(runs, options.steps), options.json
    )


if __name__ == "__main__":
    sys.exit(main())
