"""The program `legion-client` as people and scripts start it, and a process that answers it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SERVING = Path(__file__).parents[1] / "control" / "serving.py"


class Client:
    """The command line with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"LEGION_HOME": str(self.home), "COLUMNS": "200"}

    def run(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Standard output; the test fails with what it said if it ends with another exit code."""
        command = [sys.executable, "-m", "legion_client", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=self.environment, check=False, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str, **rest: Any) -> Any:
        return json.loads(self.run(*arguments, "--json", **rest))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "legion_client", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)

    @contextlib.contextmanager
    def agent(self, *how: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process that holds this home's socket with a small desk."""
        with subprocess.Popen([sys.executable, str(SERVING), str(self.home), *how], stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            assert agent.stdout.readline() == b"ready\n"
            try:
                yield agent
            finally:
                agent.kill()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path / "home")


@pytest.fixture
def make_client(tmp_path: Path) -> Callable[[str], Client]:
    return lambda name: Client(tmp_path / name)
