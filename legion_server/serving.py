"""A server process from start to end."""

import asyncio
import contextlib
import logging
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from legion.errors import LegionError, StorageFailed
from legion.identity import server_context, write_private
from legion_server import allocator
from legion_server.app import create_app
from legion_server.backend import Backend, make_data_dir
from legion_server.node import Node
from legion_server.settings import Settings
from legion_server.transport import Server, listen

logger = logging.getLogger(__name__)

# The first byte of a connection is awaited with add_reader, which Windows' default loop does not have.
LOOP = asyncio.SelectorEventLoop if sys.platform == "win32" else None
LISTENING_FILE = "listening.json"
LOG_LEVEL_FILE = "log-level"  # the operator's; read at SIGHUP


class Listening(BaseModel, frozen=True):
    """Where the server of a data folder is; the command line's other commands look here."""

    host: str
    port: int


def run(
    settings: Settings, say: Callable[[str], None], *, resume: bool = False, ready_file: Path | None = None
) -> None:
    """Serve until a signal; `say` prints a line for people and orchestrators.

    PortInUse, StorageFailed and every other LegionError come out as they are.
    """
    allocator.give_back()
    level = logging.getLogger().level
    make_data_dir(settings.data_dir)
    listener = listen(settings.host, settings.port)
    with contextlib.closing(listener):
        host, port = listener.getsockname()[:2]
        bound = settings.model_copy(update={"port": port})
        app = create_app(bound, time.time, resume=resume, steady=time.monotonic)

        async def serve() -> None:
            async with app.router.lifespan_context(app):
                backend = app.state.backend
                context = server_context(backend.authority.server_certificate_file, backend.authority.server_key_file)
                server = Server(app, listener, context, bound)
                await server.serve_until_asked(
                    lambda: _announce(backend, host, port, ready_file, say),
                    lambda: reload(app.state.node, context, level),
                )

        try:
            with asyncio.Runner(loop_factory=LOOP) as runner:
                runner.run(serve())
        finally:
            _no_longer_here(settings.data_dir / LISTENING_FILE, Listening(host=host, port=port))
    logger.info("server stopped")


def reload(node: Node, context: ssl.SSLContext, level: int) -> None:
    """What can change while a server runs: the level of its log, and its certificate. `level`: where no file names one.

    A failure is logged, and leaves things as they were.
    """
    path = node.settings.data_dir / LOG_LEVEL_FILE
    try:
        named = path.read_text(encoding="utf-8").strip().upper() if path.exists() else logging.getLevelName(level)
        logging.getLogger().setLevel(named)
        context.load_cert_chain(*node.issue_certificate())
    except (OSError, ValueError, LegionError) as error:
        logger.error("not reloaded reason=%s", error)
    else:
        logger.info("reloaded log_level=%s", named)


def _no_longer_here(path: Path, ours: Listening) -> None:
    """Another server of the same folder may have said where it is."""
    with contextlib.suppress(OSError, ValidationError):
        if Listening.model_validate_json(path.read_bytes()) == ours:
            path.unlink()


def _announce(backend: Backend, host: str, port: int, ready_file: Path | None, say: Callable[[str], None]) -> None:
    listening = Listening(host=host, port=port)
    write_private(backend.settings.data_dir / LISTENING_FILE, listening.model_dump_json().encode())
    if ready_file is not None:
        try:
            write_private(ready_file.absolute(), f"{host} {port}\n".encode())
        except StorageFailed as error:
            logger.error("ready file not written reason=%s", error)
    say(f"listening {host} {port}")
    say(f"status page http://localhost:{port}/ (on this machine)")
    # A program that waits for the file, as `up` does, brings its workers itself.
    if ready_file is None and not backend.coordinator.state.workers:
        folder = backend.settings.data_dir
        say(f"no workers yet: 'legion-server invite --data-dir {folder}' prints an invite for one")
