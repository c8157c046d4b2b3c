"""What a finished run was: the lines `up` prints last, and the file that --report writes."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from legion.config import RunConfig
from legion.counters import RoundCounters
from legion.identity import write_private
from legion.messages import DatasetManifest
from legion.reports import MetricsView

WORKER_KEYS = (
    "tokens",
    "micro_batches",
    "state_bytes",
    "peak_rss_bytes",
    "sent_bytes",
    "received_bytes",
    "compute_s",
    "waiting_s",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last metrics, with every step in `recent`, and what came of them."""

    metrics: MetricsView
    wall_s: float
    checkpoint: Path | None
    weights_digest: str | None

    @property
    def validation_loss(self) -> float | None:
        evaluations = self.metrics.evaluations
        return evaluations[-1].loss if evaluations else None


async def whole_run(metrics_since: Callable[[int], Awaitable[MetricsView]]) -> MetricsView:
    """The metrics with every step in `recent`, of which the server gives a part an answer."""
    view = await metrics_since(0)
    steps = list(view.recent)
    while view.recent and steps[-1].step < view.step:
        view = await metrics_since(steps[-1].step)
        steps += view.recent
    return view.model_copy(update={"recent": tuple(steps)})


def report(outcome: Outcome) -> dict[str, Any]:
    """As JSON values. Keys that nothing is known of are null, never invented."""
    view, steps = outcome.metrics, outcome.metrics.recent
    return {
        "run_id": view.run_id,
        "phase": view.phase,
        "steps": view.step,
        "tokens": view.tokens,
        "wall_s": round(outcome.wall_s, 3),
        "first_loss": steps[0].loss if steps else None,
        "last_loss": steps[-1].loss if steps else None,
        "validation_loss": outcome.validation_loss,
        "unigram_entropy": view.unigram_entropy,
        "bigram_entropy": view.bigram_entropy,
        "workers": [
            {"id": worker.worker_id} | {key: getattr(worker, key) for key in WORKER_KEYS} for worker in view.workers
        ],
        "checkpoint": str(outcome.checkpoint) if outcome.checkpoint else None,
        "weights_digest": outcome.weights_digest,
        "rounds": view.rounds.model_dump(mode="json") if view.rounds else None,
        "per_step": [{"step": s.step, "loss": s.loss, "grad_norm": s.grad_norm} for s in steps],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; readable by the owner only, as it names workers."""
    write_private(path.absolute(), json.dumps(content, indent=1).encode())


def summary(outcome: Outcome) -> list[str]:
    """For people."""
    view, steps = outcome.metrics, outcome.metrics.recent
    lines = [f"run {view.run_id} is {view.phase}: {view.step} steps, {view.tokens:,} tokens in {outcome.wall_s:.0f} s"]
    if steps:
        lines.append(f"loss {steps[0].loss:.3f} at step {steps[0].step}, {steps[-1].loss:.3f} at step {steps[-1].step}")
    if view.rounds is not None:
        counted = f"{view.rounds.tokens:,} tokens counted"
        lines.append(
            f"{view.rounds.committed} rounds of {view.rounds.rounds}, {counted}" + _trouble(view.rounds.counters)
        )
    if outcome.validation_loss is not None:
        lines.append(f"validation loss {outcome.validation_loss:.3f} nats per token, on held-out files" + _beside(view))
    if outcome.checkpoint is not None:
        lines.append(f"checkpoint in {outcome.checkpoint}")
    return lines


def _trouble(counters: RoundCounters) -> str:
    """What did not go smoothly; empty when all did."""
    found = {name.replace("_", " "): count for name, count in counters.model_dump(exclude={"refused"}).items() if count}
    found |= {f"refused as {reason}": count for reason, count in counters.refused.items()}
    return f" ({', '.join(f'{name} {count}' for name, count in found.items())})" if found else ""


def _beside(view: MetricsView) -> str:
    if view.unigram_entropy is None or view.bigram_entropy is None:
        return ""
    return f" (their unigram entropy is {view.unigram_entropy:.3f}, bigram {view.bigram_entropy:.3f})"


def trace(outcome: Outcome, config: RunConfig, manifest: DatasetManifest, data_dir: Path) -> dict[str, Any]:
    """What the reference needs to train the same again and compare; `data_dir` holds the files the manifest names."""
    return {
        "config": config.model_dump(mode="json"),
        "manifest": manifest.model_dump(mode="json"),
        "data_dir": str(data_dir.absolute()),
        "per_step": report(outcome)["per_step"],
        "validation_loss": outcome.validation_loss,
        "checkpoint": str(outcome.checkpoint.absolute()) if outcome.checkpoint else None,
        "workers": len(outcome.metrics.workers),
    }
