"""What two reports of one span say to each other, and a third. Pure."""

from dataclasses import dataclass

from legion.ids import ClusterId, WorkerId
from legion.rounds import Inclusion, SpanReport


@dataclass(frozen=True, slots=True)
class Dispute:
    """An audit that failed. The span is combined by a third worker, and neither of the two is believed."""

    reducer: SpanReport
    auditor: SpanReport
    workers: tuple[WorkerId, WorkerId]

    def confirmed(self, third: SpanReport) -> WorkerId | None:
        """Who of the two made of the same contributions what a third worker made of them."""
        for worker, report in zip(self.workers, (self.reducer, self.auditor), strict=True):
            if agree(report, third):
                return worker
        return None


def same_work(one: SpanReport, other: SpanReport) -> bool:
    """Whether they combined the same contributions. Clip scales do not matter: they follow from those."""
    return _by_cluster(one, clip_scale=1.0) == _by_cluster(other, clip_scale=1.0)


def agree(one: SpanReport, other: SpanReport) -> bool:
    """Whether they made the same of the same contributions."""
    return one.digest == other.digest and _by_cluster(one) == _by_cluster(other)


def _by_cluster(report: SpanReport, **changes: float) -> dict[ClusterId, Inclusion]:
    return {inclusion.cluster: inclusion.model_copy(update=changes) for inclusion in report.included}
