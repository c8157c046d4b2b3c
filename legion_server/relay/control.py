"""A worker's control connection, from the relay's side: mutual TLS, one JSON object a line, nothing but words."""

import asyncio
import socket
import ssl

from legion.comm.splice import Ends
from legion.ids import WorkerId
from legion.messages import PROTOCOL, Message
from legion.relaying import (
    HELLO_S,
    LONGEST_LINE,
    PING_S,
    SILENT_S,
    Dismissed,
    Greeting,
    Ping,
    line_of,
    word_of,
    worker_of,
)


class Control:
    """`greeted`, then `keep` as long as the worker is there."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._dismissed = asyncio.Event()

    @classmethod
    async def accept(cls, connection: socket.socket, context: ssl.SSLContext) -> "Control":
        """TLS on a socket. OSError (ssl.SSLError is one) when the other side is no worker of the run."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=context, ssl_handshake_timeout=HELLO_S
        )
        return cls(Ends(reader, asyncio.StreamWriter(transport, protocol, reader, loop)))

    @property
    def worker(self) -> WorkerId | None:
        """As its certificate has it."""
        certificate = self._ends.writer.get_extra_info("peercert") or {}
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        return worker_of(names[0]) if len(names) == 1 else None

    async def greeted(self) -> Greeting | None:
        """The first line; None for what is none, or of another protocol."""
        async with asyncio.timeout(HELLO_S):
            word = word_of(await self._line())
        return word if isinstance(word, Greeting) and word.protocol == PROTOCOL else None

    def say(self, word: Message) -> None:
        """A few words wait in memory; who takes none is silent, and goes."""
        self._ends.writer.write(line_of(word))

    def dismiss(self, word: Dismissed) -> None:
        """The last word; `keep` returns."""
        self.say(word)
        self._dismissed.set()

    async def keep(self) -> None:
        """Until the worker goes, falls silent, says what nobody says, or is dismissed."""
        parts = [asyncio.ensure_future(part) for part in (self._listen(), self._ping(), self._dismissed.wait())]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def close(self) -> None:
        """With the last words said, if the worker takes them."""
        try:
            async with asyncio.timeout(1.0):
                await self._ends.close()
        except TimeoutError:
            self._ends.abort()

    async def _listen(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    line = await self._line()
            except (TimeoutError, OSError):
                return
            if not isinstance(word_of(line), Ping):
                return

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            self.say(Ping())

    async def _line(self) -> bytes:
        """Empty at the end, and for a line that is longer than any word."""
        try:
            return await self._ends.reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return b""
