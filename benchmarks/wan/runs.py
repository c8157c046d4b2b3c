"""A whole run of the real programs: the server, and clients that join it, each in a place of its own."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from legion.errors import RunError
from legion.messages import WorkerView
from legion.rounds import RoundPlan, RoundRecord, RoundsPage
from legion_server.up.processes import Child, Children, Command
from legion_server.up.server import Server
from wan.network import Carried

T = TypeVar("T")
POLL_S = 0.05
FAREWELL_S = 60.0


class Stage(Protocol):
    """Where the computers are: those of the clients, and the server's as the last."""

    @property
    def addresses(self) -> Sequence[str]: ...

    @property
    def worker_port(self) -> int: ...

    @property
    def server_port(self) -> int: ...

    @property
    def observer(self) -> str | None:
        """The address that whoever looks on has to call from, so as not to be counted."""

    @property
    def tells_callers(self) -> bool:
        """Whether `source` and `target` say which worker called another."""

    def command(self, place: int, program: Sequence[str]) -> tuple[str, ...]: ...

    def beside_server(self, call: Callable[[], T]) -> T:
        """`call()`, and processes that it starts, where the server's loopback is."""

    def carried(self) -> Sequence[Carried]:
        """So far."""


@dataclass
class Course:
    """What happened. Times are s since 1970."""

    began_at: float = 0.0  # the first plan, as far as polling tells
    plans: list[RoundPlan] = field(default_factory=list)
    records: list[RoundRecord] = field(default_factory=list)
    carried: list[Sequence[Carried]] = field(default_factory=list)  # when each record was seen
    addresses: dict[str, str] = field(default_factory=dict)  # by worker


def train(stage: Stage, folder: Path, change: Mapping[str, Any], patience_s: float, *, patch: str = "") -> Course:
    """A run with a client at every place but the last. RunError when it does not complete.

    `patch`: run by every engine's process before anything else.
    """
    return stage.beside_server(lambda: asyncio.run(_train(stage, folder, change, patience_s, patch)))


async def _train(stage: Stage, folder: Path, change: Mapping[str, Any], patience_s: float, patch: str) -> Course:
    said: list[str] = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEGION_")}
    environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    workers = len(stage.addresses) - 1
    async with Children(lambda name, line: said.append(f"{name} {line}"), None) as children, Server() as server:
        await children.start(_server_command(stage, folder, environment))
        ready = folder / "ready"
        async with asyncio.timeout(patience_s):
            while not ready.exists():  # noqa: ASYNC110  another process writes it
                await asyncio.sleep(POLL_S)
        token = (folder / "server" / "admin-token").read_text().strip()
        server.connect(f"http://127.0.0.1:{stage.server_port}", token)
        await server.configure(dict(change))
        invite = await server.invite(workers)
        if patch:
            environment = _patched(environment, folder / "patch", patch)
        clients = [
            await children.start(_client_command(stage, folder, place, environment, invite)) for place in range(workers)
        ]
        try:
            async with asyncio.timeout(patience_s):
                course = await _followed(stage, server, token, clients)
        except TimeoutError:
            raise RunError(f"the run was not over in {patience_s:.0f} s:\n" + "\n".join(said[-40:])) from None
        except RunError as error:
            raise RunError(f"{error}:\n" + "\n".join(said[-40:])) from None
        async with asyncio.timeout(FAREWELL_S):
            await asyncio.gather(*(client.ended() for client in clients))
        return course


def _patched(environment: Mapping[str, str], folder: Path, patch: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(patch)
    before = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), before)))}


def _server_command(stage: Stage, folder: Path, environment: Mapping[str, str]) -> Command:
    arguments = ["serve", "--data-dir", str(folder / "server"), "--host", "0.0.0.0"]
    arguments += ["--port", str(stage.server_port), "--public-host", stage.addresses[-1]]
    program = (sys.executable, "-m", "legion_server", *arguments, "--ready-file", str(folder / "ready"))
    return Command("server", program, environment)


def _client_command(stage: Stage, folder: Path, place: int, environment: Mapping[str, str], invite: str) -> Command:
    name = f"worker-{place}"
    arguments = ["--no-gui", "--join", "-", "--home", str(folder / name), "--name", name]
    arguments += ["--listen", stage.addresses[place], "--port", str(stage.worker_port)]
    program = stage.command(place, (sys.executable, "-m", "legion_client", *arguments))
    return Command(name, program, environment, stdin=invite)


async def _followed(stage: Stage, server: Server, token: str, clients: Sequence[Child]) -> Course:
    """Until the last round is committed."""
    course, rounds = Course(), (await server.config()).round_count
    headers = {"Authorization": f"Bearer {token}"}
    transport = httpx.AsyncHTTPTransport(local_address=stage.observer)
    async with httpx.AsyncClient(base_url=server.base_url, headers=headers, transport=transport) as http:
        while len(course.records) < rounds:
            ended = [client for client in clients if client.exit_code is not None]
            if ended:
                raise RunError(f"{ended[0].name} ended with exit code {ended[0].exit_code}")
            answer = await http.get(f"/training/rounds?since={len(course.records)}&limit=64")
            if answer.is_success:
                await _heed(stage, server, course, RoundsPage.model_validate_json(answer.content))
            await asyncio.sleep(POLL_S)
    return course


async def _heed(stage: Stage, server: Server, course: Course, page: RoundsPage) -> None:
    if page.plans and not course.plans:
        course.began_at = time.time()
        views: list[WorkerView] = await server.workers()
        course.addresses = {view.worker_id: view.endpoint.host for view in views if view.endpoint}
    known = {plan.round for plan in course.plans}
    course.plans += [plan for plan in page.plans if plan.round not in known]
    if page.records:
        carried = await asyncio.to_thread(stage.carried)
        course.records += page.records
        course.carried += [carried] * len(page.records)
