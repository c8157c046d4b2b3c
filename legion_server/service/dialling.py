"""Dial-back: the server, which speaks no gRPC, knocks at a worker's port, and looks at the certificate it is shown.

Whoever answers there without the worker's key proves nothing: another computer behind the same router may.
"""

import asyncio
import socket
import ssl

from legion.errors import Unavailable
from legion.messages import Endpoint
from legion_server.domain.reachability import allowed, hosts

DIAL_S = 5.0  # for each address
MOST_AT_A_TIME = 16
EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED, of OpenSSL


class Dialler:
    """A few at a time, and one for each name."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._free = asyncio.Semaphore(MOST_AT_A_TIME)
        self._dialled: set[str] = set()

    async def find(self, name: str, announced: Endpoint, seen: str) -> tuple[Endpoint | None, str]:
        """Where somebody with the certificate of this name listens, or why nobody does. Unavailable: asked twice."""
        if name in self._dialled:
            raise Unavailable("this computer is being looked for already", hint="Try again in a few seconds.")
        self._dialled.add(name)
        problems: list[str] = []
        try:
            async with self._free:
                for host in hosts(announced.host, seen):
                    problem = await self._dial(host, announced.port, name, seen)
                    if problem is None:
                        return Endpoint(host=host, port=announced.port), ""
                    problems.append(problem)
        finally:
            self._dialled.discard(name)
        return None, "; ".join(problems)

    async def _dial(self, host: str, port: int, name: str, seen: str) -> str | None:
        """None: there it is."""
        where = f"{host} port {port}"
        try:
            async with asyncio.timeout(DIAL_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = allowed((str(entry[4][0]) for entry in found), seen)
                if not addresses:
                    return f"{where} is no public address"
                _, writer = await asyncio.open_connection(
                    addresses[0], port, ssl=self._context, server_hostname=name, ssl_handshake_timeout=DIAL_S
                )
        except TimeoutError:
            return f"{where} does not answer"
        except ssl.SSLCertVerificationError as error:
            if error.verify_code == EXPIRED:
                return f"the certificate that {where} shows has expired"
            return f"at {where} somebody else answers"
        except OSError as error:
            return f"{where}: {error.strerror or type(error).__name__}"
        writer.transport.abort()
        return None
