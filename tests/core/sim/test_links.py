"""Calls between simulated computers of which one goes in the middle."""

import asyncio
from collections.abc import Callable

import pytest

from legion.ids import WorkerId
from legion.messages import Endpoint, Member
from legion.rounds import PartKey
from legion.sim.clock import run
from legion.sim.links import RoundCalls
from legion.sim.network import Access, Network, Rate
from tests.core.comm.meeting import RecordingDesk, key_of

A, B = WorkerId("a" * 32), WorkerId("b" * 32)
TARGET = Member(worker_id=B, endpoint=Endpoint(host="b", port=1), share=1)


class Admitting(RecordingDesk):
    """Calls `then` with the first part's name."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__({A})
        self._then = then

    async def admit(self, sender: WorkerId, key: PartKey) -> None:
        asyncio.get_running_loop().call_later(0.01, self._then)  # while the values are on their way


def test_a_part_that_is_given_up_ends_so_though_its_receiver_has_gone() -> None:
    async def main() -> None:
        network = Network()
        for worker in (A, B):
            network.connect(worker, Access(Rate(100.0, 20.0, 0.025)))

        def both_go() -> None:
            network.disconnect(B)
            sending.cancel()

        desk = Admitting(both_go)
        data = bytes(1 << 20)
        sending = asyncio.ensure_future(RoundCalls(network, A, lambda _: desk).send_part(TARGET, key_of(data), data))
        with pytest.raises(asyncio.CancelledError):
            await sending

    run(main())
