"""The processes of a run, with real ones: output, exit codes, stopping, and that nothing is left."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from legion.errors import StorageFailed, Unavailable
from legion_server.up.processes import Children, Command

GRANDPARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
import signal; signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()
"""


class Lines:
    """What the processes said, and a way to wait for it."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self._first = asyncio.Event()

    def __call__(self, name: str, text: str) -> None:
        self.heard.append((name, text))
        self._first.set()

    async def first(self) -> str:
        await self._first.wait()
        return self.heard[0][1]


def python(code: str, name: str = "child", stdin: str | None = None) -> Command:
    return Command(name, (sys.executable, "-c", code), os.environ, stdin)


async def test_output_and_exit_code(tmp_path: Path) -> None:
    lines = Lines()
    code = "import sys; print(input().upper()); sys.stderr.write('quietly\\n'); sys.exit(7)"
    async with Children(lines, tmp_path / "logs") as children:
        child = await children.start(python(code, "talker", stdin="hello"))
        assert await child.ended() == 7
    assert sorted(lines.heard) == [("talker", "HELLO"), ("talker", "quietly")]
    assert sorted((tmp_path / "logs" / "talker.log").read_text().split()) == ["HELLO", "quietly"]


async def test_a_signal_is_an_exit_code_as_in_a_shell() -> None:
    async with Children(Lines(), None) as children:
        child = await children.start(python("import os; os.kill(os.getpid(), 9)"))
        assert await child.ended() == 137


async def test_nothing_is_left_not_even_grandchildren() -> None:
    lines, pids = Lines(), []

    async def fail() -> None:
        async with Children(lines, None) as children:
            pids.append((await children.start(python(GRANDPARENT))).pid)
            pids.append(int(await lines.first()))
            raise RuntimeError("up fails")

    with pytest.raises(RuntimeError, match="up fails"):
        await fail()
    child, grandchild = pids
    assert not psutil.pid_exists(child)
    # Its parent is dead, so nobody may have collected it yet.
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


async def test_what_a_killed_child_left_behind_is_ended_too() -> None:
    lines = Lines()
    async with Children(lines, None) as children:
        child = await children.start(python(GRANDPARENT))
        grandchild = psutil.Process(int(await lines.first()))
        psutil.Process(child.pid).kill()
        await child.ended()
        assert grandchild.is_running()
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


async def test_asked_to_stop_then_killed() -> None:
    lines = Lines()
    async with Children(lines, None) as children:
        child = await children.start(python(STUBBORN))
        await lines.first()
        polite = await children.start(python("import signal; signal.sigwait([signal.SIGTERM])"))
        assert await children.stop([child, polite], within_s=0.5) == [child]
        assert child.exit_code == 128 + signal.SIGKILL
        assert children.alive == []


async def test_a_line_too_long_is_said_in_parts() -> None:
    lines = Lines()
    async with Children(lines, None) as children:
        child = await children.start(python("print('x' * 3_000_000); print('after', end='')"))
        await child.ended()
    assert lines.heard[-1] == ("child", "after")
    assert "".join(text for _, text in lines.heard) == "x" * 3_000_000 + "after"


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    async with Children(Lines(), None) as children:
        with pytest.raises(Unavailable, match="cannot be started"):
            await children.start(Command("ghost", (str(tmp_path / "ghost"),), {}))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
async def test_a_full_disk_costs_the_log_and_nothing_else(tmp_path: Path) -> None:
    lines = Lines()
    (tmp_path / "talker.log").symlink_to("/dev/full")
    async with Children(lines, tmp_path) as children:
        child = await children.start(python("print('one'); print('two'); print('three', end='')", "talker"))
        assert await child.ended() == 0
    complaint = f"WARNING {tmp_path / 'talker.log'} is written no longer: No space left on device"
    assert lines.heard == [("talker", text) for text in (complaint, "one", "two", "three")]


async def test_logs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with Children(Lines(), tmp_path / "file") as children:
        with pytest.raises(StorageFailed):
            await children.start(python("pass"))


OWNER = """
import asyncio, os, sys
from legion_server.up.processes import Children, Command

async def main():
    async with Children(lambda name, text: print(text, flush=True), None) as children:
        program = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
        child = await children.start(Command("child", (sys.executable, "-c", program), os.environ))
        await child.ended()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
async def test_killing_the_owner_ends_its_processes() -> None:
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    child = psutil.Process(int(await owner.stdout.readline()))
    owner.kill()
    await owner.wait()
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [child], 10)
    assert gone or child.status() == psutil.STATUS_ZOMBIE
