"""Two runs of one server after each other: real clients go from one to the next by themselves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.running import Program, small_run
from tests.e2e.test_run_life import two_clients


@pytest.mark.timeout(300)
def test_clients_go_from_one_run_to_the_next(run: Callable[..., Program], tmp_path: Path) -> None:
    server, admin = small_run(run, tmp_path, steps=16, rounds={"steps": 4, "checkpoint_every": 2})
    first = admin.call("GET", "/health")["run_id"]
    second = admin.call("POST", "/runs", {"steps": 12})["summary"]["run_id"]
    third = admin.call("POST", "/runs", {"steps": 8, "cluster": {"policy": "one"}})
    clients = two_clients(run, admin, tmp_path)
    server.until(f"next run begins run={second} after={first}")
    server.until(f"next run begins run={third['summary']['run_id']} after={second}")
    server.until("run phase=complete")
    for client in clients:
        client.until("agent phase=waiting")
        client.terminate()
    assert [client.ended() for client in clients] == [0, 0], clients[0].output + clients[1].output
    for client in clients:
        assert client.output.count("phase=training ") == 3, client.output
        assert "Traceback" not in client.output
    runs = admin.call("GET", "/runs")
    assert (runs["active"]["phase"], runs["active"]["step"], runs["active"]["participants"]) == ("complete", 8, 2)
    assert runs["queued"] == []
    assert [(over["run_id"], over["phase"], over["step"], over["participants"]) for over in runs["over"]] == [
        (second, "complete", 12, 2),
        (first, "complete", 16, 2),
    ]

    assert runs["over"][0]["tokens"] > 0
    old = admin.call("GET", f"/runs/{first}")
    assert old["checkpoint"]["step"] == 16
    assert {"config.json", "model.safetensors"} <= set(old["checkpoint"]["files"])
    assert old["curve"]["training"][-1]["last"] == 16
    folder = tmp_path / "server/runs" / first / "checkpoint"
    assert (folder / "model.safetensors").is_file()
    assert admin.call("GET", f"/runs/{first}/checkpoint/config.json")["model_type"]
