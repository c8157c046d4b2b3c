"""A server and its workers as processes of their own on this machine, each a cluster, each with its own codec."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from legion.errors import NotFound
from legion.messages import WorkerView
from legion.reports import MetricsView
from legion.rounds import RoundPlan, RoundRecord, RoundsPage
from legion_server.client import call
from legion_server.settings import Settings
from legion_server.up.processes import Child, Children, Command, kill_all

POLL_S = 0.2
FAREWELL_S = 120.0  # for workers to end once the run is complete
ENGINE = "legion_client.engine"
_PATCH = Path(__file__).parent / "engine"


@dataclass(slots=True)
class Worker:
    """One volunteer's computer. `child` is its newest client; `asleep`: stopped by us; `behind`: of low priority."""

    name: str
    home: Path
    codec: str
    child: Child
    worker_id: str = ""
    asleep: bool = False
    behind: bool = False
    starts: int = 1

    @property
    def roots_file(self) -> Path:
        return self.home.with_suffix(".roots")

    @property
    def engines(self) -> list[psutil.Process]:
        """One, if it is up."""
        found = []
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):  # nor is a zombie up
                if ENGINE in process.cmdline():
                    found.append(process)
        return found

    @property
    def _family(self) -> list[psutil.Process]:
        """The client and what it started, as far as they live."""
        try:
            client = psutil.Process(self.child.pid)
            return [client, *client.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def send(self, number: signal.Signals) -> None:
        """To the client and its engine."""
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        self.asleep = number == signal.SIGSTOP

    def kill_engine(self) -> None:
        """kill -9."""
        for process in self.engines:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill(self) -> None:
        """kill -9 of the client and all it started."""
        kill_all([self.child.pid])

    def catch_up(self) -> None:
        """What was started behind the others is one of them again; needs root."""
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                for thread in process.threads():
                    os.setpriority(os.PRIO_PROCESS, thread.id, 0)
        self.behind = False

    def roots(self) -> list[tuple[int, str]]:
        """Round and root of every anchor that it has reached, in order, those of former engines included."""
        return [(entry["round"], entry["root"]) for entry in self.notes()]

    def notes(self) -> list[dict[str, Any]]:
        """What its engines held at each anchor: `pid`, `rss_bytes`, `descriptors`, `tasks`."""
        return _noted(self.roots_file)

    def steps(self) -> list[dict[str, Any]]:
        """What its engines noted, with `at` and `pid`: `step` for one committed; `broken` for a plan that ended so;
        `gone` for clusters that nobody need wait for; `round`, `reducers`, `clusters` (by worker) for a round's plan.
        """
        return _noted(self.home.with_suffix(".steps"))

    def holds(self) -> list[dict[str, Any]]:
        """What its clients held, every second: `at` and as in `notes`."""
        return _noted(self.home.with_suffix(".holds"))


class Site:
    """`open` once; all processes are the `children`'s, which end them."""

    def __init__(self, folder: Path, children: Children, step_s: float = 0.0, *, behind: bool = False) -> None:
        """`step_s`: what a step takes at least, by sleeping, so that shared cores do not pass for lost time.

        `behind`: who is started again stands for another computer, and gets the cores that the others leave it until it
        is told to `catch_up`.
        """
        self._folder = folder
        self._children = children
        self._step_s = step_s
        self._behind = behind
        self._settings = Settings.model_construct(data_dir=folder / "server")
        self._port = 0
        self.server: Child | None = None
        self.workers: list[Worker] = []

    async def open(self, config: dict[str, Any]) -> None:
        """The server, with a run that waits for workers."""
        await self.start_server()
        await self._ask("PUT", "/training/config", json=config)

    async def start_server(self) -> None:
        """On the port that it had before, if it had one."""
        ready = self._folder / "server.ready"
        ready.unlink(missing_ok=True)
        arguments = ["serve", "--data-dir", str(self._settings.data_dir), "--host", "127.0.0.1"]
        arguments += ["--port", str(self._port), "--ready-file", str(ready)]
        own = {"PYTHONPATH": _patched_path(), "DISTURBED_HOLDS": str(self._folder / "server.holds")}
        server = await self._children.start(
            Command("server", _python("legion_server", *arguments), _environment() | own)
        )
        while not ready.exists():
            if server.exit_code is not None:
                raise RuntimeError(f"the server ended with exit code {server.exit_code}: {self.log('server')}")
            await asyncio.sleep(POLL_S)
        self._port, self.server = int(ready.read_text().split()[1]), server

    async def kill_server(self) -> None:
        """kill -9."""
        assert self.server is not None
        kill_all([self.server.pid])
        await self.server.ended()

    async def join(self, codec: str) -> Worker:
        """One more worker is on its way."""
        invite = json.loads(await self._ask("POST", "/invites", json={}))["invite"]
        name = f"worker-{len(self.workers) + 1}"
        home = self._folder / name
        child = await self._children.start(_client(name, home, codec, invite, self._step_s))
        self.workers.append(Worker(name, home, codec, child))
        return self.workers[-1]

    async def planned(self) -> RoundPlan:
        """The first plan that has all workers in it; from then on they know their ids."""
        while True:
            await self.revive()
            plan = await self.plan()
            if plan is not None and len(plan.workers) == len(self.workers):
                ids = {view.name: view.worker_id for view in await self._views()}
                for worker in self.workers:
                    worker.worker_id = ids[worker.name]
                return plan
            await asyncio.sleep(POLL_S)

    async def revive(self) -> None:
        """Whoever ended for another reason than the run's end is started again, with the same home."""
        for worker in self.workers:
            if worker.child.exit_code:
                await self.restart(worker)

    async def restart(self, worker: Worker) -> None:
        """With the same home."""
        client = _client(worker.name, worker.home, worker.codec, None, self._step_s)
        if self._behind:
            client = replace(client, arguments=("nice", "-n", "15", *client.arguments))
        worker.child = await self._children.start(client)
        worker.behind = self._behind
        worker.starts += 1

    async def complete(self) -> bool:
        """RuntimeError when the run will never be."""
        view = await self.metrics()
        if view.phase == "failed":
            raise RuntimeError(f"the run failed: {view.failure}")
        return view.phase == "complete"

    async def farewell(self) -> None:
        """Until every client has ended, with what it had to say delivered; those that do not end are left out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                for worker in self.workers:
                    await worker.child.ended()

    async def leave(self) -> None:
        """All clients are asked to end."""
        await self._children.stop([worker.child for worker in self.workers], FAREWELL_S)

    # What the server says.

    async def metrics(self) -> MetricsView:
        return MetricsView.model_validate_json(await self._ask("GET", "/metrics"))

    async def plan(self) -> RoundPlan | None:
        """Of the round being trained, if there is one."""
        try:
            return RoundPlan.model_validate_json(await self._ask("GET", "/training/rounds/plan"))
        except NotFound:
            return None

    async def log_since(self, since: int) -> tuple[list[RoundRecord], dict[int, RoundPlan]]:
        """Records from `since` on, and plans by round, in their newest revisions."""
        records: list[RoundRecord] = []
        plans: dict[int, RoundPlan] = {}
        while True:
            query = {"since": since, "limit": 64}
            page = RoundsPage.model_validate_json(await self._ask("GET", "/training/rounds", params=query))
            plans |= {plan.round: plan for plan in page.plans}
            if not page.records:
                return records, plans
            records += page.records
            since = page.records[-1].round + 1

    async def _views(self) -> list[WorkerView]:
        return [WorkerView.model_validate(view) for view in json.loads(await self._ask("GET", "/workers"))]

    async def _ask(self, method: str, path: str, **arguments: Any) -> bytes:
        return await asyncio.to_thread(call, self._settings, method, path, **arguments)

    # What processes wrote.

    def holds(self) -> list[dict[str, Any]]:
        """What the server held; see `Worker.holds`."""
        return _noted(self._folder / "server.holds")

    def log(self, name: str) -> str:
        return (self._folder / "logs" / f"{name}.log").read_text()


def _noted(file: Path) -> list[dict[str, Any]]:
    """Whole lines: whoever writes may be killed in the middle of one."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _client(name: str, home: Path, codec: str, invite: str | None, step_s: float) -> Command:
    """The invite goes in by standard input, once; later the home has an enrolment."""
    arguments = ["--no-gui", "--home", str(home), "--name", name, *(["--join", "-"] if invite else [])]
    own = {"PYTHONPATH": _patched_path(), "DISTURBED_CODEC": codec, "DISTURBED_ROOTS": str(home.with_suffix(".roots"))}
    own |= {"DISTURBED_STEPS": str(home.with_suffix(".steps")), "DISTURBED_HOLDS": str(home.with_suffix(".holds"))}
    own["DISTURBED_STEP_S"] = str(step_s)
    return Command(name, _python("legion_client", *arguments), _environment() | own, stdin=invite)


def _patched_path() -> str:
    return os.pathsep.join(filter(None, (str(_PATCH), os.environ.get("PYTHONPATH"))))


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _environment() -> dict[str, str]:
    """Ours without the settings of another server or client."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("LEGION_")}
    return own | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
