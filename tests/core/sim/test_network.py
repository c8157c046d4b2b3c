"""Rates, sharing and latency against closed forms."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import PeerLost
from legion.ids import WorkerId
from legion.sim.clock import run
from legion.sim.network import KINDS, MESSAGE_BYTES, Access, Network, Rate, fair_rates

MBIT = 125_000  # bytes
A, B, C, D = (WorkerId(name) for name in "abcd")
HOME = Access(Rate(100.0, 20.0, 0.025))


def simulate(main: Callable[[Network], Awaitable[object]], scale: float = 1.0, **access: Access) -> None:
    async def begin() -> None:
        network = Network(scale)
        for worker in (A, B, C, D):
            network.connect(worker, access.get(worker, HOME))
        await main(network)

    run(begin())


async def arrival(network: Network, source: WorkerId, target: WorkerId, seconds_of_20_mbit: float) -> float:
    size = round(seconds_of_20_mbit * 20 * MBIT) - MESSAGE_BYTES
    await network.carry(source, target, "serving", values_bytes=size)
    return asyncio.get_running_loop().time()


def test_one_transfer_takes_its_bytes_and_one_latency() -> None:
    async def main(network: Network) -> None:
        assert await arrival(network, A, B, 3.0) == pytest.approx(3.025)

    simulate(main)


def test_an_empty_message_takes_its_frame_and_one_latency() -> None:
    async def main(network: Network) -> None:
        await network.carry(A, B, "control")
        assert asyncio.get_running_loop().time() == pytest.approx(0.025 + MESSAGE_BYTES / (20 * MBIT))

    simulate(main)


def test_two_share_an_uplink_and_the_longer_goes_on_alone() -> None:
    async def main(network: Network) -> None:
        both = await asyncio.gather(arrival(network, A, B, 1.0), arrival(network, A, C, 2.0))
        # Half the rate each until the shorter is through at 2 s; one second of the longer is left.
        assert both == pytest.approx([2.025, 3.025])

    simulate(main)


def test_one_that_comes_later_shares_from_then_on() -> None:
    async def main(network: Network) -> None:
        async def late() -> float:
            done = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(1.0, done.set_result, None)
            await done
            return await arrival(network, A, C, 1.0)

        # From 1 s on both have half: the late one is through at 3 s, of the first 2 - 1 - 1 = 0 is left then.
        assert await asyncio.gather(arrival(network, A, B, 2.0), late()) == pytest.approx([3.025, 3.025])

    simulate(main)


def test_a_downlink_is_shared_by_those_who_send_to_it() -> None:
    slow = Access(Rate(10.0, 10.0, 0.025))

    async def main(network: Network) -> None:
        three = await asyncio.gather(*(arrival(network, source, D, 1.0) for source in (A, B, C)))
        assert three == pytest.approx([6.025] * 3)  # 60 Mbit through 10 Mbit/s

    simulate(main, d=slow)


def test_who_is_slowed_elsewhere_leaves_its_share_to_others() -> None:
    """Max-min: A sends to D, whose downlink gives 5, and to B: that one has the other 15 of A's 20 Mbit/s."""
    narrow = Access(Rate(5.0, 20.0, 0.025))

    async def main(network: Network) -> None:
        first, second = await asyncio.gather(arrival(network, A, D, 0.5), arrival(network, A, B, 1.5))
        assert (first, second) == pytest.approx((2.025, 2.025))

    simulate(main, d=narrow)


def test_neighbours_have_a_network_of_their_own() -> None:
    home = Access(HOME.internet, "lab", Rate(1000.0, 1000.0, 0.001))

    async def main(network: Network) -> None:
        near, far = await asyncio.gather(arrival(network, A, B, 1.0), arrival(network, A, C, 1.0))
        assert (near, far) == pytest.approx((0.021, 1.025))
        assert network.traffic[A].internet_sent == network.traffic[C].internet_received == 20 * MBIT

    simulate(main, a=home, b=home)


def test_values_stand_for_those_of_a_larger_model_and_texts_for_themselves() -> None:
    async def main(network: Network) -> None:
        await network.carry(A, B, "contribution", values_bytes=1000)
        await network.carry(A, B, "control", text_bytes=1000)
        assert network.traffic[A].sent["contribution"] == 50_000
        assert network.traffic[B].received["control"] == 1000 + 2 * MESSAGE_BYTES
        assert network.traffic[A].internet_sent == network.traffic[B].internet_received == 51_000 + 2 * MESSAGE_BYTES

    simulate(main, scale=50.0)


def test_bytes_are_counted_by_kind_at_both_ends() -> None:
    async def main(network: Network) -> None:
        for size, kind in enumerate(KINDS, start=1):
            await network.carry(A, B, kind, values_bytes=size, text_bytes=10 * size)
        expected = {kind: size for size, kind in enumerate(KINDS, start=1)}
        expected["control"] += sum(10 * size + MESSAGE_BYTES for size in range(1, len(KINDS) + 1))
        assert network.traffic[A].sent == network.traffic[B].received == expected
        assert not any(network.traffic[A].received.values())
        assert not any(network.traffic[C].sent.values())

    simulate(main)


def test_who_is_away_is_not_reached_and_its_transfers_end() -> None:
    async def main(network: Network) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, network.disconnect, B)
        alone, lost = await asyncio.gather(
            arrival(network, A, C, 2.0), arrival(network, A, B, 2.0), return_exceptions=True
        )
        assert isinstance(lost, PeerLost)
        assert alone == pytest.approx(2.525)  # a half in the first second, then the whole rate
        with pytest.raises(PeerLost, match="does not answer"):
            await network.carry(A, B, "control")
        network.connect(B, HOME)
        await network.carry(A, B, "control")

    simulate(main)


def test_a_cancelled_transfer_frees_the_link() -> None:
    async def main(network: Network) -> None:
        task = asyncio.create_task(arrival(network, A, B, 10.0))
        asyncio.get_running_loop().call_later(1.0, task.cancel)
        assert await arrival(network, A, C, 2.0) == pytest.approx(2.525)

    simulate(main)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(5, 9)), min_size=1, max_size=25),
    st.lists(st.floats(0.5, 1000.0), min_size=10, max_size=10),
)
def test_rates_are_max_min_fair(paths: list[tuple[int, int]], links: list[float]) -> None:
    """No link carries more than it can, and every flow has a full link on which none is faster."""
    flows, capacity = np.array(paths, np.int64), np.array(links)
    rates = fair_rates(flows, capacity)
    load = np.zeros(10)
    for path, rate in zip(flows, rates, strict=True):
        load[path] += rate
    assert (load <= capacity * (1 + 1e-6)).all()
    for path, rate in zip(flows, rates, strict=True):
        full = [link for link in path if load[link] >= capacity[link] * (1 - 1e-6)]
        assert any(rate >= rates[(flows == link).any(axis=1)].max() * (1 - 1e-6) for link in full)
