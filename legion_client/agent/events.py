"""The server's event stream. It only makes things faster: every fact in it also comes with the next heartbeat."""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from legion.messages import Event
from legion_client.agent.backoff import pauses, retry_after_s

logger = logging.getLogger(__name__)

OPEN_S = 10.0
pause = asyncio.sleep


async def follow(
    base_url: str,
    context: ssl.SSLContext | None,
    token: str,
    on_event: Callable[[Event], None],
    counted: Callable[[int], None] = lambda _size_bytes: None,
) -> None:
    """Calls `on_event` for every event until cancelled, each number once; lost connections are made again.

    `counted` hears of the size of every message.
    """
    url = base_url.replace("http", "ws", 1) + "/ws/events"
    waits = pauses()
    last: int | None = None
    while True:
        asked_s: float | None = None
        query = "" if last is None else f"?after={last}"
        try:
            connecting = connect(
                url + query,
                ssl=context,
                additional_headers={"Authorization": f"Bearer {token}"},
                open_timeout=OPEN_S,
                proxy=None,
            )
            async with _closed_for_certain(connecting) as socket:
                async for text in socket:
                    waits = pauses()  # not before: one that takes connections and drops them is in trouble too
                    counted(len(text))
                    event = Event.model_validate_json(text)
                    # A gap may lead back: a server that lost its database counts anew.
                    if last is None or event.number > last or event.type == "gap":
                        last = event.number
                        on_event(event)
        except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
            logger.debug("event stream lost reason=%s", error)
            if isinstance(error, InvalidStatus):
                asked_s = retry_after_s(error.response.headers, time.time())
        except (ValidationError, InvalidURI) as error:
            logger.warning("event stream is of no use, going on by heartbeats alone reason=%s", error)
            return
        await pause((asked_s or 0.0) + next(waits))


@asynccontextmanager
async def _closed_for_certain(connecting: connect) -> AsyncIterator[ClientConnection]:
    """By its handshake; at once if that is cancelled too: a socket that waits for its peer would outlive its loop."""
    socket = await connecting
    try:
        yield socket
    finally:
        try:
            await socket.close()
        finally:
            socket.transport.abort()
