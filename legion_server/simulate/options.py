"""The command line of `simulate`: what it says, checked, and the run's configuration that follows. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from legion.config import RunConfig, merge
from legion.errors import Unusable
from legion_server.up import defaults

Mode = Literal["distributed", "baseline", "both"]
JUDGED_BLOCKS = 64  # held-out blocks for every anchor


@dataclass(frozen=True)
class Options:
    """What `legion-server simulate` was asked to do."""

    workers: int = 4
    model: str = "tiny"
    dataset: str = "python_stdlib"
    latency_ms: float = 50.0  # round trip
    bandwidth: str = "100/20"  # Mbit/s down/up
    compress: str = "int8"
    mode: Mode = "distributed"
    steps: int = 100
    clusters: int | None = None  # None: every worker is one
    churn: float = 0.0
    devices: str = "cpu"
    speeds: str = "1"
    lan: str = "1000/1000"  # Mbit/s down/up, of the workers of one cluster
    lan_latency_ms: float = 0.5
    parameters: float | None = None  # that times and bytes stand for; None: the model's own
    settings: tuple[str, ...] = ()
    seed: int = 0
    report: Path | None = None
    plot: Path | None = None

    @property
    def cluster_size(self) -> int:
        """Workers in each. Unusable when they cannot be divided."""
        clusters = self.clusters or self.workers
        if self.workers % clusters:
            raise Unusable(
                f"--clusters {clusters}: {self.workers} workers cannot be divided into {clusters} clusters of one size",
                hint="Choose a number of clusters that divides the number of workers.",
            )
        return self.workers // clusters

    @property
    def relative_speeds(self) -> tuple[float, ...]:
        """One for each worker; the list begins again when it is shorter."""
        try:
            listed = [float(word) for word in self.speeds.split(",")]
        except ValueError:
            listed = [0.0]
        if not all(0 < speed < math.inf for speed in listed):
            raise Unusable(f"--speeds {self.speeds}: that is no list of positive numbers", hint="For example 1,1,4,10")
        return tuple(listed[number % len(listed)] for number in range(self.workers))

    def check(self) -> None:
        """Unusable, when anything is wrong that can be seen without a model."""
        rates(self.bandwidth, "--bandwidth")
        rates(self.lan, "--lan")
        _ = self.cluster_size, self.relative_speeds
        if self.parameters is not None and not math.isfinite(self.parameters):
            raise Unusable("--parameters: that is no number of parameters", hint="For example 1.2e9")

    def config(self) -> RunConfig:
        """ConfigInvalid, Unusable when the run cannot be like that."""
        size, compress = self.cluster_size, self.compress
        settings = [
            f"seed={self.seed}",
            f"rounds.codec={compress}",
            f"batch.micro_batches={max(2, size)}",
            "evaluation.max_blocks=1",  # anchors are judged beside the run
            "cluster.precision=fp32",
            "cluster.claims=static",
            *(["cluster.policy=solo"] if size == 1 else ["cluster.policy=fixed", f"cluster.size={size}"]),
            *self.settings,
        ]
        body = defaults.change(
            workers=self.workers,
            model=self.model,
            dataset=self.dataset,
            steps=self.steps,
            codec=None,
            settings=settings,
        )
        config = merge(RunConfig(), body)
        if not config.in_rounds or (config.cluster.size or 1) != size:
            raise Unusable(
                "--set cluster.policy and cluster.size: the simulator sets them", hint="Use --workers and --clusters."
            )
        return config


def rates(text: str, option: str) -> tuple[float, float]:
    """DOWN/UP in Mbit/s. Unusable."""
    words = text.split("/")
    try:
        down, up = (float(word) for word in words)
    except ValueError:
        down, up = 0.0, 0.0
    if not (0 < down < math.inf and 0 < up < math.inf):
        raise Unusable(
            f"{option} {text}: that is not DOWN/UP in Mbit/s, two positive numbers", hint=f"For example {option} 100/20"
        )
    return down, up


def named(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Devices by name. Unusable."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Unusable(f"--device {unknown[0]}: no such device is known", hint=f"Known are {', '.join(known)}.")
    return names
