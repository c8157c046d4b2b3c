"""Room on the line: real handshakes, a line whose delay is played, and what agent and engine may do then."""

import socket
from dataclasses import dataclass, field

import pytest

from legion_client.agent.sharing import GIVE_UP_S, Sharing, handshake_with
from legion_client.agent.traffic import SHARED_BURST_S, Traffic
from legion_client.engine.protocol import Moved, Rates

BASE_S = 0.05


@dataclass
class Home:
    """A line up of some bytes/s with a deep queue, and an engine that sends all it may."""

    bytes_per_s: float = 2.5e6
    base_s: float = BASE_S
    now: float = 100.0
    waiting: float = 0.0
    asked_for: bool = True
    answers: bool = True
    told: list[Rates] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        self.traffic.on_rates = self.told.append
        self.traffic.with_engine(True)
        self.sharing = Sharing(self.traffic, self.round_trip, lambda: self.asked_for, lambda: self.now)

    async def round_trip(self) -> float | None:
        return self.base_s + self.waiting / self.bytes_per_s if self.answers else None

    async def live(self, seconds: float, *, sends: bool = True) -> list[float]:
        """The round trips, in order of their length."""
        until, trips = self.now + seconds, []
        while self.now < until:
            pause_s = await self.sharing.look()
            self.now += pause_s
            may = self.traffic.rates.upload_bytes_per_s or 1e9
            room = max(0.0, 0.5 * self.bytes_per_s - self.waiting)
            sent = min(may * pause_s, self.bytes_per_s * pause_s + room) if sends else 0.0
            self.waiting = max(0.0, self.waiting + sent - self.bytes_per_s * pause_s)
            self.traffic.moved(Moved(sent_bytes=int(sent), received_bytes=0))
            trips.append(self.base_s + self.waiting / self.bytes_per_s)
        return sorted(trips)


async def test_an_engine_that_fills_the_line_is_slowed_down_and_free_again_later() -> None:
    home = Home()
    await home.live(5, sends=False)
    assert home.traffic.rates == Rates()
    await home.live(20)
    trips = await home.live(100)
    assert trips[len(trips) * 9 // 10] <= 2 * BASE_S + 0.01
    rate = home.traffic.rates.upload_bytes_per_s
    assert rate is not None
    assert 0.7 * home.bytes_per_s <= rate <= 1.1 * home.bytes_per_s
    assert (home.traffic.rates.download_bytes_per_s, home.told[-1].burst_s) == (None, SHARED_BURST_S)
    await home.live(120, sends=False)
    assert home.traffic.rates == home.told[-1] == Rates()


async def test_the_volunteers_own_limit_holds_where_it_is_lower() -> None:
    home = Home()
    home.traffic.limit(160_000, 160_000)
    await home.live(60)
    assert home.traffic.rates.upload_bytes_per_s == 150_000
    home.traffic.limit(1e9, None)
    await home.live(60)
    assert (home.traffic.rates.upload_bytes_per_s or 1e9) < 1.1 * home.bytes_per_s


@pytest.mark.parametrize("why", ["a LAN", "not asked for", "no answer"])
async def test_nobody_is_slowed_down_without_need(why: str) -> None:
    home = Home(base_s=0.002 if why == "a LAN" else BASE_S)
    home.asked_for, home.answers = why != "not asked for", why != "no answer"
    await home.live(60)
    assert home.told == []


async def test_who_switches_it_off_is_free_at_once() -> None:
    home = Home()
    await home.live(5, sends=False)
    await home.live(30)
    assert home.traffic.rates != Rates()
    home.asked_for = False
    await home.sharing.look()
    assert home.traffic.rates == Rates()


async def test_while_nothing_is_moved_next_to_nothing_is_sent() -> None:
    home = Home()
    trips = 0
    counted = home.round_trip

    async def round_trip() -> float | None:
        nonlocal trips
        trips += 1
        return await counted()

    home.sharing._round_trip = round_trip
    await home.live(600, sends=False)
    assert 50 <= trips <= 61


async def test_handshakes_are_measured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        trip_s = await handshake_with(f"https://127.0.0.1:{port}")()
        assert trip_s is not None
        assert 0 < trip_s < GIVE_UP_S
    assert await handshake_with(f"http://127.0.0.1:{port}")() is None, "nobody listens there"
