"""`legion-server up` as a person runs it: real server, real clients, real engines, and every way it can end."""

import json
import math
import re
import shutil
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import Start

STEPS = 12
QUICK = (
    *("--workers", "2", "--steps", str(STEPS), "--port", "0"),
    *("--set", "evaluation.max_blocks=4", "--set", "checkpoint.every_steps=4", "--set", "batch.micro_batch_blocks=4"),
)


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """A run without trouble: what it printed, its report, its folder."""
    folder = tmp_path_factory.mktemp("whole")
    up = start(*QUICK, "--data-dir", folder, "--report", folder / "report.json", "--logs-dir", folder / "logs")
    up.until(r"status page: http://127.0.0.1:\d+/")
    up.until("step ")
    assert up.ended() == 0, up.output
    return up.output, json.loads((folder / "report.json").read_text()), folder


@pytest.mark.timeout(300)
def test_one_command_trains_a_model_across_two_workers(whole: tuple[str, dict[str, Any], Path]) -> None:
    output, report, folder = whole
    assert (report["steps"], report["phase"], len(report["workers"])) == (STEPS, "complete", 2)
    assert [step["step"] for step in report["per_step"]] == list(range(1, STEPS + 1))
    assert report["last_loss"] < report["first_loss"] - 1
    assert report["first_loss"] == pytest.approx(math.log(257), abs=1)
    assert report["bigram_entropy"] < report["unigram_entropy"] < report["first_loss"]
    assert sum(worker["tokens"] for worker in report["workers"]) == report["tokens"]
    for worker in report["workers"]:
        assert min(worker[key] for key in ("sent_bytes", "received_bytes", "peak_rss_bytes", "state_bytes")) > 0
    checkpoint = Path(report["checkpoint"])
    assert checkpoint.is_relative_to(folder / "run-001")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in checkpoint.iterdir()}
    for part in (f"validation loss {report['validation_loss']:.3f}", "bigram", "sample", str(checkpoint)):
        assert part in output
    assert {path.name for path in (folder / "logs").iterdir()} >= {"server.log", "worker-1.log", "worker-2.log"}
    assert "Traceback" not in output


@pytest.mark.timeout(300)
def test_after_a_dead_engine_another_number_of_workers_goes_on(
    whole: tuple[str, dict[str, Any], Path], start: Start, tmp_path: Path
) -> None:
    _, uninterrupted, _ = whole
    up = start(*QUICK, "--data-dir", tmp_path)
    up.until("checkpoint assembled step=4")
    up.kill("legion_client.engine")
    assert up.ended() == 51, up.output
    assert re.search(r"killed by SIGKILL.*up --resume", up.output)
    up = start(
        "--resume", "--workers", "1", "--data-dir", tmp_path, "--port", "0", "--report", tmp_path / "report.json"
    )
    resumed_from = int(up.until(r"resuming run-\w+ from step (\d+) with 1 workers")[1])
    assert 4 <= resumed_from < STEPS
    assert up.ended() == 0, up.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert [step["step"] for step in report["per_step"]] == list(range(1, STEPS + 1))
    for ours, theirs in zip(report["per_step"], uninterrupted["per_step"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert report["validation_loss"] == pytest.approx(uninterrupted["validation_loss"], rel=1e-3)


@pytest.mark.timeout(300)
def test_a_run_that_lacks_only_its_last_assembly_is_completed_once(
    whole: tuple[str, dict[str, Any], Path], start: Start, tmp_path: Path
) -> None:
    _, report, folder = whole
    data_dir = tmp_path / "runs"
    (before,) = folder.glob("**/run-001")
    shutil.copytree(before, data_dir / "run-001")
    server = data_dir / "run-001" / "server"
    shutil.rmtree(server / "checkpoints" / f"step-{STEPS:08d}")
    # As a server leaves it that is killed while it assembles.
    undone = "json_set(document, '$.assembled', json('false'), '$.weights_digest', NULL, '$.files', json('[]'))"
    with closing(sqlite3.connect(server / "legion.db")) as database:
        database.execute("UPDATE runs SET document = json_set(document, '$.phase', 'finishing')")
        database.execute(f"UPDATE checkpoints SET document = {undone} WHERE step = ?", (STEPS,))
        database.commit()
    resume = ("--resume", "--workers", "1", "--data-dir", data_dir, "--port", "0")
    up = start(*resume, "--report", tmp_path / "report.json")
    assert up.ended() == 0, up.output
    again = json.loads((tmp_path / "report.json").read_text())
    same = ("run_id", "steps", "first_loss", "last_loss", "validation_loss", "weights_digest", "per_step")
    assert [again[key] for key in same] == [report[key] for key in same]
    up = start(*resume)
    assert up.ended() == 50, up.output
    assert "the run is complete; there is nothing to resume" in up.output


@pytest.mark.timeout(300)
def test_ctrl_c_while_it_trains_leaves_nothing_running(start: Start, tmp_path: Path) -> None:
    up = start(*QUICK, "--set", "steps=100000", "--data-dir", tmp_path)
    up.until(r"step [1-9]\d*/100000")
    up.signal(signal.SIGINT)
    assert up.ended() == 130, up.output
    assert up.output.count("agent phase=ended") == 2
    assert "killed" not in up.output
    assert "Traceback" not in up.output


def test_ctrl_c_before_anybody_is_ready(start: Start, tmp_path: Path) -> None:
    up = start(*QUICK, "--data-dir", tmp_path)
    up.until("status page: http://127")
    up.signal(signal.SIGINT)
    assert up.ended() == 130, up.output
    assert "Traceback" not in up.output


def test_a_dead_server_ends_everything(start: Start, tmp_path: Path) -> None:
    up = start(*QUICK, "--data-dir", tmp_path)
    up.until("phase=preparing")
    up.kill("legion_server")
    assert up.ended() == 137, up.output
    assert "the server ended with exit code 137" in up.output


def test_a_dead_client_ends_everything(start: Start, tmp_path: Path) -> None:
    up = start(*QUICK, "--data-dir", tmp_path)
    up.until("phase=preparing")
    up.kill("legion_client")
    assert up.ended() == 137, up.output
    assert re.search(r"worker-\d ended with exit code 137", up.output)


def test_a_port_in_use(start: Start, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        up = start(*QUICK, "--data-dir", tmp_path, "--port", str(taken.getsockname()[1]))
        assert up.ended() == 41
    assert "is in use" in up.output
    assert "Traceback" not in up.output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--resume",), 2, "no run in .* has a complete checkpoint"),
        (("--resume", "--steps", "5"), 2, "goes on with the run's own configuration"),
        (("--set", "optimizer.lr=-1"), 2, "optimizer.lr"),
        (("--set", "no_such_field=1"), 2, "no_such_field"),
        (("--model", "huge"), 2, "model.preset"),
        (("--dataset", "text"), 2, "paths are needed"),
        (("--verify", "--no-assembler"), 2, "--verify"),
        (("--workers", "3", "--clusters", "2"), 2, "3 workers cannot form 2 equal clusters"),
        (("--workers", "4", "--clusters", "2", "--verify"), 2, "--verify"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    start: Start, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    up = start(*arguments, "--port", "0", "--data-dir", tmp_path)
    assert up.ended() == code, up.output
    assert re.search(says, up.output)
    assert "Traceback" not in up.output
