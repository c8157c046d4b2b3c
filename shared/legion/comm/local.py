"""Members of one process, linked by direct calls: the production code without sockets.

For tests and for the simulator. Values pass through the codecs as they would on the wire.
"""

import asyncio
import threading
from types import TracebackType

import numpy as np

from legion.codec.api import Codec, Floats, encoded_bytes
from legion.codec.registry import by_name
from legion.comm.api import Ballot, Batches, Group, Verdict
from legion.comm.bridge import Bridge
from legion.comm.exchange import MemberExchange
from legion.comm.member import Member, naming
from legion.comm.pieces import joined
from legion.errors import LegionError
from legion.ids import Epoch, Rank, Step, UnitId, WorkerId
from legion.layout import Layout


class LocalLink:
    """Calls from `source` straight into `target`, on their common loop."""

    def __init__(self, source: Member, target: Member) -> None:
        self._source = source
        self._target = target

    async def fetch(self, step: Step, unit: UnitId, out: Floats) -> None:
        values = await self._target.shelf.get(step, unit)
        self._carry(self._target, self._source, self._target.weights_codec, values, out)

    async def send_gradient(
        self, step: Step, batches: Batches, unit: UnitId, *values: Floats, codec: Codec | None = None
    ) -> None:
        sender, target = self._source.me, self._target
        with target.receiving(sender):
            if await target.mailbox.admit(sender, step, unit, batches):
                sent = joined(values)
                received = np.empty_like(sent)
                size_bytes = self._carry(self._source, target, codec or self._source.gradients_codec, sent, received)
                self._source.usage.sent_gradient_bytes += size_bytes
                target.mailbox.add(sender, step, unit, batches, received)

    async def claim(self, step: Step, serial: int, batch_count: int) -> int | None:
        return self._target.give_claim(self._source.me, step, serial, batch_count)

    async def rest(self, step: Step, batch_count: int) -> None:
        self._target.take_rest(self._source.me, step, batch_count)

    async def vote(self, step: Step, ballot: Ballot) -> Verdict:
        return await self._target.take_vote(self._source.me, step, ballot)

    def _carry(self, sender: Member, receiver: Member, codec: Codec, values: Floats, out: Floats) -> int:
        """The bytes it took."""
        with naming(sender.me):
            codec.decode(memoryview(codec.encode(values)), out)
        size_bytes = encoded_bytes(codec, values.size)
        sender.usage.sent_bytes += size_bytes
        receiver.usage.received_bytes += size_bytes
        return size_bytes


class LocalCluster:
    """A cluster in one process, one exchange for each compute thread. A context manager: it owns the loop's thread."""

    def __init__(
        self,
        layout: Layout,
        *,
        static_claims: bool = False,
        weights: str = "none",
        gradients: str = "none",
    ) -> None:
        workers = tuple(WorkerId(f"worker{rank:02d}") for rank in layout.ranks)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local cluster")
        self.members = [
            Member(
                Group(Epoch(1), workers, rank),
                layout,
                ordered=static_claims,
                weights=by_name(weights),
                gradients=by_name(gradients),
            )
            for rank in layout.ranks
        ]
        for member in self.members:
            member.links = {
                Rank(r): LocalLink(member, other) for r, other in enumerate(self.members) if other is not member
            }
        self.exchanges = [
            MemberExchange(member, Bridge(self._loop, member.usage), static_claims=static_claims)
            for member in self.members
        ]

    def fail(self, error: LegionError) -> None:
        """As if the network had failed for everyone."""
        for member in self.members:
            self._loop.call_soon_threadsafe(member.changes.fail, error)

    def __enter__(self) -> "LocalCluster":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for exchange in self.exchanges:
            exchange.close("the cluster is closed")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_cancelled())
        self._loop.close()


async def _cancelled() -> None:
    """Ends what is still waiting on the loop."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
