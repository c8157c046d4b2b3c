"""What `up` asks of its server, with the admin's token, over plain HTTP on loopback."""

from typing import Any, Self

import httpx
from pydantic import TypeAdapter, ValidationError

from legion.config import RunConfig
from legion.errors import LegionError, ServerUnreachable, Unavailable, by_slug
from legion.messages import CheckpointView, DatasetManifest, InviteReply, Problem, WorkerView
from legion.reports import MetricsView
from legion.unreached import why

WORKERS: TypeAdapter[list[WorkerView]] = TypeAdapter(list[WorkerView])
CHECKPOINTS: TypeAdapter[list[CheckpointView]] = TypeAdapter(list[CheckpointView])


class Server:
    """Typed calls. ServerUnreachable while nobody listens."""

    def __init__(self) -> None:
        self.base_url = ""
        # A change of the configuration is answered once its data is prepared.
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(30.0, read=600.0), trust_env=False)

    def connect(self, base_url: str, admin_token: str) -> None:
        """Where the server is, and by what right we call."""
        self.base_url = base_url
        self._http.base_url = httpx.URL(base_url)
        self._http.headers["Authorization"] = f"Bearer {admin_token}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def configure(self, change: dict[str, Any]) -> RunConfig:
        return RunConfig.model_validate_json(await self._call("PUT", "/training/config", json=change))

    async def config(self) -> RunConfig:
        return RunConfig.model_validate_json(await self._call("GET", "/training/config"))

    async def manifest(self) -> DatasetManifest:
        return DatasetManifest.model_validate_json(await self._call("GET", "/data/manifest"))

    async def resume(self, workers: int | None) -> None:
        """The run goes back to its newest complete checkpoint and waits for `workers`; None: for as many as it had."""
        await self._call("POST", "/runs/resume", json={"workers": workers})

    async def invite(self, uses: int) -> str:
        return InviteReply.model_validate_json(await self._call("POST", "/invites", json={"uses": uses})).invite

    async def metrics(self, since: int | None = None) -> MetricsView:
        query = {} if since is None else {"since": since}
        return MetricsView.model_validate_json(await self._call("GET", "/metrics", params=query))

    async def workers(self) -> list[WorkerView]:
        return WORKERS.validate_json(await self._call("GET", "/workers"))

    async def checkpoints(self) -> list[CheckpointView]:
        return CHECKPOINTS.validate_json(await self._call("GET", "/checkpoints"))

    async def _call(self, method: str, path: str, **arguments: Any) -> bytes:
        try:
            response = await self._http.request(method, path, headers={"Accept": "application/json"}, **arguments)
        except httpx.TransportError as error:
            raise ServerUnreachable(f"{self.base_url} cannot be reached: {why(error)}") from error
        if not response.is_success:
            raise _problem(response)
        return response.content


def _problem(response: httpx.Response) -> LegionError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return Unavailable(f"{response.request.url} was answered with status {response.status_code}")
    return by_slug(problem.slug, problem.detail, hint=problem.hint)
