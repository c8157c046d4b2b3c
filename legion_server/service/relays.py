"""The relays of this server: who they are is in a file, what they do now is in memory."""

import logging
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ValidationError

from legion.errors import NotFound, StorageFailed
from legion.identity import write_private
from legion.ids import RelayId
from legion.relaying import RelayHeartbeat, RelayState, RelayView
from legion_server.domain import relays as domain
from legion_server.domain.relays import Relay

logger = logging.getLogger(__name__)

RELAYS_FILE = "relays.json"


class _Kept(BaseModel, frozen=True, extra="forbid"):
    relay_id: RelayId
    name: str
    token_sha256: str
    enrolled_at: float
    certificate_until: float = 0.0  # not known of those that enrolled before it was kept: it is renewed


class _File(BaseModel, frozen=True, extra="forbid"):
    relays: tuple[_Kept, ...] = ()


class Relays:
    """Every relay that has enrolled."""

    def __init__(self, path: Path, known: tuple[Relay, ...]) -> None:
        self._path = path
        self._relays = {relay.relay_id: relay for relay in known}

    def enrol(self, relay_id: RelayId, name: str, token_sha256: str, now: float, until: float) -> None:
        """Saved before it counts; `until`: its certificate's end. StorageFailed."""
        self._save(self._relays | {relay_id: Relay(relay_id, name, token_sha256, now, until)})
        logger.info("relay enrolled relay=%s name=%s", relay_id, name)

    def renewed(self, relay_id: RelayId, until: float) -> None:
        """NotFound, StorageFailed."""
        self._save(self._relays | {relay_id: replace(self.relay(relay_id), certificate_until=until)})
        logger.info("relay's certificate renewed relay=%s", relay_id)

    def remove(self, relay_id: RelayId) -> None:
        """Its token is worth nothing any more, and workers are not sent there. NotFound."""
        self.relay(relay_id)
        self._save({known: relay for known, relay in self._relays.items() if known != relay_id})
        logger.warning("relay removed relay=%s", relay_id)

    def relay(self, relay_id: RelayId) -> Relay:
        """NotFound."""
        relay = self._relays.get(relay_id)
        if relay is None:
            raise NotFound(f"no relay {relay_id} is enrolled here")
        return relay

    def by_token(self, token_sha256: str) -> RelayId | None:
        return next((relay.relay_id for relay in self._relays.values() if relay.token_sha256 == token_sha256), None)

    def heard(self, relay_id: RelayId, beat: RelayHeartbeat, problem: str | None, now: float) -> None:
        before = self.relay(relay_id)
        after = self._relays[relay_id] = domain.heard(before, beat, problem, now)
        if (before.endpoint, before.problem) != (after.endpoint, after.problem):
            where = f"{beat.endpoint.host}:{beat.endpoint.port}"
            logger.info("relay heard relay=%s endpoint=%s problem=%s", relay_id, where, problem)
        for worker in beat.doubled:
            logger.warning("worker in two places worker=%s relay=%s", worker, relay_id)

    def living(self, now: float) -> tuple[RelayView, ...]:
        return domain.living(self._relays.values(), now)

    def all(self, now: float) -> tuple[RelayState, ...]:
        """By name."""
        relays = sorted(self._relays.values(), key=lambda relay: (relay.name, relay.relay_id))
        return tuple(domain.state(relay, now) for relay in relays)

    def _save(self, relays: dict[RelayId, Relay]) -> None:
        kept = tuple(
            _Kept(
                relay_id=r.relay_id,
                name=r.name,
                token_sha256=r.token_sha256,
                enrolled_at=r.enrolled_at,
                certificate_until=r.certificate_until,
            )
            for r in relays.values()
        )
        write_private(self._path, _File(relays=kept).model_dump_json().encode())
        self._relays = relays


def open_relays(folder: Path) -> Relays:
    """What was saved in `folder`. StorageFailed when it cannot be read."""
    path = folder / RELAYS_FILE
    try:
        kept = _File.model_validate_json(path.read_bytes()).relays if path.exists() else ()
    except (OSError, ValidationError) as error:
        raise StorageFailed(f"{path} cannot be read", hint="Restore it, or remove it and enrol relays anew.") from error
    return Relays(path, tuple(Relay(**dict(one)) for one in kept))
