"""`legion-server simulate` as a person runs it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from legion.errors import LegionError, Unusable
from legion_server.cli import app

SMALL = ["--dataset", "distributed_dummy", "--steps", "6"]
for setting in (
    "model.settings.hidden_size=16",
    "model.settings.intermediate_size=32",
    "model.settings.num_hidden_layers=2",
    "model.settings.num_attention_heads=2",
    "model.settings.num_key_value_heads=2",
    "data.seq_len=16",
    "batch.micro_batch_blocks=2",
    "rounds.steps=2",
):
    SMALL += ["--set", setting]


def simulate(*arguments: str, report: Path | None = None) -> tuple[str, dict[str, Any]]:
    """What it prints, and the report."""
    extra = [] if report is None else ["--report", str(report)]
    done = CliRunner().invoke(app, ["simulate", *SMALL, *arguments, *extra])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output, json.loads(report.read_text()) if report else {}


def test_clusters_by_rounds_reach_one_anchor(tmp_path: Path) -> None:
    shown, report = simulate("--workers", "4", "--clusters", "2", report=tmp_path / "report.json")
    run = report["distributed"]
    assert [point["round"] for point in run["points"]] == [0, 1, 2]
    assert run["counts"]["root_mismatches"] == 0
    assert run["tokens"] == 6 * 2 * 2 * 2 * 16  # steps, clusters, micro-batches, blocks, tokens of each
    assert run["points"][-1]["loss"] < run["points"][0]["loss"]
    assert {work["steps"] for work in run["workers"]} == {6}
    kinds = run["bytes_per_worker"]
    assert all(kinds[kind]["up_mean"] > 0 for kind in ("weights", "gradients", "contribution", "serving", "control"))
    assert kinds["join"]["down_max"] == 0  # all were there from the start
    assert kinds["internet"]["up_mean"] < kinds["total"]["up_mean"]
    assert "Bytes of a worker" in shown
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_one_process_makes_the_same_steps_on_as_many_tokens(tmp_path: Path) -> None:
    _, report = simulate("--workers", "3", "--mode", "both", report=tmp_path / "report.json")
    ours, alone = report["distributed"], report["baseline"]
    assert alone["tokens"] == ours["tokens"]
    assert len(alone["points"]) == len(ours["points"])
    assert alone["utilisation"] == pytest.approx(1.0)
    assert alone["wall_s"] < ours["wall_s"]


def test_the_baseline_alone_needs_no_rounds(tmp_path: Path) -> None:
    shown, report = simulate("--workers", "2", "--mode", "baseline", report=tmp_path / "report.json")
    assert "distributed" not in report
    assert "Bytes of a worker" not in shown


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    """With everything that has an order: clusters, churn, speeds, sparse contributions."""
    arguments = ("--workers", "6", "--clusters", "3", "--churn", "0.3", "--speeds", "1,1,4", "--compress", "topk")
    reports = []
    for name in ("first", "again"):
        simulate(*arguments, "--plot", str(tmp_path / f"{name}.png"), report=tmp_path / f"{name}.json")
        reports.append((tmp_path / f"{name}.json").read_bytes())
    assert reports[0] == reports[1]
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    counts = json.loads(reports[0])["distributed"]["counts"]
    assert counts["departures"] > 0
    assert counts["root_mismatches"] == 0


@pytest.mark.parametrize("seed", ["1", "4", "6", "9"])
def test_computers_may_go_at_any_moment(tmp_path: Path, seed: str) -> None:
    """In the middle of a part, of a question, of the end of a membership: each of these seeds has met one."""
    much = ("--churn", "0.4", "--steps", "16", "--compress", "topk", "--parameters", "1e9", "--device", "4090")
    _, report = simulate(*much, "--bandwidth", "10000/10000", "--seed", seed, report=tmp_path / "report.json")
    counts = report["distributed"]["counts"]
    assert (counts["root_mismatches"], report["distributed"]["points"][-1]["round"]) == (0, 7)
    assert counts["departures"] > 0


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    _, one = simulate("--workers", "2", "--seed", "1", report=tmp_path / "one.json")
    _, two = simulate("--workers", "2", "--seed", "2", report=tmp_path / "two.json")
    assert one["distributed"]["root"] != two["distributed"]["root"]


def test_times_and_bytes_can_stand_for_a_larger_model(tmp_path: Path) -> None:
    _, small = simulate("--workers", "2", report=tmp_path / "small.json")
    factor = 100
    wanted = str(small["parameters"] * factor)
    _, large = simulate("--workers", "2", "--parameters", wanted, report=tmp_path / "large.json")
    assert large["distributed"]["loss"] == small["distributed"]["loss"]
    # Of updates: a part that comes before its reducer has heard of the round is sent again.
    kinds = [report["distributed"]["bytes_per_worker"]["serving"]["up_mean"] for report in (small, large)]
    assert kinds[1] == pytest.approx(factor * kinds[0], rel=1e-3)
    computed = [report["distributed"]["workers"][0]["computed_s"] for report in (small, large)]
    assert computed[1] == pytest.approx(factor * computed[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clusters", "3"], "--clusters 3: 4 workers cannot be divided into 3 clusters"),
        (["--bandwidth", "100"], "--bandwidth 100: that is not DOWN/UP in Mbit/s"),
        (["--bandwidth", "fast/slow"], "--bandwidth fast/slow"),
        (["--bandwidth", "100/0"], "two positive numbers"),
        (["--bandwidth", "1/2/3"], "--bandwidth 1/2/3"),
        (["--lan", "inf/1"], "--lan inf/1"),
        (["--speeds", "1,0"], "--speeds 1,0: that is no list of positive numbers"),
        (["--speeds", "1,,2"], "--speeds 1,,2"),
        (["--device", "4090,5090"], "--device 5090: no such device is known"),
        (["--compress", "zip"], "rounds.codec"),
        (["--model", "huge"], "model.preset"),
        (["--parameters", "inf"], "--parameters: that is no number of parameters"),
        (["--clusters", "2", "--set", "cluster.size=4"], "the simulator sets them"),
        (["--set", "rounds.steps"], "that is not KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], sentence: str) -> None:
    with pytest.raises(LegionError) as caught:
        simulate("--workers", "4", *arguments)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "legion_server.simulate.show", None)
    with pytest.raises(Unusable, match="which is not installed") as caught:
        simulate("--workers", "2")
    assert "legion-training[sim]" in caught.value.hint
