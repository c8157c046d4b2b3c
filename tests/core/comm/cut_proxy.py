"""A TCP proxy on loopback whose connections a test can break."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class CutProxy:
    """Forwards to a port; TLS passes through untouched."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._budget_bytes: int | None = None
        self.each_carries_bytes: int | None = None  # then a connection stays open and nothing passes any more
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.refuse = False  # from now on: new connections are closed at once
        self.port = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, target_port: int) -> AsyncIterator["CutProxy"]:
        proxy = cls(target_port)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            await asyncio.sleep(0)  # who was accepted a moment ago is served by now, and so ended below
            proxy.cut()
            for task in tuple(proxy._tasks):
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Every connection dies at once."""
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._budget_bytes = None

    def cut_after(self, size_bytes: int) -> None:
        """Every connection dies once so much more has been forwarded, both ways together."""
        self._budget_bytes = size_bytes

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuse:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = {writer}
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.add(far_writer)
            self._writers.add(far_writer)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass  # the far end is gone, or the test is over
        finally:
            self._writers -= ends
            for end in ends:  # a writer left open would complain in whichever test its memory is freed
                end.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                carried += len(data)
                if self.each_carries_bytes is not None and carried > self.each_carries_bytes:
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
                if self._budget_bytes is not None:
                    self._budget_bytes -= len(data)
                    if self._budget_bytes < 0:
                        self.cut()
        writer.close()
