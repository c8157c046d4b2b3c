"""What a worker and a relay say to each other, and the names by which a relay tells connections apart.

Every connection to a relay begins with a TLS ClientHello, and the name in it says what it is: the relay's own (a
worker's control connection), a worker's (a caller), or a nonce's (the worker's answer to an invitation). On the control
connection both sides send one JSON object a line.
"""

import re
import secrets
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from legion.ids import RelayId, WorkerId
from legion.messages import Count, Endpoint, Message

PING_S = 5.0  # between pings, in both directions: they also keep a NAT's mapping
SILENT_S = 15.0  # without a word from the other side, it is gone
HELLO_S = 10.0  # to a complete ClientHello
INVITATION_S = 10.0  # for the worker to answer an invitation
RELAY_HEARTBEAT_S = 10.0
RELAY_GONE_S = 35.0  # without a heartbeat, workers are not sent there any more
MOST_WORKERS = 65_536  # of one relay
LONGEST_LINE = 1024  # bytes on a control connection
_ID = re.compile(r"[a-z2-7]{32}")
_SUFFIX, _RELAY_SUFFIX, _SESSION_SUFFIX = ".legion", ".relay.legion", ".session.legion"


def relay_name(relay_id: RelayId) -> str:
    """The name in a relay's certificate."""
    return relay_id + _RELAY_SUFFIX


def session_name(nonce: str) -> str:
    """The name that a worker asks for when it answers an invitation."""
    return nonce + _SESSION_SUFFIX


def worker_of(name: str) -> WorkerId | None:
    """Whose name it is; None: no worker's."""
    stem = name.removesuffix(_SUFFIX)
    return WorkerId(stem) if stem != name and _ID.fullmatch(stem) else None


def nonce_of(name: str) -> str | None:
    """The nonce that a name is made of; None: it is none."""
    stem = name.removesuffix(_SESSION_SUFFIX)
    return stem if stem != name and _ID.fullmatch(stem) else None


def new_nonce() -> str:
    """160 random bits."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(32))


class Greeting(Message):
    """The worker's first line."""

    kind: Literal["greeting"] = "greeting"
    protocol: int
    instance: Annotated[str, Field(pattern="^[a-z2-7]{32}$")]  # drawn by the agent when it starts


class Ping(Message):
    """From either side; nothing answers it."""

    kind: Literal["ping"] = "ping"


class Welcome(Message):
    """The relay's first line: from now on callers find the worker here."""

    kind: Literal["welcome"] = "welcome"


class Invitation(Message):
    """Somebody asks for the worker: it opens a connection for the name that this nonce makes."""

    kind: Literal["invitation"] = "invitation"
    nonce: Annotated[str, Field(pattern="^[a-z2-7]{32}$")]


class Dismissed(Message):
    """The relay's last line. `replaced`: another program has registered with the same key."""

    kind: Literal["dismissed"] = "dismissed"
    reason: str
    replaced: bool = False


Word = Annotated[Greeting | Ping | Welcome | Invitation | Dismissed, Field(discriminator="kind")]
_WORDS: TypeAdapter[Word] = TypeAdapter(Word)


def line_of(word: Message) -> bytes:
    return word.model_dump_json().encode() + b"\n"


def word_of(line: bytes) -> Word | None:
    """None: what nobody of ours says."""
    try:
        return _WORDS.validate_json(line)
    except ValidationError:
        return None


# What goes to the coordinator.


class RelayEnrolRequest(Message):
    protocol: int
    token: str
    csr_pem: str
    name: Annotated[str, Field(min_length=1, max_length=64)]


class RelayEnrolReply(Message):
    relay_id: RelayId
    certificate_pem: str  # of `relay_name`
    authority_pem: str
    token: str  # bearer token of this relay, for REST


class RelayLoad(Message):
    """What a relay carries now, and what it has turned away since it started."""

    workers: Count = 0  # control connections
    sessions: Count = 0
    bytes_per_s: Annotated[float, Field(ge=0)] = 0.0  # of late
    share: Annotated[float, Field(ge=0, le=1)] = 0.0  # of what it may carry: of bytes or of sessions, whichever is more
    refusals: dict[Annotated[str, Field(max_length=64)], Count] = Field(default_factory=dict, max_length=64)


class RelayHeartbeat(Message):
    """Sent every RELAY_HEARTBEAT_S."""

    protocol: int
    endpoint: Endpoint  # a host that means 'everywhere' is replaced by the address the request comes from
    load: RelayLoad = RelayLoad()
    workers: tuple[WorkerId, ...] = Field(default=(), max_length=MOST_WORKERS)  # those registered
    doubled: tuple[WorkerId, ...] = Field(
        default=(), max_length=MOST_WORKERS
    )  # since the last one: two places, one key


class RelayHeartbeatReply(Message):
    refused: tuple[WorkerId, ...] = ()  # of those registered: their access was taken back
    problem: str | None = None  # why workers are not sent to this relay
    certificate_renewal: bool = False  # a new certificate is due: POST /relays/{relay_id}/certificate


class RelayView(Message):
    """A relay that is alive and can be reached."""

    relay_id: RelayId
    name: str
    endpoint: Endpoint
    load: RelayLoad


class RelayState(Message):
    """A relay that has enrolled, for the operator."""

    relay_id: RelayId
    name: str
    enrolled_at: float  # s since 1970
    certificate_until: float  # s since 1970
    last_seen: float | None  # s since 1970; None: not since the server started
    alive: bool  # heard of late and reached: workers are sent there
    endpoint: Endpoint | None
    load: RelayLoad
    problem: str | None  # why it was not reached


class ReachRequest(Message):
    """Where the worker's engine listens, or what a router maps to it."""

    endpoint: Endpoint


class ReachReply(Message):
    """`endpoint`: where the server found the worker; None: nowhere, and `problem` says what happened."""

    endpoint: Endpoint | None
    seen_host: str  # the address that the request came from
    problem: str = ""
