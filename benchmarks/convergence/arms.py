"""What is compared, and in which order: arms, their learning rates and seeds.

Every arm gets the same number of learning-rate trials, on the first seed; the best on one half of the held-out text
runs on the other seeds, and the other half is what is reported.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from legion.config import RunConfig

SEEDS = (0, 1, 2)
LR_SCALES = (1.0, 2.0)  # of the base rates below
LR = {"adamw": 3e-3, "muon": 3e-3}  # AdamW's; Muon's own lies beside it
MUON_LR = 0.02

Results = Mapping[str, dict[str, Any]]  # by Run.key


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train. `solo`: one worker and its own data alone; `synchronous`: every step averages all gradients."""

    name: str
    kind: Literal["solo", "synchronous", "rounds"] = "rounds"
    optimizer: Literal["adamw", "muon"] = "muon"
    codec: str = "none"
    density: float = 1 / 64  # topk
    update_codec: str = "none"
    feedback: Literal["residual", "buffer"] = "residual"
    mean_over: Literal["participants", "senders"] = "participants"
    clusters: int = 4  # K
    steps: int = 16  # H
    all_steps: int = 1536  # of each cluster in the whole run
    flush_every: int = 16  # rounds
    churn: float = 0.0  # probability that a cluster is lost in a round, work and moments; it is back in the next
    dense_rounds: int = 0  # int4 before the arm's own codec
    delay_steps: int = 0  # trained while an exchange is under way

    @property
    def rounds(self) -> int:
        return self.all_steps // self.steps

    @property
    def setting(self) -> str:
        """Between which arms differences mean something; runs of one setting share solo and synchronous."""
        return f"{self.optimizer}, K = {self.clusters}, H = {self.steps}"

    def variant(self, **changes: Any) -> "Arm":
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Run:
    """An arm with a learning rate and a seed."""

    arm: Arm
    lr_scale: float
    seed: int

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def label(self) -> str:
        return f"{self.arm.setting}: {self.arm.name}, lr x {self.lr_scale:g}, seed {self.seed}"


def config_of(run: Run, scale: str) -> RunConfig:
    """The run's configuration; `scale` is `full` or `smoke`, which is over in seconds and shows nothing."""
    arm = run.arm
    small = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2}
    if scale == "smoke":
        small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    lr = LR[arm.optimizer] * run.lr_scale
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return RunConfig.model_validate(
        {
            "model": {"preset": "tiny", "settings": small | heads},
            "data": {"source": "python_stdlib", "seq_len": 128 if scale == "full" else 16},
            "batch": {"micro_batch_blocks": 8 if scale == "full" else 2, "micro_batches": 1},
            "optimizer": {
                "name": arm.optimizer,
                "lr": lr,
                "muon_lr": MUON_LR * run.lr_scale,
                "warmup_steps": arm.all_steps // 20,
            },
            "cluster": {"policy": "solo", "precision": "fp32"},
            "rounds": {
                "steps": arm.steps,
                "codec": arm.codec,
                "density": arm.density,
                "update_codec": arm.update_codec,
                "feedback": arm.feedback,
                "mean_over": arm.mean_over,
                "flush_every": arm.flush_every,
                "overlap": arm.delay_steps > 0,
            },
            "steps": arm.all_steps,
            "seed": run.seed,
        }
    )


ENDS = (Arm("solo", "solo"), Arm("synchronous", "synchronous"))
DENSE = (
    Arm("fp32"),
    Arm("int8", codec="int8", update_codec="int8"),
    Arm("int4", codec="int4", update_codec="int4"),
)


def _lossy() -> Iterator[Arm]:
    for codec in ("int2", "onebit"):
        for feedback in ("residual", "buffer"):
            yield Arm(f"{codec} {feedback}", codec=codec, update_codec="int4", feedback=feedback)
    for density, percent in ((1 / 16, "6.25 %"), (1 / 64, "1.56 %")):
        for feedback in ("residual", "buffer"):
            for mean_over in ("participants", "senders"):
                yield Arm(
                    f"topk {percent} {feedback}, {mean_over}",
                    codec="topk",
                    density=density,
                    update_codec="int4",
                    feedback=feedback,
                    mean_over=mean_over,
                )
        yield Arm(f"topk {percent}, sparse update", codec="topk", density=density, update_codec="topk240x4")


def core() -> list[Arm]:
    """K = 4, H = 16, in the order in which they answer questions."""
    optimizers: tuple[Literal["muon", "adamw"], ...] = ("muon", "adamw")
    return [arm.variant(optimizer=o) for o in optimizers for arm in (*ENDS, *DENSE, *_lossy())]


def around(winner: Arm) -> list[Arm]:
    """One factor at a time; each with the ends of its own setting."""
    found: list[Arm] = []
    for changes in ({"steps": 8}, {"steps": 32}, {"clusters": 8}):
        found += [arm.variant(optimizer=winner.optimizer, **changes) for arm in (*ENDS, DENSE[0], winner)]
    found.append(winner.variant(name=f"{winner.name}, churn 20 %", churn=0.2))
    found.append(winner.variant(name=f"{winner.name}, exchange hidden", delay_steps=winner.steps))
    quarter = winner.steps // 4
    found.append(winner.variant(name=f"{winner.name}, exchange hidden under {quarter} steps", delay_steps=quarter))
    sparse = next(arm for arm in _lossy() if arm.name == "topk 1.56 % residual, participants")
    found.append(sparse.variant(name=f"{sparse.name}, 24 dense rounds", optimizer=winner.optimizer, dense_rounds=24))
    for rounds in (32, 96):
        found.append(
            sparse.variant(name=f"{sparse.name}, flush every {rounds}", optimizer=winner.optimizer, flush_every=rounds)
        )
    return found


def smoke() -> list[Run]:
    """Three rounds, with everything an arm can have somewhere."""
    mixed = Arm(
        "mixed",
        codec="topk",
        update_codec="topk240x4",
        feedback="buffer",
        mean_over="senders",
        churn=0.3,
        dense_rounds=1,
        delay_steps=2,
    )
    arms = [*ENDS, DENSE[0], DENSE[1], mixed]
    return [Run(arm.variant(clusters=2, steps=2, all_steps=6), 1.0, 0) for arm in arms]


def queue(arms: list[Arm], results: Results) -> list[Run]:
    """All runs that can be named now: every arm once, then its other rates, then the best rate on the other seeds."""
    first = [Run(arm, scale, SEEDS[0]) for scale in LR_SCALES for arm in arms]
    best = [(arm, best_scale(arm, results)) for arm in arms]
    return first + [Run(arm, scale, seed) for seed in SEEDS[1:] for arm, scale in best if scale is not None]


def best_scale(arm: Arm, results: Results, *, all_trials: bool = True) -> float | None:
    """By the half of the held-out text that is for choosing. A failed trial loses.

    None while a trial is missing; without `all_trials`, only while there is none.
    """
    trials = {scale: results.get(Run(arm, scale, SEEDS[0]).key) for scale in LR_SCALES}
    losses = {scale: row.get("choice_loss", math.inf) for scale, row in trials.items() if row is not None}
    if not losses or (all_trials and len(losses) < len(LR_SCALES)):
        return None
    return min(losses, key=lambda scale: losses[scale])
