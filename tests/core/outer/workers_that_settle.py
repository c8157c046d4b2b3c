"""Workers of the settlement test: what each holds, and a ledger of what became of its work."""

from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from legion.codec.api import AnyCodec, Floats
from legion.ids import ClusterId, Rank
from legion.layout import Bounds, Fragment, Layout
from legion.outer.contribution import Contributor
from legion.outer.log import Anchor
from legion.outer.residuals import Residuals
from legion.rounds import PartKey
from tests.core.outer.small_rounds import SHARES, TOTAL, UNITS, fragments_of, plan_of

Exact = NDArray[np.float64]
SPANS = 2


@dataclass
class SentPart:
    """What a member keeps until it is settled, to send it as often as it takes."""

    key: PartKey
    codec: AnyCodec
    data: bytes
    displacement: Exact


@dataclass
class Worker:
    """One member: its slice of the anchor, its local weights, and a ledger in float64 of what became of its work."""

    cluster: ClusterId
    rank: Rank
    layout: Layout
    anchor: Anchor
    local: Floats
    contributors: dict[int, Contributor]
    fragments: dict[int, tuple[Fragment, ...]]  # by span
    round: int = 0
    contributed: int = -1  # the newest round it has made parts for
    held: dict[int, SentPart] = field(default_factory=dict)  # by span
    done: Exact = field(default_factory=lambda: np.zeros(0))  # as a displacement: minus what was added to the weights
    entered: Exact = field(default_factory=lambda: np.zeros(0))  # anchors, before weighting
    dropped: Exact = field(default_factory=lambda: np.zeros(0))  # on purpose: clipped, or a flush's rounding

    def of_span(self, values: NDArray[np.float32] | Exact, span: int) -> "Floats | Exact":
        return np.concatenate([values[f.slice_offset : f.slice_offset + len(f.flat)] for f in self.fragments[span]])

    def add(self, values: "Floats | Exact", span: int, extra: "Floats | Exact") -> None:
        at = 0
        for f in self.fragments[span]:
            values[f.slice_offset : f.slice_offset + len(f.flat)] += extra[at : at + len(f.flat)]
            at += len(f.flat)


@dataclass
class Heir:
    """The next reducer of a span whose reducer left with an update under way."""

    residuals: Residuals
    rounded_off: Exact  # if that update is committed


def waiting_in(residuals: Residuals, bounds: Bounds) -> Exact:
    """All that is in no update yet."""
    values = deepcopy(residuals).take(bounds)
    return np.zeros(len(bounds)) if values is None else values.astype(np.float64)


def worker(cluster: ClusterId, rank: Rank, theta_0: Floats, feedback: str) -> Worker:
    layout = Layout(UNITS, SHARES[cluster])
    (held,) = [layout.fragments(rank, Bounds(0, TOTAL))]
    mine = np.concatenate([theta_0[f.flat.start : f.flat.stop] for f in held])
    fragments = {s: found for s in range(SPANS) if (found := fragments_of(plan_of(), s, cluster, rank))}
    contributors = {
        s: Contributor(sum(len(f.flat) for f in found), feedback, decay=1.0)  # type: ignore[arg-type]
        for s, found in fragments.items()
    }
    ledgers = {name: np.zeros(mine.size) for name in ("done", "entered", "dropped")}
    return Worker(cluster, rank, layout, Anchor(mine.copy()), mine.copy(), contributors, fragments, **ledgers)
