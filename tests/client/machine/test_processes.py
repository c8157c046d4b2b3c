"""Real processes of this computer, started and ended by the tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from legion_client.machine.processes import OLD_SHARE, YOUNG_S, Processes, load_of_others, program_name

Start = Callable[..., "subprocess.Popen[bytes]"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program that waits for its input to end."""
    with ExitStack() as stack:

        def run(*command: str) -> "subprocess.Popen[bytes]":
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            return process

        yield run


def named(folder: Path, name: str) -> str:
    cat = shutil.which("cat")
    assert cat is not None
    shutil.copy(cat, folder / name)
    return str(folder / name)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.communicate()


def test_program_is_seen_from_the_next_reading_until_it_ends(tmp_path: Path, start: Start) -> None:
    processes = Processes()
    assert "legion-game" not in processes.read().programs
    game = start(named(tmp_path, "Legion-Game.exe"))
    assert "legion-game" in processes.read().programs
    end(game)
    assert "legion-game" not in processes.read().programs


def test_starter_that_becomes_a_game_is_seen(tmp_path: Path, start: Start) -> None:
    """The process is the same and so is its number; only the program in it is another."""
    game = named(tmp_path, "late-game")
    processes, clock = Processes(clock := Clock()), clock
    processes.read()
    starter = start("/bin/sh", "-c", f"read line; exec {game}")
    assert "late-game" not in processes.read().programs
    assert starter.stdin is not None
    starter.stdin.write(b"go\n")
    starter.stdin.flush()
    while psutil.Process(starter.pid).name() != "late-game":
        pass
    assert "late-game" in processes.read().programs


def test_old_starter_that_becomes_a_game_is_seen_within_a_turn(tmp_path: Path, start: Start) -> None:
    game = named(tmp_path, "later-game")
    starter = start("/bin/sh", "-c", f"read line; exec {game}")
    clock = Clock()
    processes = Processes(clock)
    processes.read()
    clock.now = 2 * YOUNG_S
    assert starter.stdin is not None
    starter.stdin.write(b"go\n")
    starter.stdin.flush()
    while psutil.Process(starter.pid).name() != "later-game":
        pass
    assert "later-game" in set[str]().union(*(processes.read().programs for _ in range(OLD_SHARE)))


def test_our_engine_and_its_children_are_ours_and_nobody_else(start: Start) -> None:
    processes = Processes()
    processes.read()
    script = "import subprocess, sys; child = subprocess.Popen(['cat']); print(child.pid, flush=True); child.wait()"
    engine = start(sys.executable, "-c", script)
    assert engine.stdout is not None
    child = int(engine.stdout.readline())
    activity = processes.read()
    assert processes.own_pids >= {os.getpid(), engine.pid, child}
    assert os.getppid() not in processes.own_pids
    assert activity.engine_memory_bytes is not None
    assert activity.engine_memory_bytes > 2**20
    end(engine)
    assert processes.own_pids >= {engine.pid}  # as of the last reading
    later = processes.read()
    assert processes.own_pids.isdisjoint({engine.pid, child})
    assert later.engine_memory_bytes is not None  # what it held last


def test_work_of_ours_is_not_load_of_others() -> None:
    """Whatever else runs on this computer: others cannot have used more than all did without what we did."""
    processes = Processes()
    system, me = psutil.cpu_times(), psutil.Process()
    before_s = sum(me.cpu_times()[:2])
    assert processes.read().load_of_others is None
    while (ours_s := sum(me.cpu_times()[:2]) - before_s) < 0.5:
        sum(range(10_000))
    activity = processes.read()
    all_s = sum(psutil.cpu_times()[:8]) - sum(system[:8])
    assert activity.load_of_others is not None
    assert 0 <= activity.load_of_others <= (all_s - 0.7 * ours_s) / all_s
    assert 0 < activity.memory_of_others_bytes < activity.memory_bytes


def test_process_that_ends_while_we_look_is_left_out() -> None:
    processes = Processes(pids=lambda: [os.getpid(), 2**22 + 1])
    assert len(processes.read().programs) == 1


@pytest.mark.parametrize(
    ("before", "after", "load"),
    [
        ((0, 0, 0), (10, 4, 2), 0.4),
        ((5, 5, 5), (5, 5, 5), None),
        ((5, 5, 5), (4, 4, 4), None),  # counters that start anew
        ((0, 0, 0), (10, 0, 0), 1.0),
        ((0, 0, 0), (10, 9, 4), 0.0),  # we and the system count in different ticks
        ((0, 9, 0), (10, 8, 0), 1.0),  # a waiting time that the kernel takes back
        ((0, 0, 9), (10, 5, 0), 0.5),  # our engine has ended
    ],
)
def test_load_of_others(
    before: tuple[float, float, float], after: tuple[float, float, float], load: float | None
) -> None:
    assert load_of_others(before, after) == load


def test_names_are_as_people_write_them() -> None:
    assert [program_name(name) for name in ("Steam.EXE", "obs", "a.exe.exe")] == ["steam", "obs", "a.exe"]
