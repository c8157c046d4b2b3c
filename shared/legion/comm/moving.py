"""A channel to a peer that may be found elsewhere while it is used: a relay that dies moves all who are behind it.

Calls that are under way stay on the path that they began on; every later one takes the newest.
"""

from collections.abc import Callable
from typing import Any

from legion.messages import Endpoint

Dial = Callable[[Endpoint], Any]  # a grpc.aio.Channel; grpcio ships no types


class MovingChannel:
    """As much of a `grpc.aio.Channel` as members use."""

    def __init__(self, dial: Dial, endpoint: Endpoint) -> None:
        self._dial = dial
        self._channel = dial(endpoint)
        self._left: list[Any] = []  # channels of before: without a call gRPC does not connect them again
        self.endpoint = endpoint

    def move(self, endpoint: Endpoint) -> bool:
        """Whether that is another place than before."""
        if endpoint == self.endpoint:
            return False
        self._left.append(self._channel)
        self._channel, self.endpoint = self._dial(endpoint), endpoint
        return True

    def unary_unary(self, method: str) -> Any:
        return self._newest("unary_unary", method)

    def unary_stream(self, method: str) -> Any:
        return self._newest("unary_stream", method)

    def stream_unary(self, method: str) -> Any:
        return self._newest("stream_unary", method)

    def stream_stream(self, method: str) -> Any:
        return self._newest("stream_stream", method)

    async def close(self) -> None:
        for channel in (*self._left, self._channel):
            await channel.close()

    def _newest(self, kind: str, method: str) -> Any:
        def call(*request: Any, **options: Any) -> Any:
            return getattr(self._channel, kind)(method)(*request, **options)

        return call
