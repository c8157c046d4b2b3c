"""For load balancers and orchestrators: whether this process lives, and whether to send anybody to it."""

from fastapi import APIRouter, Request, Response, status

from legion.errors import NotReady
from legion_server.api.problems import answers
from legion_server.node import Node

router = APIRouter(tags=["run"])


@router.get("/health/live", status_code=status.HTTP_204_NO_CONTENT, responses=answers())
async def live() -> Response:
    """Answered as long as the process answers anything."""
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get("/health/ready", status_code=status.HTTP_204_NO_CONTENT, responses=answers(503))
async def ready(request: Request) -> Response:
    """Whether to send requests here: the database answers, a leader is known, there is room on the disk.

    Else 503, with all that is wrong in `detail`.
    """
    node = request.app.state.node
    assert isinstance(node, Node)
    if problems := await node.problems():
        raise NotReady("; ".join(problems))
    return Response(status_code=status.HTTP_204_NO_CONTENT)
