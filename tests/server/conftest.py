"""A server without a network: fake clock, data folder in tmp_path, calls through ASGI."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from fastapi import FastAPI

from legion.identity import Invite
from legion.ids import Epoch, WorkerId
from legion.keys import new_key, signing_request
from legion.messages import (
    PROTOCOL,
    Endpoint,
    Hardware,
    Heartbeat,
    ModelShape,
    TensorShape,
    UnitShape,
)
from legion_server.app import create_app
from legion_server.backend import Backend
from legion_server.domain.membership import Worker
from legion_server.settings import Settings

# How long an example takes says more of the machine's other work than of the code.
hypothesis.settings.register_profile("legion", deadline=None)
hypothesis.settings.load_profile("legion")

ADMIN_TOKEN = "an-admin-token-for-tests"
HARDWARE = Hardware(os="Linux", cpu_count=2, memory_bytes=2**30, free_disk_bytes=2**30, legion_version="0.1.0")


@dataclass
class FakeClock:
    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "server", host="127.0.0.1", port=8000, admin_token=ADMIN_TOKEN)


@pytest.fixture
def shape() -> ModelShape:
    """Three units, four chunks: at most four members."""
    sizes = (5000, 1, 4096)
    return ModelShape(
        units=tuple(
            UnitShape(name=f"unit{i}", tensors=(TensorShape(name=f"weight{i}", shape=(size,)),))
            for i, size in enumerate(sizes)
        )
    )


MakeWorker = Callable[..., Worker]


@pytest.fixture
def make_worker(shape: ModelShape) -> MakeWorker:
    """A ready worker called by a letter, which fills its id."""

    def make(letter: str, **changes: Any) -> Worker:
        fields: dict[str, Any] = {
            "worker_id": WorkerId(letter * 32),
            "name": f"pc-{letter}",
            "hardware": HARDWARE,
            "token_sha256": letter * 64,
            "enrolled_at": 0.0,
            "last_seen": 0.0,
            "certificate_until": 1e12,
            "state": "ready",
            "endpoint": Endpoint(host="10.0.0.1", port=1000),
            "shape": shape,
        }
        return Worker(**(fields | changes))

    return make


@dataclass
class Member:
    """One enrolled worker of a test, and what it says of itself."""

    http: httpx.AsyncClient
    worker_id: WorkerId
    token: str
    key: Any
    shape: ModelShape
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def beat(self, state: str, **said: Any) -> httpx.Response:
        body: dict[str, Any] = {"protocol": PROTOCOL, "state": state, "epoch": Epoch(0)}
        if state in ("ready", "training"):
            body |= {"endpoint": Endpoint(host="127.0.0.1", port=4000), "shape": self.shape}
        body |= said
        return await self.http.post(
            f"/workers/{self.worker_id}/heartbeat",
            content=Heartbeat.model_validate(body).model_dump_json(),
            headers=self.headers | {"Content-Type": "application/json"},
        )


@dataclass
class House:
    """A running server and an admin's and an anonymous client of it."""

    app: FastAPI
    admin: httpx.AsyncClient
    http: httpx.AsyncClient
    clock: FakeClock
    shape: ModelShape

    @property
    def backend(self) -> Backend:
        backend = self.app.state.backend
        assert isinstance(backend, Backend)
        return backend

    async def tick(self, after_s: float = 0.0) -> None:
        self.clock.now += after_s
        await self.backend.coordinator.tick()

    async def token(self, **body: Any) -> str:
        reply = await self.admin.post("/invites", json=body)
        return Invite.parse(reply.json()["invite"]).token

    async def enrol(self, token: str | None = None, key: Any = None, **changes: Any) -> httpx.Response:
        body = {
            "protocol": PROTOCOL,
            "token": token or await self.token(),
            "csr_pem": signing_request(key or new_key()),
            "name": "pc",
            "hardware": HARDWARE.model_dump(),
        }
        return await self.http.post("/workers", json=body | changes)

    async def join(self) -> Member:
        key = new_key()
        reply = await self.enrol(key=key)
        assert reply.status_code == 201, reply.text
        body = reply.json()
        return Member(self.http, body["worker_id"], body["token"], key, self.shape)

    async def start(self, members: int = 2, **config: Any) -> list[Member]:
        """A run in training, its members in the order of their ranks."""
        await self.configure(start={"workers": members}, **config)
        joined = sorted([await self.join() for _ in range(members)], key=lambda member: member.worker_id)
        for member in joined:
            await member.beat("ready")
        assert self.backend.coordinator.run.phase == "training"
        return joined

    async def configure(self, **change: Any) -> httpx.Response:
        text = self.backend.settings.data_dir / "text.txt"
        text.write_text("To be, or not to be, that is the question.\n" * 50)
        data = {"source": "text", "paths": [str(text)], "seq_len": 16}
        basic = {"steps": 8, "optimizer": {"warmup_steps": 0}, "data": data}
        cluster = {"policy": "one"} | change.pop("cluster", {})
        reply = await self.admin.put("/training/config", json=basic | change | {"cluster": cluster})
        assert reply.status_code == 200, reply.text
        return reply


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Let other tasks and threads go on until the condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.to_thread(lambda: None)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    return until


Close = Callable[[], Awaitable[None]]


@pytest.fixture
def open_house(shape: ModelShape) -> Callable[..., Any]:
    """Start a server on settings; the lifespan has a task of its own, as in a real server."""

    async def opened(
        settings: Settings, clock: FakeClock, **options: Any
    ) -> tuple[House, Callable[[], Awaitable[None]]]:
        app = create_app(settings, clock, **options)
        started, stop = asyncio.Event(), asyncio.Event()

        async def live() -> None:
            async with app.router.lifespan_context(app):
                started.set()
                await stop.wait()

        task = asyncio.create_task(live())
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            await task
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        http = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        admin = httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )

        async def close() -> None:
            await http.aclose()
            await admin.aclose()
            stop.set()
            await task

        return House(app, admin, http, clock, shape), close

    return opened


@pytest.fixture
async def house(settings: Settings, clock: FakeClock, open_house: Callable[..., Any]) -> AsyncIterator[House]:
    house, close = await open_house(settings, clock)
    yield house
    await close()
