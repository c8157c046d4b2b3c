"""What travels, in whole runs of the production engine and the production coordinator."""

from pathlib import Path

import pytest

from tests.server.simulate.test_times import simulated


@pytest.mark.parametrize("parameters", [None, 3e9])
def test_every_update_comes_to_every_worker_once(tmp_path: Path, parameters: float | None) -> None:
    """Also where there is no room for all of them at a time."""
    workers = 6
    options = {"steps": 6, "bandwidth": "10000/10000", "parameters": parameters}
    course, _ = simulated(tmp_path, "rounds.update_codec=int4", workers=workers, **options)
    assert len(course.points) == 3
    table = course.bytes_by_kind()
    stored = table["checkpoint"]["up_mean"]  # each by its reducer
    assert table["serving"]["down_mean"] == pytest.approx((workers - 1) * stored, rel=0.01)
    assert table["serving"]["up_mean"] == pytest.approx((workers - 1) * stored, rel=0.01)
