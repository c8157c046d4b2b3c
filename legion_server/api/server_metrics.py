"""For Prometheus: the run's figures and those of this very process, on a route that no other server answers for it."""

import asyncio
import shutil
from collections.abc import Iterator
from typing import Annotated

from cryptography import x509
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from legion_server.api.deps import Anyone, BackendDep, Caller, address_of, require_admin
from legion_server.api.metrics import TEXT, prometheus
from legion_server.api.problems import answers
from legion_server.api.request_metrics import Instruments
from legion_server.backend import Backend
from legion_server.domain import membership
from legion_server.node import Node

router = APIRouter(tags=["metrics"])


def require_watcher(request: Request, backend: BackendDep, caller: Anyone) -> Caller:
    """The admin, or whoever asks from an address that the operator has named."""
    if not caller.is_known and backend.settings.may_watch(address_of(request)):
        return caller
    return require_admin(caller)


@router.get(
    "/metrics/server",
    responses=answers(403) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
)
async def read(request: Request, backend: BackendDep, _: Annotated[Caller, Depends(require_watcher)]) -> Response:
    """Prometheus text: the run, and this process: requests, database, streams, disk, memory, whether it leads."""
    view = await backend.metrics.view(None, private=False)
    view = view.model_copy(update={"workers_doubled": backend.doubles.count})
    instruments, node = request.app.state.instruments, request.app.state.node
    assert isinstance(instruments, Instruments)
    assert isinstance(node, Node)
    run = prometheus(view, membership.summary(backend.coordinator.state.workers))
    registry = await _of_process(node, backend)
    parts = (run, *(generate_latest(one) for one in (instruments.registry, backend.database.registry, registry)))
    return Response(b"".join(parts), headers={"Content-Type": TEXT})


async def _of_process(node: Node, backend: Backend) -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    disk = await asyncio.to_thread(shutil.disk_usage, backend.settings.data_dir)
    figures = {
        "leader": ("1 where this server leads the run", float(node.leads)),
        "ready": ("1 where requests should be sent here", float(not await node.problems())),
        "disk_bytes": ("Size of the data folder's disk", float(disk.total)),
        "disk_free_bytes": ("Room on the data folder's disk", float(disk.free)),
        "events": ("Number of the newest event", float(backend.events.last)),
        "started_at_seconds": ("When this server began to answer from what it has, since 1970", backend.started_at),
        "certificate_ends_at_seconds": ("End of the HTTPS port's certificate, since 1970", _certificate_end(backend)),
    }
    registry.register(_Figures(figures))
    return registry


class _Figures:
    def __init__(self, figures: dict[str, tuple[str, float]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for name, (text, value) in self._figures.items():
            yield GaugeMetricFamily(f"legion_{name}", text, value)


def _certificate_end(backend: Backend) -> float:
    pem = backend.authority.server_certificate_file.read_bytes()
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
