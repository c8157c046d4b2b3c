"""Volunteers who stop for the night and go on in the morning: a real server, real clients, nothing but signals."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from legion.outer.state import opened
from legion_client.paths import Home

STEPS = 80


class Program:
    """One of our command lines, its output read as it comes."""

    def __init__(self, module: str, *arguments: str | Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.output = ""

    def until(self, pattern: str) -> re.Match[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line matches {pattern}:\n{self.output}")

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        return self._process.wait()

    def destroy(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    running: list[Program] = []

    def started(module: str, *arguments: str | Path) -> Program:
        running.append(Program(module, *arguments))
        return running[-1]

    yield started
    for program in reversed(running):
        program.destroy()


class Admin:
    """Of a server that says where it listens."""

    def __init__(self, server: Program, data_dir: Path) -> None:
        _, host, port = server.until("^listening ").string.split()
        self._base_url = f"http://{host}:{port}"
        self._token = (data_dir / "admin-token").read_text().strip()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        with httpx.Client(base_url=self._base_url, timeout=60, trust_env=False) as http:
            response = http.request(method, path, json=body, headers={"Authorization": f"Bearer {self._token}"})
        assert response.is_success, response.text
        return json.loads(response.content) if response.content else None


@pytest.mark.timeout(400)
def test_who_stops_for_the_night_goes_on_in_the_morning(run: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{n} bottles of beer on the wall. " for n in range(400)))
    server = run("legion_server", "serve", "--data-dir", tmp_path / "server", "--host", "127.0.0.1", "--port", "0")
    admin = Admin(server, tmp_path / "server")
    admin.call(
        "PUT",
        "/training/config",
        {
            "steps": STEPS,
            "model": {"preset": "tiny"},
            "data": {"source": "text", "paths": [str(tmp_path / "text.txt")], "seq_len": 16},
            "batch": {"micro_batch_blocks": 1},
            "start": {"workers": 2},
            "cluster": {"policy": "solo"},
            "rounds": {"steps": 4, "checkpoint_every": 3},
        },
    )
    invite = admin.call("POST", "/invites", {"uses": 2})["invite"]
    homes = [Home(tmp_path / name) for name in ("attic", "cellar")]
    evening = [run("legion_client", "--no-gui", "--join", invite, "--home", home.root) for home in homes]
    for client in evening:
        client.until("anchor round=5 ")
    for client in evening:
        client.terminate()
    assert [client.ended() for client in evening] == [0, 0], evening[0].output + evening[1].output
    kept = [anchor_of(home) for home in homes]
    assert min(kept) >= 4
    morning = [run("legion_client", "--no-gui", "--home", home.root) for home in homes]
    assert [client.ended() for client in morning] == [0, 0], morning[0].output + morning[1].output
    for client, anchor, home in zip(morning, kept, homes, strict=True):
        assert re.search(f"local state taken up kept_at={anchor} ", client.output), client.output
        assert "Traceback" not in client.output
        assert not home.local_state.exists(), "the run is complete"
    metrics = admin.call("GET", "/metrics")
    assert (metrics["phase"], metrics["step"]) == ("complete", STEPS)
    assert metrics["rounds"]["counters"]["root_mismatches"] == 0


def anchor_of(home: Home) -> int:
    with opened(home.local_state) as kept:
        kept.check()
        assert kept.info.final
        return kept.info.anchor
