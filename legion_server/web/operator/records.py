"""What the server keeps: its log, its storage, and the log of what admins did."""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from legion.errors import StorageFailed
from legion_server.api.deps import BackendDep
from legion_server.web.account import Operator
from legion_server.web.log_ring import LogRing
from legion_server.web.render import page

router = APIRouter(include_in_schema=False)

LEVELS = ("debug", "info", "warning", "error")
WHAT = {
    "blobs": "updates of rounds",
    "anchors": "newest weights",
    "checkpoints": "assembled checkpoints",
    "slices": "what members uploaded of checkpoints",
    "data": "token shards and tokenizers",
    "legion.db": "database",
    "legion.db-wal": "database, newest changes",
}


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    what: str
    size_bytes: int
    files: int


@router.get("/admin/logs", response_class=HTMLResponse)
async def logs(
    request: Request, _: Operator, level: Annotated[str, Query(pattern=f"^({'|'.join(LEVELS)})$")] = "info"
) -> HTMLResponse:
    ring = request.app.state.logs
    assert isinstance(ring, LogRing)
    return page(request, "operator/logs.html", records=ring.newest(level), level=level, levels=LEVELS)


@router.get("/admin/storage", response_class=HTMLResponse)
async def storage(request: Request, backend: BackendDep, _: Operator) -> HTMLResponse:
    settings = backend.settings
    try:
        places, disk = await asyncio.to_thread(lambda: (sizes(settings.data_dir), shutil.disk_usage(settings.data_dir)))
    except OSError as error:
        raise StorageFailed(f"the data folder cannot be read: {error.strerror}") from error
    kept = (("database", settings.database_url), ("updates", settings.blobs_url))
    return page(
        request,
        "operator/storage.html",
        places=places,
        disk=disk,
        folder=str(settings.data_dir.absolute()),
        elsewhere=[name for name, url in kept if url],
    )


@router.get("/admin/audit", response_class=HTMLResponse)
async def audit(
    request: Request, backend: BackendDep, _: Operator, before: Annotated[int | None, Query(ge=1, le=2**62)] = None
) -> HTMLResponse:
    entries, older = await backend.audit.page(before)
    return page(request, "operator/audit.html", entries=entries, older=older, before=before)


def sizes(folder: Path) -> list[Place]:
    """What lies in the data folder, the largest first. Files that go meanwhile count as nothing."""
    found = []
    for entry in sorted(folder.iterdir()):
        files = (
            [Path(root) / name for root, _, names in os.walk(entry) for name in names] if entry.is_dir() else [entry]
        )
        found.append(Place(entry.name, WHAT.get(entry.name, ""), sum(map(_size, files)), len(files)))
    return sorted(found, key=lambda place: -place.size_bytes)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
