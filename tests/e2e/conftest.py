"""Starts `up`, and whatever happens, ends it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.running import Program, Start


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    start = Start()
    yield start
    for up in start.running:
        up.destroy()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    running: list[Program] = []

    def started(module: str, *arguments: str | Path) -> Program:
        running.append(Program(module, *arguments))
        return running[-1]

    yield started
    for program in reversed(running):
        program.destroy()
