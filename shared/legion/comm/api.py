"""What the engine knows of the network.

The seam of design: `zero/` and `train/` see only this file. Implementations: `local` (threads of one process) and
`network` (mutually authenticated gRPC); one contract test runs over both.

Every member serves the current step's version of its slice to any member at any time of the step, and members run
different numbers of micro-batches, so nothing is in lockstep but the vote at the step's end.
"""

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from torch import Tensor

from legion.ids import Epoch, Rank, Step, UnitId, WorkerId

T_co = TypeVar("T_co", covariant=True)


class Work(Protocol, Generic[T_co]):
    """Something under way. `wait` returns the result or raises what went wrong; it may be called again."""

    def wait(self) -> T_co: ...

    def done(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Group:
    """The ordered members of a cluster; the order has an epoch."""

    epoch: Epoch
    members: tuple[WorkerId, ...]
    rank: Rank

    @property
    def world(self) -> int:
        return len(self.members)


@dataclass(frozen=True, slots=True)
class Batches:
    """The micro-batches a gradient stands for, and how many tokens they held."""

    indices: tuple[int, ...]
    tokens: int


Purpose = Literal["step", "evaluation", "border"]


@dataclass(frozen=True, slots=True)
class Ballot:
    """One member's say at the end of a step, of an evaluation, or while it waits at the border of a round."""

    ok: bool
    batches: Batches  # computed by this member
    batch_count: int  # of all members together
    loss_sum: float = 0.0  # nats, summed over this member's tokens
    norm_squared: float = 0.0  # of this member's slice of the gradient sum
    purpose: Purpose = "step"
    reason: str = ""  # why not ok
    ready: int = 0  # rounds: the newest anchor that this member could move to now
    late: bool = False  # rounds: it is time to contribute, however few steps that are
    keep: bool = False  # this member can keep another restore point


@dataclass(frozen=True, slots=True)
class Verdict:
    """The same for every member: commit with these sums, or abort for this reason."""

    commit: bool
    norm_squared: float = 0.0
    loss_sum: float = 0.0
    tokens: int = 0
    reason: str = ""
    ready: int = 0  # the newest anchor that all members can move to
    late: bool = False  # for somebody it is time to contribute
    keep: bool = False  # all keep a restore point of this step


@dataclass(slots=True)
class Usage:
    """What the network cost this member since it joined: bytes with their framing, and seconds spent waiting."""

    sent_bytes: int = 0
    sent_gradient_bytes: int = 0  # of those
    received_bytes: int = 0
    waiting_s: float = 0.0
    waiting: bool = False  # the compute thread, now
    crossings: int = 0  # times it began or ended waiting


class Exchange(Protocol):
    """One member's end of its cluster's network. Called from the compute thread only."""

    @property
    def group(self) -> Group: ...

    @property
    def usage(self) -> Usage: ...

    def publish(self, step: Step, unit: UnitId, weights: Tensor) -> None:
        """From now on the unit's part of my slice has `step`'s version: fp32, 1-D, mine to change only after the vote.

        The tensor is served as it is, not copied. An empty part is published too.
        """

    def fetch(self, step: Step, unit: UnitId, out: Tensor) -> Work[None]:
        """The whole unit at `step` into `out` (fp32, 1-D, padded size), pulled from all owners in parallel.

        With a lossy weights codec every member, the owner included, sees the decoded values.
        """

    def send_gradient(
        self, step: Step, batches: Batches, unit: UnitId, *gradient: Tensor, codec: str | None = None
    ) -> Work[None]:
        """Each owner's range of the gradient (fp32, padded size, sum over the batches' tokens) to its owner.

        It may lie in several tensors, one after the other. Done when every owner has it: only then may they change.
        `codec`: the name of one to use instead of the run's for gradients. My own range passes through none.
        """

    def collect(self, step: Step, unit: UnitId, batch_count: int, out: Tensor) -> Work[None]:
        """The sum of everybody's parts for my range, in `out`, once they cover micro-batches 0..batch_count-1 exactly.

        With static claims the order of the sum is that of the micro-batches; PartInvalid on overlap or gap.
        """

    def claim(self, step: Step, batch_count: int) -> int | None:
        """The next of the step's `batch_count` micro-batches to compute, or None when it has no more."""

    def rest(self, step: Step, batch_count: int) -> None:
        """I claim nothing more in this step, and update my slice as ever.

        If every member says so and micro-batches are left, the cluster ends: work under way raises PeerLost.
        """

    def vote(self, step: Step, ballot: Ballot) -> Work[Verdict]:
        """The verdict, once every member has voted for the same purpose. Batches must be disjoint and complete."""

    def close(self, reason: str = "") -> None:
        """Tell the others we leave, and end. Work under way raises PeerLost."""
