"""`legion-server up` with several clusters: real processes that average by rounds."""

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.running import Start

LITTLE = (
    *("--steps", "12", "--port", "0"),
    *("--set", "rounds.steps=4", "--set", "rounds.checkpoint_every=2", "--set", "evaluation.max_blocks=4"),
    *("--set", "batch.micro_batch_blocks=4"),
)


@pytest.mark.timeout(400)
def test_two_clusters_train_one_model(start: Start, tmp_path: Path) -> None:
    up = start(*LITTLE, "--data-dir", tmp_path, "--report", tmp_path / "report.json")
    assert up.ended() == 0, up.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["phase"], report["steps"], len(report["workers"])) == ("complete", 12, 4)
    rounds = report["rounds"]
    assert (rounds["committed"], rounds["rounds"], rounds["tokens"]) == (3, 3, report["tokens"])
    assert rounds["counters"]["root_mismatches"] == 0
    assert report["last_loss"] < report["first_loss"] - 1
    assert {path.name for path in Path(report["checkpoint"]).iterdir()} >= {"config.json", "model.safetensors"}
    # Everybody who computed the last anchor found the assembler's digest; the checkpoint is that anchor.
    assert f"round=2 root={report['weights_digest'][:12]}" in up.output
    assert "Traceback" not in up.output


@pytest.mark.timeout(500)
def test_a_run_in_rounds_is_resumed_from_its_log(start: Start, tmp_path: Path) -> None:
    up = start(*LITTLE, "--set", "steps=40", "--data-dir", tmp_path)
    up.until("checkpoint assembled step=8")
    up.signal(signal.SIGINT)
    assert up.ended() == 130, up.output
    with closing(sqlite3.connect(tmp_path / "run-001/server/legion.db")) as connection:
        [[committed]] = connection.execute("SELECT count(*) FROM round_records").fetchall()
    assert committed >= 2
    resume = ("--resume", "--workers", "3", "--data-dir", tmp_path, "--port", "0")
    up = start(*resume, "--report", tmp_path / "report.json")
    up.until(r"resuming run-\w+ from step \d+ with 3 workers in 3 clusters")
    assert up.ended() == 0, up.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["phase"], report["steps"]) == ("complete", 40)
    assert report["rounds"]["committed"] == 10
    assert report["rounds"]["counters"]["root_mismatches"] == 0
    assert "Traceback" not in up.output


@pytest.mark.timeout(400)
def test_a_member_that_is_lost_costs_the_others_nothing(start: Start, tmp_path: Path) -> None:
    """Its cluster goes on without it, and the run is finished; `up` says which client ended, and how."""
    up = start(*LITTLE, "--set", "steps=40", "--data-dir", tmp_path, "--report", tmp_path / "report.json")
    up.until("checkpoint assembled step=8")
    up.kill("legion_client")
    assert up.ended() == 137, up.output
    report = json.loads((tmp_path / "report.json").read_text())
    counters = report["rounds"]["counters"]
    assert (counters["clusters_lost"], counters["clusters_regrouped"], counters["members_lost"]) == (0, 1, 1)
    assert counters["root_mismatches"] == 0
    assert "checkpoint assembled step=40" in up.output
    assert "ended with exit code 137; other clusters go on" in up.output
    assert "validation loss" in up.output  # the run is told of as any other
    assert "Traceback" not in up.output
