"""Work in a thread of its own: its result, its error, and its end with the process."""

import subprocess
import sys
import threading

import pytest

from legion.errors import DatasetEmpty
from legion_server.service.threads import in_own_thread

STUCK = """
import asyncio, threading
from legion_server.service.threads import in_own_thread

async def main():
    started = threading.Event()
    def work():
        started.set()
        threading.Event().wait()
    task = asyncio.ensure_future(in_own_thread(work, "stuck"))
    await asyncio.to_thread(started.wait)
    task.cancel()

asyncio.run(main())
print("ended")
"""


async def test_results_and_errors_come_out() -> None:
    assert await in_own_thread(lambda: threading.current_thread().name, "mine") == "mine"

    def fails() -> None:
        raise DatasetEmpty("no text")

    with pytest.raises(DatasetEmpty, match="no text"):
        await in_own_thread(fails, "mine")


def test_a_process_does_not_wait_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
