"""What the `doctor` can say of a server that runs with the data folder, and of the port of one that does not."""

import asyncio
import contextlib
import sys
from contextlib import closing

from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from legion.check import Check
from legion.errors import LegionError, ServerUnreachable
from legion_server.backend import invite_host
from legion_server.client import call
from legion_server.serving import LISTENING_FILE, Listening
from legion_server.settings import Settings
from legion_server.transport import listen

CONNECT_S = 5.0
FEW_FILES = 4096  # a worker that is heard keeps a connection
FILES_ADVICE = "Raise it: LimitNOFILE=65536 in a systemd unit, 'ulimit -n 65536' in a shell."

Running = Listening


def find(settings: Settings) -> Running | None:
    """Where a server of this folder says that it listens."""
    with contextlib.suppress(OSError, ValidationError):
        return Listening.model_validate_json((settings.data_dir / LISTENING_FILE).read_bytes())
    return None


async def ports(settings: Settings, running: Running | None) -> list[Check]:
    """Whether a server answers, or could; and whether it is found where invites say."""
    if running is None:
        return [_free(settings), Check("way in", "skipped", "no server runs: start it and ask again")]
    try:
        await asyncio.to_thread(call, settings, "GET", "/health/ready")
    except ServerUnreachable as error:
        advice = "If it was killed, start it again; else look at its log."
        return [
            Check("server", "problem", str(error), advice),
            Check("way in", "skipped", "the server does not answer"),
        ]
    except LegionError as error:
        return [Check("server", "problem", str(error), error.hint), await _way_in(settings, running)]
    found = f"answers at {running.host}:{running.port}, and is ready"
    return [Check("server", "ok", found), await _way_in(settings, running)]


def _free(settings: Settings) -> Check:
    try:
        with closing(listen(settings.host, settings.port)):
            return Check("server", "ok", f"none runs; port {settings.port} is free")
    except LegionError as error:
        return Check("server", "problem", str(error), error.hint)


async def _way_in(settings: Settings, running: Running) -> Check:
    """From this machine: what a firewall or router does to others is theirs to say."""
    host = invite_host(settings)
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, running.port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        said = str(error) or f"no answer within {CONNECT_S:.0f} s"
        advice = (
            "Check its address in the DNS, port forwarding and firewall; some routers refuse only their own network."
        )
        return Check("way in", "problem", f"{host}:{running.port}, which invites name: {said}", advice)
    return Check("way in", "ok", f"{host}:{running.port} can be reached from this machine")


async def files(settings: Settings, running: Running | None) -> Check:
    """Of the server's process where one runs: its limit may be another than ours."""
    if running is not None:
        with contextlib.suppress(LegionError):
            text = (await asyncio.to_thread(call, settings, "GET", "/metrics/server")).decode()
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
            found = {sample.name: int(sample.value) for sample in samples if sample.name.startswith("process_")}
            if "process_max_fds" in found:
                return _judged(found["process_max_fds"], f"the server has {found.get('process_open_fds', 0):,} open, ")
    if sys.platform == "win32":
        return Check("open files", "skipped", "this system has no such limit")
    import resource  # noqa: PLC0415  Unix only

    return _judged(resource.getrlimit(resource.RLIMIT_NOFILE)[0], "")


def _judged(most: int, now: str) -> Check:
    if 0 <= most < FEW_FILES:
        return Check("open files", "problem", f"{now}at most {most:,}: too few for many workers", FILES_ADVICE)
    return Check("open files", "ok", f"{now}at most {most:,}" if most >= 0 else f"{now}without a limit")
