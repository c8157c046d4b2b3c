"""A port of the volunteer's router for this computer: asked for, renewed, and given back at the end."""

import asyncio
import contextlib
import logging
from ipaddress import ip_address

from legion.messages import Endpoint
from legion_client.machine import natpmp, upnp
from legion_client.machine.mapping import LEASE_S, Mapped, NotMapped

logger = logging.getLogger(__name__)

RENEW_S = LEASE_S / 2
NOT_ASKED = "not asked for: network.port_mapping is off"
SHARED = (
    "{how} opened a port, but the router's own address, {host}, is none of the internet: another router is before it, "
    "or the provider shares one address among its customers"
)


class PortMapping:
    """One at a time. `keep` renews it, and gives it back when it is cancelled."""

    def __init__(self) -> None:
        self.state = NOT_ASKED
        self._mapped: Mapped | None = None
        self._gateway: str | None = None  # that speaks NAT-PMP
        self._opened = asyncio.Event()

    async def open(self, engine: Endpoint) -> int | None:
        """The router's port that leads to the engine; None: there is none, and `state` says why."""
        mapped = self._mapped
        if mapped is not None and (mapped.internal_host, mapped.internal_port) == (engine.host, engine.port):
            return mapped.external_port
        await self.close()
        problems = []
        for way in (self._by_natpmp, self._by_upnp):
            try:
                self._mapped = await way(engine.host, engine.port)
            except NotMapped as error:
                problems.append(str(error))
                continue
            self._opened.set()
            self.state = _state(self._mapped)
            logger.info("port mapping opened state=%s", self.state)
            return self._mapped.external_port
        self.state = "; ".join(problems)
        logger.info("no port mapping reason=%s", self.state)
        return None

    async def keep(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._opened.wait()
                await asyncio.sleep(RENEW_S)
                await self._renew()
        finally:
            await self.close()

    async def close(self) -> None:
        """The router forgets it: now if it listens, else when the lease ends."""
        mapped, self._mapped = self._mapped, None
        self._opened.clear()
        if mapped is None:
            return
        with contextlib.suppress(NotMapped):
            if mapped.how == "UPnP":
                await upnp.close_port(mapped.external_port)
            elif self._gateway is not None:
                await natpmp.close_port(self._gateway, mapped.internal_port)
        self.state = "closed"

    async def _renew(self) -> None:
        mapped = self._mapped
        if mapped is None:
            return
        host, port = mapped.internal_host, mapped.internal_port
        try:
            if mapped.how == "UPnP":
                await upnp.open_port(host, port, mapped.external_port)
            elif self._gateway is not None:
                await natpmp.open_port(self._gateway, host, port)
        except NotMapped as error:  # it is tried again when the next engine listens
            self.state = f"it could not be renewed: {error}"
            logger.warning("port mapping not renewed reason=%s", error)

    async def _by_natpmp(self, host: str, port: int) -> Mapped:
        self._gateway = natpmp.default_gateway()
        if self._gateway is None:
            raise NotMapped("the router's address is not known here")
        return await natpmp.open_port(self._gateway, host, port)

    async def _by_upnp(self, host: str, port: int) -> Mapped:
        return await upnp.open_port(host, port)


def _state(mapped: Mapped) -> str:
    if not mapped.external_host:
        return f"{mapped.how} opened port {mapped.external_port} of the router, which does not say its address"
    if not ip_address(mapped.external_host).is_global:
        return SHARED.format(how=mapped.how, host=mapped.external_host)
    return f"{mapped.how} opened port {mapped.external_port} of {mapped.external_host}"
