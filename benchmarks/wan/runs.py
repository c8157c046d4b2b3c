"""A whole run of the real programs, each computer in a namespace of its own: the server, and clients that join it."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from legion.errors import RunError
from legion.messages import WorkerView
from legion.rounds import RoundPlan, RoundRecord, RoundsPage
from legion_server.up.processes import Child, Children, Command
from legion_server.up.server import Server
from wan.network import Carried, Net

ENTER = Path(__file__).with_name("enter.py")
SERVER_PORT, WORKER_PORT = 8000, 7000  # each in a namespace where nobody else is
POLL_S = 0.05
FAREWELL_S = 60.0


@dataclass
class Course:
    """What happened. Times are s since 1970."""

    began_at: float = 0.0  # the first plan, as far as polling tells
    plans: list[RoundPlan] = field(default_factory=list)
    records: list[RoundRecord] = field(default_factory=list)
    carried: list[Sequence[Carried]] = field(default_factory=list)  # when each record was seen
    addresses: dict[str, str] = field(default_factory=dict)  # by worker


def train(net: Net, folder: Path, change: Mapping[str, Any], patience_s: float, *, patch: str = "") -> Course:
    """A run with a client at every site but the last, which is the server's. RunError when it does not complete.

    `patch`: run by every engine's process before anything else.
    """
    return net.sites[-1].run(lambda: asyncio.run(_train(net, folder, change, patience_s, patch)))


async def _train(net: Net, folder: Path, change: Mapping[str, Any], patience_s: float, patch: str) -> Course:
    said: list[str] = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEGION_")}
    environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    async with Children(lambda name, line: said.append(f"{name} {line}"), None) as children, Server() as server:
        await children.start(_server_command(net, folder, environment))
        ready = folder / "ready"
        async with asyncio.timeout(patience_s):
            while not ready.exists():  # noqa: ASYNC110  another process writes it
                await asyncio.sleep(POLL_S)
        token = (folder / "server" / "admin-token").read_text().strip()
        server.connect(f"http://127.0.0.1:{SERVER_PORT}", token)
        await server.configure(dict(change))
        invite = await server.invite(len(net.sites) - 1)
        if patch:
            (folder / "patch").mkdir()
            (folder / "patch" / "sitecustomize.py").write_text(patch)
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, (str(folder / "patch"), environment.get("PYTHONPATH")))
            )
        clients = [
            await children.start(_client_command(net, folder, place, environment, invite))
            for place in range(len(net.sites) - 1)
        ]
        try:
            async with asyncio.timeout(patience_s):
                course = await _followed(net, server, token, clients)
        except TimeoutError:
            raise RunError(f"the run was not over in {patience_s:.0f} s:\n" + "\n".join(said[-40:])) from None
        except RunError as error:
            raise RunError(f"{error}:\n" + "\n".join(said[-40:])) from None
        async with asyncio.timeout(FAREWELL_S):
            await asyncio.gather(*(client.ended() for client in clients))
        return course


def _server_command(net: Net, folder: Path, environment: Mapping[str, str]) -> Command:
    arguments = ["serve", "--data-dir", str(folder / "server"), "--host", "0.0.0.0", "--port", str(SERVER_PORT)]
    arguments += ["--public-host", net.sites[-1].address, "--ready-file", str(folder / "ready")]
    return Command("server", (sys.executable, "-m", "legion_server", *arguments), environment)


def _client_command(net: Net, folder: Path, place: int, environment: Mapping[str, str], invite: str) -> Command:
    namespace = f"/proc/{os.getpid()}/fd/{net.sites[place].descriptor}"
    arguments = ["--no-gui", "--join", "-", "--home", str(folder / f"worker-{place}"), "--port", str(WORKER_PORT)]
    program = (sys.executable, "-m", "legion_client", *arguments, "--name", f"worker-{place}")
    return Command(f"worker-{place}", (sys.executable, str(ENTER), namespace, *program), environment, stdin=invite)


async def _followed(net: Net, server: Server, token: str, clients: Sequence[Child]) -> Course:
    """Until the last round is committed."""
    course, rounds = Course(), (await server.config()).round_count
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.base_url, headers=headers, trust_env=False) as http:
        while len(course.records) < rounds:
            ended = [client for client in clients if client.exit_code is not None]
            if ended:
                raise RunError(f"{ended[0].name} ended with exit code {ended[0].exit_code}")
            answer = await http.get(f"/training/rounds?since={len(course.records)}&limit=64")
            if answer.is_success:
                await _heed(net, server, course, RoundsPage.model_validate_json(answer.content))
            await asyncio.sleep(POLL_S)
    return course


async def _heed(net: Net, server: Server, course: Course, page: RoundsPage) -> None:
    if page.plans and not course.plans:
        course.began_at = time.time()
        views: list[WorkerView] = await server.workers()
        course.addresses = {view.worker_id: view.endpoint.host for view in views if view.endpoint}
    known = {plan.round for plan in course.plans}
    course.plans += [plan for plan in page.plans if plan.round not in known]
    if page.records:
        carried = await asyncio.to_thread(net.carried)
        course.records += page.records
        course.carried += [carried] * len(page.records)
