"""The measured upload: samples that age, bursts that stay short, and the limit that follows from both."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.errors import Unavailable
from legion.messages import PROBE_BYTES, ProbeReply
from legion_client.agent.uplink import BURSTS, DAY_S, FIRST_BYTES, KEPT, MOST_AGE_S, Estimate, Sample, Uplink
from legion_client.machine.readings import Readings
from legion_client.paths import Home
from tests.client.agent.hosting import RunningServer, hosted, seen
from tests.client.agent.test_host_trouble import QUIET

NOW = 1_700_000_000.0


def estimate_of(*rates: float, every_s: float = DAY_S) -> Estimate:
    """The last of them now."""
    estimate = Estimate()
    for number, bytes_per_s in enumerate(rates):
        at = NOW - (len(rates) - 1 - number) * every_s
        estimate = estimate.with_sample(Sample(at=at, bytes_per_s=bytes_per_s))
    return estimate


def test_one_odd_sample_changes_little() -> None:
    assert Estimate().bytes_per_s(NOW) is None
    assert estimate_of(100.0, 110.0, 9000.0).bytes_per_s(NOW) == 110.0
    assert estimate_of(100.0, 110.0, 1.0).bytes_per_s(NOW) == 100.0


def test_what_is_old_counts_no_more() -> None:
    estimate = estimate_of(500.0, 100.0, every_s=MOST_AGE_S / 2 + 1)
    assert estimate.bytes_per_s(NOW) == 300.0
    assert estimate.bytes_per_s(NOW + MOST_AGE_S / 2) == 100.0
    assert estimate.bytes_per_s(NOW + MOST_AGE_S + 1) is None


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=12))
def test_the_newest_few_are_kept(rates: list[float]) -> None:
    estimate = estimate_of(*rates, every_s=1.0)
    assert [sample.bytes_per_s for sample in estimate.samples] == rates[-KEPT:]
    found = estimate.bytes_per_s(NOW)
    assert found is not None
    assert min(rates[-KEPT:]) <= found <= max(rates[-KEPT:])
    assert Estimate.model_validate_json(estimate.model_dump_json()) == estimate


def test_it_is_measured_once_a_day_whatever_the_clock_does() -> None:
    assert Estimate().is_due(NOW)
    estimate = estimate_of(1.0)
    assert not estimate.is_due(NOW + DAY_S - 1)
    assert estimate.is_due(NOW + DAY_S)
    assert estimate.is_due(NOW - 1)  # the sample lies in the future
    assert estimate.with_sample(Sample(at=NOW - 1, bytes_per_s=2.0)).samples == (Sample(at=NOW - 1, bytes_per_s=2.0),)


@dataclass
class Line:
    """A server at the other end of a line with a speed, and a clock that shows how long bursts take."""

    bytes_per_s: float
    tells: bool = True
    now_s: float = 0.0
    bursts: list[int] = field(default_factory=list)
    busy: bool = False

    def clock(self) -> float:
        return self.now_s

    async def probe(self, size_bytes: int) -> ProbeReply:
        if self.busy:
            raise Unavailable("others measure their line now")
        self.bursts.append(size_bytes)
        self.now_s += size_bytes / self.bytes_per_s
        return ProbeReply(received_bytes=size_bytes, bytes_per_s=self.bytes_per_s if self.tells else None)


def uplink_of(line: Line, folder: Path) -> Uplink:
    return Uplink(folder / "uplink.json", clock=lambda: NOW + line.now_s, timer=line.clock)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("bytes_per_s", "last"), [(125e3, FIRST_BYTES), (1.25e6, 8 * FIRST_BYTES), (12.5e6, PROBE_BYTES)]
)
async def test_bursts_grow_until_they_tell_something(
    bytes_per_s: float, last: int, tells: bool, tmp_path: Path
) -> None:
    line = Line(bytes_per_s, tells)
    uplink = uplink_of(line, tmp_path)
    await uplink.measure_if_due(line, lambda: True)
    assert uplink.bytes_per_s == pytest.approx(bytes_per_s)
    assert line.bursts[-BURSTS:] == [last] * BURSTS
    assert sum(line.bursts) <= 14e6
    assert line.now_s < 4
    await uplink.measure_if_due(line, lambda: True)
    assert len(line.bursts) <= 5, "once a day"
    # And it outlives the process.
    assert uplink_of(line, tmp_path).bytes_per_s == uplink.bytes_per_s


async def test_a_line_that_is_used_or_a_server_that_is_busy_is_left_alone(tmp_path: Path) -> None:
    line = Line(1e6)
    uplink = uplink_of(line, tmp_path)
    await uplink.measure_if_due(line, lambda: False)
    line.busy = True
    await uplink.measure_if_due(line, lambda: True)
    assert (line.bursts, uplink.bytes_per_s) == ([], None)
    line.busy = False
    await uplink.measure_if_due(line, lambda: True)
    assert uplink.bytes_per_s == 1e6


@pytest.mark.parametrize("content", [b"", b"{", b'{"samples": [{"at": 1, "bytes_per_s": -1}]}', b"\xff"])
async def test_a_file_that_cannot_be_read_is_measured_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "uplink.json").write_bytes(content)
    assert uplink_of(Line(1e6), tmp_path).bytes_per_s is None


async def test_it_counts_for_what_leaves_the_house(tmp_path: Path) -> None:
    line = Line(1e6)
    uplink = uplink_of(line, tmp_path)
    await uplink.measure_if_due(line, lambda: True)
    alone = True

    async def read() -> Readings:
        return Readings(cpu_celsius=40.0)

    reading = uplink.beside(read, lambda: alone)
    assert await reading() == Readings(cpu_celsius=40.0, uplink_bytes_per_s=1e6)
    alone = False
    assert await reading() == Readings(cpu_celsius=40.0)


async def test_an_agent_measures_when_it_joins_and_keeps_to_a_share(server: RunningServer, tmp_path: Path) -> None:
    async with hosted(server, tmp_path / "home", polite=True, engine_command=QUIET) as (host, desk):
        await seen(desk, lambda _: host.uplink.bytes_per_s is not None)
        assert host.uplink.bytes_per_s is not None
        await seen(desk, lambda _: host.readings.uplink_bytes_per_s == host.uplink.bytes_per_s)
        whole_kb = int(host.uplink.bytes_per_s) * host.rules.network.upload_percent // 100_000
        allowed = (host.traffic.upload.engines or 0.0) + 1e6 / host.traffic.upload.valve.least_s(1_000_000)
        assert allowed == pytest.approx(whole_kb * 1000)
        host.traffic.settle()
        assert host.volume.this_month.sent_bytes > FIRST_BYTES
    assert (Home(tmp_path / "home").activity / "uplink.json").exists()
