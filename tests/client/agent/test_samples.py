"""Points of the graphs: how far back each level reaches, what is kept over a restart, what thinning keeps."""

from pathlib import Path

import pytest

from legion_client.agent.samples import LEVELS, PERIOD_S, Samples, mean, thinned
from legion_client.control.messages import Sample

BEGAN = 1_000_000.0 * 3600  # a whole hour


def filled(path: Path, seconds: float) -> tuple[Samples, float]:
    samples = Samples(path)
    at = BEGAN
    while at < BEGAN + seconds:
        samples.add(Sample(at=at, tokens_per_s=(at - BEGAN) / 3600, celsius=None))
        at += PERIOD_S
    return samples, at


def test_an_hour_is_fine_a_day_coarser(tmp_path: Path) -> None:
    samples, now = filled(tmp_path / "activity" / "samples.sqlite", 26 * 3600)
    hour = samples.since(now - 3600 + 2 * PERIOD_S, 10_000)
    day = samples.since(now - 24 * 3600 + 600, 10_000)
    month = samples.since(now - 30 * 86_400, 10_000)
    assert len(hour) == pytest.approx(360, abs=4)
    assert len(day) == pytest.approx(720, abs=8)
    assert len(month) == 25
    for points in (hour, day, month):
        assert [point.at for point in points] == sorted(point.at for point in points)
        assert all(point.celsius is None for point in points)
    assert day[-1].tokens_per_s == pytest.approx(26, rel=0.01)
    samples.close()


def test_a_restart_costs_the_finest_level_only(tmp_path: Path) -> None:
    path = tmp_path / "samples.sqlite"
    samples, now = filled(path, 3 * 3600)
    day = samples.since(now - 20 * 3600, 10_000)
    samples.close()
    again = Samples(path)
    assert again.since(now - 20 * 3600, 10_000) == day
    assert len(again.since(now - 3000, 10_000)) == pytest.approx(3000 / 120, abs=2)
    again.close()


def test_every_level_is_bounded(tmp_path: Path) -> None:
    samples, _ = filled(tmp_path / "samples.sqlite", 30 * 3600)
    assert [len(level.points) for level in samples._levels] == [LEVELS[0][1], LEVELS[1][1], 29]
    samples.close()


@pytest.mark.parametrize("content", [b"", b"no database at all, but longer than a header of one would be" * 20])
def test_a_file_that_is_no_database_costs_the_past(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "samples.sqlite"
    path.write_bytes(content)
    samples = Samples(path)
    samples.add(Sample(at=BEGAN))
    samples.add(Sample(at=BEGAN + PERIOD_S))
    assert len(samples.since(BEGAN, 10)) == 1
    samples.close()


@pytest.mark.parametrize(("count", "most"), [(0, 2), (1, 2), (7, 3), (600, 600), (601, 600)])
def test_thinning_keeps_the_mean(count: int, most: int) -> None:
    points = [Sample(at=float(n), tokens_per_s=float(n)) for n in range(count)]
    thin = thinned(points, most)
    assert len(thin) <= most
    if count:
        assert thin[-1].at == points[-1].at
        each = -(-count // most)
        assert thin[0].tokens_per_s == pytest.approx(mean(points[:each]).tokens_per_s)
