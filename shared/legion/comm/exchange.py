"""The compute thread's end of a Member: implements `api.Exchange` over a bridge."""

from torch import Tensor

from legion.codec.registry import by_name
from legion.comm.api import Ballot, Batches, Group, Usage, Verdict, Work
from legion.comm.arrays import array_of
from legion.comm.bridge import Bridge, DoneWork
from legion.comm.member import Member
from legion.errors import PeerLost
from legion.ids import Step, UnitId


class MemberExchange:
    """See `api.Exchange`. `static_claims`: micro-batch i belongs to member i mod N, nobody is asked."""

    def __init__(self, member: Member, bridge: Bridge, *, static_claims: bool) -> None:
        self._member = member
        self._bridge = bridge
        self._static = static_claims
        self._claimed: tuple[Step, int] = (Step(-1), 0)

    @property
    def group(self) -> Group:
        return self._member.group

    @property
    def usage(self) -> Usage:
        return self._member.usage

    def publish(self, step: Step, unit: UnitId, weights: Tensor) -> None:
        self._bridge.post(self._member.shelf.put, step, unit, array_of(weights))

    def fetch(self, step: Step, unit: UnitId, out: Tensor) -> Work[None]:
        self._require_padded(unit, out)
        return self._bridge.submit(self._member.gather(step, unit, array_of(out)))

    def send_gradient(
        self, step: Step, batches: Batches, unit: UnitId, *gradient: Tensor, codec: str | None = None
    ) -> Work[None]:
        self._require_padded(unit, *gradient)
        named = None if codec is None else by_name(codec)
        return self._bridge.submit(self._member.scatter(step, batches, unit, *map(array_of, gradient), codec=named))

    def collect(self, step: Step, unit: UnitId, batch_count: int, out: Tensor) -> Work[None]:
        mine = len(self._member.layout.bounds(unit, self.group.rank))
        if out.numel() != mine:
            raise ValueError(f"unit {unit}: {mine} elements are mine, got room for {out.numel()}")
        if not mine:
            return DoneWork(None)
        self._bridge.post(self._member.mailbox.open, step, unit, batch_count, array_of(out))
        return self._bridge.submit(self._member.mailbox.complete(step, unit))

    def claim(self, step: Step, batch_count: int) -> int | None:
        if not self._static:
            return self._bridge.submit(self._member.claim(step, batch_count)).wait()
        done = self._claimed[1] if self._claimed[0] == step else 0
        self._claimed = (step, done + 1)
        index = self.group.rank + done * self.group.world
        return index if index < batch_count else None

    def rest(self, step: Step, batch_count: int) -> None:
        if self._static:
            raise ValueError("with static claims nobody else computes what this member leaves")
        self._bridge.submit(self._member.rest(step, batch_count)).wait()

    def vote(self, step: Step, ballot: Ballot) -> Work[Verdict]:
        return self._bridge.submit(self._member.vote(step, ballot))

    def close(self, reason: str = "") -> None:
        self._bridge.post(self._member.changes.fail, PeerLost(reason or "this member has left the cluster"))

    def _require_padded(self, unit: UnitId, *tensors: Tensor) -> None:
        wanted, got = self._member.layout.padded_unit(unit), sum(tensor.numel() for tensor in tensors)
        if got != wanted:
            raise ValueError(f"unit {unit} has {wanted} elements with padding, got {got}")
