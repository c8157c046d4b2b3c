"""What to show of a run's metrics while it goes on. Pure."""

from dataclasses import dataclass

from legion.ids import WorkerId, short
from legion.reports import MetricsView

MB = 1e6


@dataclass(frozen=True, slots=True)
class Progress:
    step: int
    steps: int
    loss: float | None
    tokens_per_s: float
    exchanged_bytes: int  # sent by all workers
    worker_tokens: dict[str, int]  # by the names this program gave its workers
    rounds: tuple[int, int] | None = None  # committed, and of the whole run

    @property
    def headline(self) -> str:
        loss = "-" if self.loss is None else f"{self.loss:.3f}"
        rounds = f"round {self.rounds[0]}/{self.rounds[1]}  " if self.rounds else ""
        return (
            f"{rounds}step {self.step}/{self.steps}  loss {loss}  {self.tokens_per_s:,.0f} tokens/s  "
            f"{self.exchanged_bytes / MB:,.1f} MB exchanged"
        )

    @property
    def shares(self) -> str:
        """How much of the tokens each worker computed."""
        total = sum(self.worker_tokens.values())
        if not total:
            return ""
        return "  ".join(f"{name} {tokens / total:.0%}" for name, tokens in sorted(self.worker_tokens.items()))


def progress(view: MetricsView, names: dict[WorkerId, str]) -> Progress:
    """`names`: what to call the workers that are known; others go by the start of their id."""
    return Progress(
        step=view.step,
        steps=view.steps,
        loss=view.recent[-1].loss if view.recent else None,
        tokens_per_s=view.tokens_per_s,
        exchanged_bytes=sum(worker.sent_bytes for worker in view.workers),
        worker_tokens={names.get(w.worker_id, short(w.worker_id)): w.tokens for w in view.workers},
        rounds=(view.rounds.committed, view.rounds.rounds) if view.rounds else None,
    )
