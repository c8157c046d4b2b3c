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
    assert bits["mixed"][1] < 1 < bits["mixed"][0] < 4.25, "dense rounds and a flush, but no dense update"
    assert len({row["root"] for row in rows}) == len(rows)

    again = convergence("--results", str(file))
    assert json.loads(file.read_text()) == rows
    assert "seed 0:" not in again, "nothing is trained a second time"
