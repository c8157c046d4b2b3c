"""The engine's end of its pipes: commands in, reports out, and nothing else on standard output."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from legion_client.engine.pipes import Pipes
from legion_client.engine.protocol import REPORTS, Failed, Left, Stop

ECHO = """
import asyncio, os
from legion_client.engine.pipes import open_pipes
from legion_client.engine.protocol import Left, Stop

async def run():
    pipes = open_pipes()
    print("a library prints")
    os.system("echo a child process prints")
    count = 0
    while isinstance(await pipes.next_command(), Stop):
        count += 1
        pipes.report(Left(step=count))
    print("the agent is gone", flush=True)

asyncio.run(run())
"""


def converse(*lines: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", ECHO], input=b"".join(lines), capture_output=True, timeout=60)


def test_reports_go_to_standard_output_and_all_else_to_standard_error() -> None:
    stop = Stop(reason="enough").model_dump_json().encode() + b"\n"
    done = converse(stop, stop)
    assert done.returncode == 0, done.stderr
    assert [REPORTS.validate_json(line) for line in done.stdout.splitlines()] == [Left(step=1), Left(step=2)]
    for text in (b"a library prints", b"a child process prints", b"the agent is gone"):
        assert text in done.stderr


def test_no_command_at_all_is_the_agents_end() -> None:
    done = converse()
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"the agent is gone" in done.stderr


@pytest.mark.parametrize("line", [b"hello\n", b'{"kind":"dance"}\n', json.dumps({"kind": "stop"}).encode() + b"\n"])
def test_a_line_that_is_no_command_is_an_error(line: bytes) -> None:
    done = converse(line)
    assert done.returncode != 0
    assert b"ValidationError" in done.stderr


def test_a_report_larger_than_a_pipe_is_written_whole() -> None:
    reading, writing = os.pipe()
    report = Failed(slug="x", message="long " * 100_000, hint="", step=3)
    received = bytearray()

    def read() -> None:
        with os.fdopen(reading, "rb") as stream:
            received.extend(stream.read())

    thread = threading.Thread(target=read)
    thread.start()
    Pipes(writing).report(report)
    os.close(writing)
    thread.join()
    assert REPORTS.validate_json(bytes(received)) == report
    assert received.endswith(b"\n")


def test_a_reader_that_is_gone_is_no_error_here() -> None:
    """Its end is told by the commands' pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    Pipes(writing).report(Left(step=1))
    os.close(writing)


def test_the_pipes_need_no_torch() -> None:
    """What an engine can say before it has loaded anything."""
    code = "import sys, legion_client.engine.pipes; sys.exit('torch' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], timeout=60).returncode == 0
