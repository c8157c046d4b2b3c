"""A real server for relays to be enrolled with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.conftest import RunningServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    server = RunningServer(tmp_path / "server")
    try:
        server.start()
        yield server
    finally:
        server.kill()
