"""How soon nothing is computed any more: after a pause, a program that goes first, the battery, a shutdown ...

Everything is real and on this machine: `legion-server serve` with a run in rounds, and `legion-client --no-gui` with a
volunteer's rules. The clock starts when the request is sent, the program is started, the setting is changed, SIGTERM
is, or a battery's files say so (as root: see `volunteer.battery`). It stops with the last processor time that the
engine's process used: looked at every 20 ms, until it has used next to none for 0.3 s, or is gone. Beside a busy
machine's other programs the engine, which has the lowest priority, takes longer to be heard.

python benchmarks/pausing.py [--repeats 8] [--json FILE]
"""

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
from rows import Row, parser, show, status_of
from volunteer.battery import Battery, missing
from volunteer.processes import running
from volunteer.server import client, config, reached, server

from legion.outer.state import opened
from legion_client.control.client import Control
from legion_client.control.messages import ChangeSettings, Pause, Resume, Status
from legion_client.paths import Home

LOOK_S = 0.02
QUIET_S, QUIET_CPU_S = 0.3, 0.02  # an engine that holds still answers its server now and then
LONGEST_S = 240.0
PROGRAM = "agamefortests"
# As on a machine of its own: what else this one does is no matter of this benchmark.
RULES = {
    "memory.in_use_percent": 100,
    "disk.least_free_gb": 0,
    "programs.exclusive": [PROGRAM],
}


class Volunteer:
    """Of an agent in another process."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self.control = Control(self.home)

    async def sees(self, test: Callable[[Status], bool]) -> Status:
        async with asyncio.timeout(LONGEST_S):
            async for told in self.control.follow():
                if isinstance(told, Status) and test(told):
                    return told
        raise RuntimeError("the agent tells nothing more")

    async def engine(self) -> psutil.Process:
        """One that trains: it has made a step."""
        await self.sees(lambda status: status.face == "training" and status.tokens_per_s > 0)
        agent = next(p for p in psutil.process_iter(["cmdline"]) if str(self.home.root) in (p.info["cmdline"] or ()))
        return next(p for p in agent.children() if "legion_client.engine" in " ".join(p.cmdline()))


async def still_after(engine: psutil.Process, began: float) -> float:
    """Seconds from `began` to the last processor time that it used."""
    at_last, last = _cpu_s(engine), time.perf_counter()
    while time.perf_counter() - last < QUIET_S:
        await asyncio.sleep(LOOK_S)
        used = _cpu_s(engine)
        if used == float("inf"):
            break
        if used - at_last > QUIET_CPU_S:
            last, at_last = time.perf_counter(), used
        if time.perf_counter() - began > LONGEST_S:
            raise RuntimeError("the engine computes on and on")
    return max(0.0, last - began)


def _cpu_s(engine: psutil.Process) -> float:
    """Infinity once it is gone."""
    try:
        times = engine.cpu_times()
    except psutil.Error:
        return float("inf")
    return float(times.user + times.system)


@contextlib.asynccontextmanager
async def by_hand(volunteer: Volunteer) -> AsyncIterator[None]:
    await volunteer.control.request(Pause())
    yield
    await volunteer.control.request(Resume())


@contextlib.asynccontextmanager
async def by_program(volunteer: Volunteer) -> AsyncIterator[None]:
    program = volunteer.home.root.parent / PROGRAM
    if not program.exists():
        program.symlink_to("/bin/sleep")
    playing = await asyncio.create_subprocess_exec(program, "600")
    try:
        yield
    finally:
        playing.kill()
        await playing.wait()


@contextlib.asynccontextmanager
async def by_schedule(volunteer: Volunteer) -> AsyncIterator[None]:
    days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    never: dict[str, object] = {f"schedule.{day}": [] for day in days}
    await volunteer.control.request(ChangeSettings(values=never | {"schedule.enabled": True}))
    yield
    await volunteer.control.request(ChangeSettings(values={"schedule.enabled": False}))


def by_battery(battery: Battery) -> "Cause":
    @contextlib.asynccontextmanager
    async def unplugged(_: Volunteer) -> AsyncIterator[None]:
        battery.plug(False)
        yield
        battery.plug(True)

    return unplugged


async def memory_back(volunteer: Volunteer, repeats: int) -> list[float]:
    """Seconds until the engine is gone, of a pause that leaves it nothing to do."""
    taken = []
    for _ in range(repeats):
        engine, began = await volunteer.engine(), time.perf_counter()
        await volunteer.control.request(ChangeSettings(values={"modes.network": "never"}))
        await asyncio.to_thread(engine.wait)
        taken.append(time.perf_counter() - began)
        await volunteer.control.request(ChangeSettings(values={"modes.network": None}))
    return taken


Cause = Callable[[Volunteer], contextlib.AbstractAsyncContextManager[None]]


async def stills(volunteer: Volunteer, cause: Cause, repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        engine = await volunteer.engine()
        began = time.perf_counter()
        async with cause(volunteer):
            taken.append(await still_after(engine, began))
            await volunteer.sees(lambda status: status.face in ("paused", "waiting"))
    return taken


async def measured(volunteer: Volunteer, battery: Battery | None, repeats: int, end: Callable[[], None]) -> list[Row]:
    await volunteer.control.request(ChangeSettings(values={"programs.resume_after_s": 0}))
    found = [row("pause by hand", await stills(volunteer, by_hand, repeats), 2.0)]
    few = max(2, repeats // 3)
    found.append(row("another schedule", await stills(volunteer, by_schedule, few), 3.0))
    found.append(row("a program that goes first", await stills(volunteer, by_program, few), 3.0))
    if battery is not None:
        found.append(row("the battery", await stills(volunteer, by_battery(battery), few), 3.0))
    gone = await memory_back(volunteer, few)
    note = f"median {statistics.median(gone):.2f} of {len(gone)}; its process is gone"
    found.append(Row("a pause that asks for the memory: longest until it is back", max(gone), "s", "<= 5", note))
    await volunteer.control.request(ChangeSettings(values={"programs.resume_after_s": None}))
    await volunteer.engine()
    async with by_program(volunteer):
        await volunteer.sees(lambda status: status.face == "waiting")
    began = time.perf_counter()
    await volunteer.sees(lambda status: status.face not in ("waiting", "paused"))
    found.append(Row("quiet before training goes on", time.perf_counter() - began, "s", ">= 60", "by default"))
    engine, began = await volunteer.engine(), time.perf_counter()
    await asyncio.to_thread(end)
    await asyncio.to_thread(engine.wait)
    kept_s = time.perf_counter() - began
    with opened(volunteer.home.local_state) as kept:
        kept.check()
        note = f"whole, {kept.info.steps} steps of this round in it"
    found.append(Row("SIGTERM to the state of the round on disk", kept_s, "s", "<= 5", note))
    return found


def row(name: str, taken: list[float], bar: float) -> Row:
    note = f"median {statistics.median(taken):.2f} of {len(taken)}; load {os.getloadavg()[0]:.1f}"
    return Row(f"{name}: longest to no more compute", max(taken), "s", f"<= {bar:g}", note)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=8)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        run = ends.enter_context(server(folder / "server"))
        run.configure(config(1, rounds={"steps": 400, "grace_s": 2.0}))
        home, invite = folder / "home", folder / "invite.txt"
        invite.write_text(run.invite())
        client(home, "setup", "--yes", "--preset", "full", "--join", str(invite))
        for setting, value in RULES.items():
            text = ",".join(value) if isinstance(value, list) else str(value)
            client(home, "settings", "set", f"{setting}={text}")
        command = [sys.executable, "-m", "legion_client", "--home", str(home), "--no-gui"]
        battery = None
        if reason := missing():
            print(f"Without the battery: {reason}.", file=sys.stderr)
        else:
            battery = Battery(folder / "power_supply")
            command = battery.seen_by(command)
        agent = ends.enter_context(running(command, dict(os.environ)))
        reached(home, "training")
        rows = asyncio.run(measured(Volunteer(home), battery, options.repeats, agent.terminate))
    return show("From the request to no more compute", rows, options.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
