"""The statistics export, for programs that draw and compare."""

from email.utils import formatdate, parsedate_to_datetime

from fastapi import APIRouter, Request, Response, status
from fastapi.responses import FileResponse

from legion.accounts import Board
from legion_server.api.deps import BackendDep
from legion_server.api.problems import Responses, answers
from legion_server.service.statistics import FRESH_S, Export

router = APIRouter(tags=["boards"])

GZIP = {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}
FILE: Responses = {
    200: {"content": GZIP, "description": "The whole file"},
    206: {"content": GZIP, "description": "The range that was asked for"},
    304: {"description": "It is the one that If-None-Match or If-Modified-Since names"},
    416: {"description": "The range lies outside the file"},
}


@router.get("/export/{board}.jsonl.gz", response_class=FileResponse, responses=answers(507) | FILE)
async def export(request: Request, board: Board, backend: BackendDep) -> Response:
    """Who agreed to be in the statistics, a JSON object a line, made at most every 15 minutes."""
    found = await backend.statistics.newest(board)
    headers = {
        "ETag": f'"{found.etag}"',
        "Last-Modified": formatdate(found.made_at, usegmt=True),
        "Cache-Control": f"public, max-age={FRESH_S:.0f}",
    }
    if _has_it(request, found):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return FileResponse(found.path, media_type="application/gzip", headers=headers)


def _has_it(request: Request, found: Export) -> bool:
    """RFC 9110, 13.2.2: where there is If-None-Match, the date does not count."""
    if (tags := request.headers.get("if-none-match")) is not None:
        known = {tag.strip().removeprefix("W/").strip('"') for tag in tags.split(",")}
        return found.etag in known or "*" in known
    try:
        since = parsedate_to_datetime(request.headers.get("if-modified-since", ""))
        return int(found.made_at) <= since.timestamp()
    except (ValueError, OverflowError):
        return False
