"""A running `up`, as a person would watch it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil


class Up:
    """A running `up`. Everything it starts is remembered, to see later that none of it is left."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "legion_server", "up", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._started: list[psutil.Process] = []
        self.output = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Reads on until a line matches."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                self._started = psutil.Process(self._process.pid).children(recursive=True)
                return found
        raise AssertionError(f"no line matches {pattern}:\n{self.output}")

    def kill(self, module: str) -> None:
        """kill -9 for one of the processes that run this module."""
        # A process that was forked a moment ago still looks like its parent.
        [*_, last] = [process for process in self._started if process.is_running() and module in process.cmdline()]
        parent = last.parent()
        if parent.pid != self._process.pid and module in parent.cmdline():
            last = parent
        last.kill()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """The exit code, once it has ended; nothing it started lives on."""
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        code = self._process.wait()
        left = [p for p in self._started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"still running: {left}"
        return code

    def destroy(self) -> None:
        if self._process.poll() is None:
            for process in [*psutil.Process(self._process.pid).children(recursive=True), self._process]:
                process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Start:
    def __init__(self) -> None:
        self.running: list[Up] = []

    def __call__(self, *arguments: str | Path) -> Up:
        self.running.append(Up(*map(str, arguments)))
        return self.running[-1]


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


def small_run(
    run: Callable[..., Program], folder: Path, *, steps: int, rounds: dict[str, int], port: int = 0, **change: Any
) -> tuple[Program, Admin]:
    """A server in `folder / "server"`, with a run of two clusters of one that begins as soon as both are there."""
    (folder / "text.txt").write_text("".join(f"{n} bottles of beer on the wall. " for n in range(400)))
    server = run("legion_server", "serve", "--data-dir", folder / "server", "--host", "127.0.0.1", "--port", str(port))
    admin = Admin(server, folder / "server")
    config = {
        "steps": steps,
        "model": {"preset": "tiny"},
        "data": {"source": "text", "paths": [str(folder / "text.txt")], "seq_len": 16},
        "batch": {"micro_batch_blocks": 1},
        "start": {"workers": 2},
        "cluster": {"policy": "solo"},
        "rounds": rounds,
    }
    admin.call("PUT", "/training/config", config | change)
    return server, admin
