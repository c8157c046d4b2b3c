"""UPnP from the agent's side: every conversation with a router is a process of its own, with an end.

The library waits for each piece of an answer and keeps all of it: a router that sends on and on would hold a thread and
the memory of this program for as long as it likes.
"""

import asyncio
import json
import sys
from dataclasses import asdict

from legion_client.machine.mapping import LEASE_S, Mapped, NotMapped
from legion_client.machine.upnp_gateway import Asked, Told

COMMAND = (sys.executable, "-m", "legion_client.machine.upnp_gateway")
CONVERSATION_S = 20.0  # 2 s to find a router, then a few calls
CLOSE_S = 5.0  # the program may be on its way out, and the lease ends by itself


async def open_port(host: str, port: int, external_port: int | None = None, *, at: str | None = None) -> Mapped:
    """A mapping, made or (at `external_port`) renewed. `at`: see `Gateway`. NotMapped."""
    asked = Asked(at=at, host=host, port=port, external_port=external_port, lease_s=LEASE_S)
    told = await _conversation(asked, CONVERSATION_S)
    if told.external_port is None:
        raise NotMapped("the router's answer cannot be read")
    return Mapped("UPnP", told.external_host, told.external_port, host, port)


async def close_port(external_port: int, *, at: str | None = None) -> None:
    """NotMapped where the router does not say that it is closed."""
    await _conversation(Asked(at=at, external_port=external_port), CLOSE_S)


async def _conversation(asked: Asked, within_s: float) -> Told:
    nothing, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, json.dumps(asdict(asked)), stdin=nothing, stdout=pipe, stderr=nothing
        )
    except OSError as error:
        raise NotMapped(f"a router cannot be asked by UPnP: {error.strerror}") from error
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate()
        told = Told(**json.loads(said))
    except TimeoutError:
        raise NotMapped(f"the router does not end what it says by UPnP within {within_s:.0f} s") from None
    except json.JSONDecodeError:
        raise NotMapped(f"asking by UPnP ended with status {process.returncode} and no answer") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if told.problem is not None:
        raise NotMapped(told.problem)
    return told
