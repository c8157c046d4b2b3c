"""One JSON object a line, with limits on how long a line is and how long anybody waits for it."""

import asyncio
from asyncio import StreamReader, StreamWriter

from pydantic import BaseModel

from legion.errors import Unusable

REQUEST_BYTES = 2**18  # the longest is a change of all settings
ANSWER_BYTES = 2**25  # the longest is ten thousand happenings
HELLO_S = 5.0  # for the first line, either way
SEND_S = 5.0  # for the other side to take what it asked for


async def read_line(reader: StreamReader) -> bytes:
    """The next line without its end; empty when the other side is gone. Unusable when it is longer than the limit."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        return b""  # half a line of somebody who went away says nothing
    except asyncio.LimitOverrunError as error:
        raise Unusable("a line on the control socket is longer than the limit") from error
    return line.strip() or b"{}"


async def send(writer: StreamWriter, message: BaseModel) -> None:
    """TimeoutError when the other side does not read, ConnectionError when it is gone."""
    writer.write(message.model_dump_json().encode() + b"\n")
    async with asyncio.timeout(SEND_S):
        await writer.drain()
