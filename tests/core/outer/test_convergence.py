"""The convergence benchmark's smoke grid: real runs of every kind, rows that are never made twice."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def convergence(*arguments: str) -> str:
    """What it prints; it must end well."""
    argv = [sys.executable, "-W", "error", "benchmarks/convergence.py", "--smoke", *arguments]
    environment = os.environ | {"COLUMNS": "200", "TERM": "dumb"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.usefixtures("benchmarks")
def test_the_gap_closed_is_paired_by_seeds_at_each_arms_best_rate() -> None:
    from convergence.arms import DENSE, ENDS, LR_SCALES, Run, best_scale, queue
    from convergence.table import behind, gaps_closed

    solo, synchronous = ENDS
    fp32, int4 = DENSE[0], DENSE[2]
    reported = {solo: [2.0, 2.2, 2.1], synchronous: [1.0, 1.2, 1.1], fp32: [1.2, 1.4, 1.3], int4: [1.25, 1.35, 1.34]}
    low, high = LR_SCALES
    results: dict[str, dict[str, Any]] = {}
    for arm, losses in reported.items():
        assert best_scale(arm, results) is None
        results[Run(arm, high, 0).key] = {"failed": "not-finite: diverged"}
        results[Run(arm, low, 0).key] = {"choice_loss": 9.0, "loss": losses[0]}
        assert best_scale(arm, results) == low, "a run that failed is never the best"
        missing = [run.seed for run in queue([arm], results) if run.key not in results]
        assert missing == [1, 2]
        for seed in missing:
            results[Run(arm, low, seed).key] = {"choice_loss": 9.0, "loss": losses[seed]}
    assert gaps_closed(fp32, results) == pytest.approx(dict.fromkeys(range(3), 0.8))
    assert gaps_closed(int4, results) == pytest.approx({0: 0.75, 1: 0.85, 2: 0.76})
    lost = behind(int4, fp32, results)
    assert lost is not None
    assert lost.mean == pytest.approx(0.04 / 3)
    # Of 0.05, -0.05, 0.04: standard deviation 0.05508, t(2) at 97.5 % 4.303, root of 3.
    assert lost.half == pytest.approx(4.303 * 0.0550757 / 3**0.5, rel=1e-4)


def test_the_smoke_grid_trains_once_and_then_reads_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    printed = convergence("--results", str(file))
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    assert {row["run"]["arm"]["kind"] for row in rows} == {"solo", "synchronous", "rounds"}
    for row in rows:
        assert abs(row["loss"] - math.log(257)) < 0.5, row["label"]
        assert f"{row['label']}: {row['loss']}" in printed
    bits = {row["run"]["arm"]["name"]: (row["up_bits"], row["down_bits"]) for row in rows if "up_bits" in row}
    for name, up in (("fp32", 32), ("int8", 8.125)):
        assert bits[name] == (up, pytest.approx(up, abs=0.05)), "an update has a header"
    # Of the four contributions that churn leaves one is dense; the buffer form has no flush, so no update is.
    assert bits["mixed"] == (pytest.approx((4.25 + 3 * 0.12) / 4, abs=0.05), pytest.approx(0.4, abs=0.1))
    assert len({row["root"] for row in rows}) == len(rows)

    again = convergence("--results", str(file))
    assert json.loads(file.read_text()) == rows
    assert "seed 0:" not in again, "nothing is trained a second time"
