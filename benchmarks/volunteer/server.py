"""A server of our own on loopback, and clients' homes that have joined it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from legion.rounds import RoundsPage
from legion_server.client import call
from legion_server.settings import Settings
from volunteer.processes import running

READY_S = 60.0
REACHED_S = 240.0


def config(workers: int, **changes: Any) -> dict[str, Any]:
    """A run of 133,000 parameters in rounds of half a minute or less that does not end by itself."""
    narrow = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 2, "num_key_value_heads": 2}
    return {
        "steps": 1_600_000,
        "model": {"preset": "tiny", "settings": narrow | {"num_hidden_layers": 2}},
        "data": {"source": "python_stdlib", "seq_len": 128},
        "batch": {"micro_batch_blocks": 4, "micro_batches": 2},
        "cluster": {"policy": "fixed", "size": 1},
        "start": {"workers": workers},
        "rounds": {"steps": 16, "grace_s": 2.0},
    } | changes


class Server:
    """Made by `server`."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self._settings = Settings.model_construct(data_dir=folder)
        self._process = process

    def configure(self, values: dict[str, Any]) -> None:
        self._ask("PUT", "/training/config", json=values)

    def invite(self) -> str:
        return str(json.loads(self._ask("POST", "/invites", json={}))["invite"])

    def has_accepted(self) -> bool:
        """Whether a round's record includes anybody's contribution."""
        query = {"since": 0, "limit": 1}
        records = RoundsPage.model_validate_json(self._ask("GET", "/training/rounds", params=query)).records
        return any(span.included for record in records for span in record.spans)

    @contextmanager
    def away(self) -> Iterator[None]:
        """It answers nobody for the time of the block, as one that has been cut off."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _ask(self, method: str, path: str, **arguments: Any) -> bytes:
        return call(self._settings, method, path, **arguments)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """`legion-server serve` for the time of the block."""
    ready = folder.with_suffix(".ready")
    arguments = ["serve", "--data-dir", str(folder), "--host", "127.0.0.1", "--port", "0", "--ready-file", str(ready)]
    with running([sys.executable, "-m", "legion_server", *arguments], dict(os.environ)) as process:
        end = time.monotonic() + READY_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: exit code {process.poll()}")
            time.sleep(0.05)
        yield Server(folder, process)


def client(home: Path, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> str:
    """What a command says; RuntimeError with its complaint if it fails."""
    command = [sys.executable, "-m", "legion_client", "--home", str(home), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"legion-client {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def status(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client(home, "status", "--json"))
    return found


def reached(home: Path, face: str) -> None:
    """Waits until the client of this home shows this face; RuntimeError if it never does."""
    end = time.monotonic() + REACHED_S
    while time.monotonic() < end:
        with contextlib.suppress(RuntimeError):
            if status(home)["face"] == face:
                return
        time.sleep(1.0)
    raise RuntimeError(f"{home.name} is not {face}: {status(home)}")
