"""Starts `up`, and whatever happens, ends it."""

from collections.abc import Iterator

import pytest

from tests.e2e.running import Start


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    start = Start()
    yield start
    for up in start.running:
        up.destroy()
