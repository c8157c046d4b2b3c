"""The round being trained, and the log of those that were committed."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from legion_server.api.deps import BackendDep
from legion_server.service.metrics import figures
from legion_server.web.account import Operator
from legion_server.web.render import page

router = APIRouter(include_in_schema=False)

PAGE = 20  # rounds


@router.get("/admin/rounds", response_class=HTMLResponse)
async def rounds(
    request: Request, backend: BackendDep, _: Operator, before: Annotated[int | None, Query(ge=1, le=2**31)] = None
) -> HTMLResponse:
    """The newest PAGE records before round `before`, newest first."""
    state = backend.coordinator.state
    committed = state.rounds.committed if state.rounds else 0
    end = min(before or committed, committed)
    first = max(0, end - PAGE)
    records = await backend.store.records(first, end - first) if end > first else []
    return page(
        request,
        "operator/rounds.html",
        run=state.run,
        rounds=state.rounds,
        view=figures(state.rounds, state.run) if state.rounds else None,
        names={w.worker_id: w.label for w in state.workers.values()},
        records=[record for record in reversed(records) if record.round < end],
        older=first if first > 0 else None,
        newer=min(end + PAGE, committed) if end < committed else None,
        now=backend.clock(),
    )
