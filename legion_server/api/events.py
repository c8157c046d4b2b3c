"""The event stream over WebSocket."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from legion.errors import LegionError
from legion_server.api.deps import address_of, get_backend, identify
from legion_server.api.problems import response_to
from legion_server.backend import Backend

router = APIRouter()

GOING_AWAY = 1001
ABNORMAL = 1006  # closed without a word, RFC 6455, 7.1.5


@router.websocket("/ws/events")
async def follow(
    websocket: WebSocket,
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    token: Annotated[str | None, Query()] = None,
) -> None:
    """Events after number `after`, or only new ones. Without a token, without names and addresses."""
    backend = get_backend(websocket)
    scheme, _, given = websocket.headers.get("authorization", "").partition(" ")
    try:
        caller = identify(backend, given if scheme.lower() == "bearer" else token, address_of(websocket))
    except LegionError as error:
        await websocket.send_denial_response(response_to(error))
        return
    await websocket.accept()
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(_send(websocket, backend, after, private=caller.is_known))
        await _until_gone(websocket)
        sending.cancel()


async def _send(websocket: WebSocket, backend: Backend, after: int | None, *, private: bool) -> None:
    try:
        async for event in backend.events.follow(after, private=private):
            await _said(websocket.send_text(event.model_dump_json()))
        await _said(websocket.close(GOING_AWAY, "the server stops"))
    except WebSocketDisconnect:
        return  # the other task notices as well


async def _said(saying: Awaitable[None]) -> None:
    """WebSocketDisconnect when the stream is closed."""
    try:
        await saying
    except RuntimeError as error:
        # uvicorn closes a stream whose peer does not answer pings. Until a peer that sleeps agrees to the end of TLS,
        # or half a minute is over, nobody is told: only sending fails.
        raise WebSocketDisconnect(ABNORMAL) from error


async def _until_gone(websocket: WebSocket) -> None:
    """Nothing is expected from the client; what it sends is read and dropped."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
