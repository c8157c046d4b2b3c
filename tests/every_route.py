"""Every route that the server has, REST, pages and WebSocket, and a path for each."""

import re
from typing import Any

from fastapi.routing import APIWebSocketRoute

from legion_server.app import create_app
from legion_server.settings import Settings


def routes(router: Any = None) -> set[tuple[str, str]]:
    """Methods and templates; also of routers within routers, which FastAPI keeps as they are."""
    found = set()
    for route in (router or create_app(Settings())).routes:
        if isinstance(route, APIWebSocketRoute):
            found.add(("WS", route.path))
        elif hasattr(route, "original_router"):
            found |= routes(route.original_router)
        else:
            found |= {(method, route.path) for method in route.methods if method != "HEAD"}
    return found


def filled(path: str, own: str | None = None) -> str:
    """A template's path, for the caller with this id where it names one."""
    values = {
        "worker_id": own or "a" * 32,
        "relay_id": own or "b" * 32,
        "sha256": "c" * 64,
        "round": "0",
        "step": "1",
        "rank": "0",
        "name": "config.json",
        "digest": "0",
        "known_by": "c" * 64,
        "number": "1",
        "board": "volunteers",
        "action": "pause",
    }
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], "x"), path)
