"""Every REST body and WebSocket event, as frozen models. A change that old programs cannot read raises PROTOCOL."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from legion.config import Sha256
from legion.ids import ClusterId, Epoch, RunId, WorkerId

PROTOCOL = 1
PROBE_BYTES = 4 * 2**20  # the largest burst that a worker measures its line with
HEARTBEAT_S = 30.0
OFFLINE_AFTER_S = 90.0

WorkerState = Literal["joining", "preparing", "ready", "training", "paused", "leaving", "offline", "revoked"]
RunPhase = Literal["waiting", "training", "paused", "finishing", "complete", "failed", "stopped"]

# What one record may count: far above any machine, far below where sums over a run leave 64 bits.
Count = Annotated[int, Field(ge=0, le=2**44)]
HostName = Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45})$")]


class Message(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A body that travels as JSON, which knows neither NaN nor infinity."""


class FieldProblem(Message):
    """One thing wrong with a request: where, what, and what is allowed there (empty: no simple answer)."""

    field: str
    problem: str
    allowed: str = ""


class Problem(Message):
    """The body of every error answer (RFC 9457, application/problem+json), made of a LegionError."""

    type: str  # "urn:legion:problem:" + slug
    title: str
    status: int
    detail: str  # the error's sentence
    slug: str  # for legion.errors.by_slug
    hint: str
    retryable: bool = False
    errors: tuple[FieldProblem, ...] = ()


class Device(Message):
    kind: Literal["cpu", "cuda", "mps", "xpu"]
    name: str
    memory_bytes: int


class Hardware(Message):
    """What a worker says of its machine; the coordinator bounds what it believes."""

    os: str
    cpu_count: int
    memory_bytes: int
    free_disk_bytes: int
    devices: tuple[Device, ...] = ()
    legion_version: str


class Endpoint(Message):
    """Where other members of the plan reach a worker: a name or an IP address, never another kind of gRPC target."""

    host: HostName
    port: Annotated[int, Field(ge=1, le=65535)]
    relayed: bool = False  # it is a relay's, which brings callers there by the worker's name


class Health(Message):
    status: Literal["ok"] = "ok"
    protocol: int
    legion_version: str
    run_id: RunId
    phase: RunPhase
    uptime_s: float


class EnrolRequest(Message):
    protocol: int
    token: str
    csr_pem: str
    name: Annotated[str, Field(min_length=1, max_length=64)]
    hardware: Hardware


class EnrolReply(Message):
    worker_id: WorkerId
    run_id: RunId
    certificate_pem: str  # the worker's, for 30 days
    authority_pem: str
    token: str  # bearer token of this worker, for REST


class ProbeReply(Message):
    """How a burst came."""

    received_bytes: int
    bytes_per_s: float | None  # of its second half; None of what came in one piece


class RenewRequest(Message):
    """A new certificate for the key of the old one; sent with the worker's own token."""

    csr_pem: str


class RenewReply(Message):
    certificate_pem: str


class TensorShape(Message):
    name: str  # as in the Hugging Face checkpoint
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class UnitShape(Message):
    """The parameters a unit owns, in their order in the flat space; a tied parameter belongs to the first unit."""

    name: str
    tensors: tuple[TensorShape, ...]

    @property
    def numel(self) -> int:
        """Elements, before padding."""
        return sum(tensor.numel for tensor in self.tensors)


class ModelShape(Message):
    """What an engine found when it built the model; the coordinator compares the members' answers."""

    units: tuple[UnitShape, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each unit, for `layout.Layout`."""
        return tuple(unit.numel for unit in self.units)

    @property
    def parameters(self) -> int:
        return sum(self.sizes)


class KeptPoint(Message):
    """What a worker's disk has of a restore point: slices of these ranks of the plan of `epoch`."""

    epoch: Epoch
    step: Annotated[int, Field(ge=0, le=2**62)]  # of that plan, as its members count
    anchor: Annotated[int, Field(ge=0, le=2**31 - 1)]  # that it stands on
    ranks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=4096)]


class Broken(Message):
    """From a member whose plan cannot go on, for want of another: what it has for a plan of those who are left."""

    epoch: Epoch  # of the plan
    points: Annotated[tuple[KeptPoint, ...], Field(max_length=64)] = ()
    contributed: Annotated[int, Field(ge=-1, le=2**31 - 1)] = -1  # newest round it made a contribution for; -1: none
    gone: Annotated[tuple[WorkerId, ...], Field(max_length=4096)] = ()  # members where nobody listens any more
    told_by: WorkerId | None = None  # the member that told it, if it was not it who missed somebody


class Heartbeat(Message):
    """Sent every HEARTBEAT_S, and at once when `state` changes."""

    protocol: int
    state: WorkerState
    run_id: RunId | None = None  # that the rest is about; None: it has not heard of any yet
    epoch: Epoch = Epoch(0)  # of the plan the worker follows; 0: none
    left: Epoch = Epoch(0)  # of the one that it followed before, which may have been for a moment; 0: none
    step: int = 0
    endpoint: Endpoint | None = None  # set once the engine listens
    shape: ModelShape | None = None  # set once the engine has built the model
    config_digest: Sha256 | None = None  # of the configuration the engine was prepared with
    # Relative memory and speed, for the share of the model this worker holds.
    share: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    lost_peer: WorkerId | None = None  # a member whose connection died under us
    # The slug of a LegionError and its sentence: why the worker is leaving, if not by its own wish.
    failure: str | None = None
    failure_message: str | None = None
    anchor: Annotated[int, Field(ge=-1, le=2**31 - 1)] = -1  # newest anchor it has; -1: none
    steps_ahead: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # since that anchor
    broken: Broken | None = None  # set while the worker waits for another plan of its cluster
    instance: Annotated[str, Field(pattern="^[a-z2-7]{32}$")] | None = None  # drawn by the agent when it starts
    # Members of its plan that it cannot reach now: the reply says where they are.
    away: Annotated[tuple[WorkerId, ...], Field(max_length=1024)] = ()


class Whereabouts(Message):
    """Of a member that another one looks for; no endpoint: it is no member any more, or waits for another plan."""

    worker_id: WorkerId
    endpoint: Endpoint | None


class LinkPeer(Message):
    """A worker that another one is to measure its link to."""

    worker_id: WorkerId
    endpoint: Endpoint


class HeartbeatReply(Message):
    phase: RunPhase
    run_id: RunId | None = None  # another one than before: nothing of that run is of use any more
    epoch: Epoch  # of the newest plan; the worker fetches it when it differs
    interval_s: float
    certificate_renewal: bool = False
    round: int = -1  # of the newest round plan; -1: none
    revision: int = 0  # of that plan; the worker fetches it when either differs
    gone: tuple[ClusterId, ...] = ()  # participants of that plan that nobody need wait for
    regroup: bool = False  # the worker's cluster is to break off once it has contributed: another member waits for it
    wanted: tuple[Sha256, ...] = ()  # updates that storage has lost: to be uploaded, if this worker has them
    measure: tuple[LinkPeer, ...] = ()  # workers whose links to this one it is to measure now
    measure_server: bool = False  # and its line to the server
    found: tuple[Whereabouts, ...] = ()  # of those that are away
    doubled: str = ""  # of another program that was heard with the worker's key


class Member(Message):
    worker_id: WorkerId
    endpoint: Endpoint
    share: int


class Restore(Message):
    """The restore point that a plan goes on from."""

    epoch: Epoch  # of the plan whose members kept it
    step: int
    anchor: int  # that it stands on
    members: tuple[Member, ...]  # of that plan
    holders: tuple[tuple[WorkerId, ...], ...]  # of the slice of each of these
    contributed: int  # the newest round that one of them made a contribution for


class Plan(Message):
    """Who trains, in which order. Members' ranks are their positions; the order has an epoch."""

    run_id: RunId
    epoch: Epoch
    members: tuple[Member, ...]
    shape: ModelShape
    first_step: int  # 0, or the step of the checkpoint the members start from
    config_digest: Sha256
    cluster: ClusterId = ClusterId("")  # in a run with rounds
    round: int = 0  # the first one it takes part in
    restore: Restore | None = None  # of a cluster that goes on with other members


class WorkerView(Message):
    """One worker, for admins. Everybody else sees WorkerSummary."""

    worker_id: WorkerId
    name: str
    state: WorkerState
    hardware: Hardware
    endpoint: Endpoint | None
    enrolled_at: float  # s since 1970
    last_seen: float
    epoch: Epoch
    step: int
    failure: str | None = None


class WorkersSummary(Message):
    """Aggregate state, for anyone."""

    total: int
    by_state: dict[WorkerState, int]


class ShardRef(Message):
    """A content-addressed file of token ids (little-endian, `DatasetManifest.token_bytes` each)."""

    sha256: Sha256
    size_bytes: int
    tokens: int


class Lease(Message):
    """A range of a hub file that a worker streams by itself: a parquet row group, or a byte range of JSON lines."""

    file: str
    row_group: int | None = None
    start_byte: int | None = None
    stop_byte: int | None = None
    blocks: int  # how many blocks it stands for; fixed by the server, so that block numbers never depend on reading


class DatasetManifest(Message):
    """What `GET /data/manifest` says. The fingerprint is the SHA-256 of this message without it, as canonical JSON."""

    fingerprint: Sha256
    kind: Literal["packed", "streamed"]
    token_bytes: Literal[1, 2, 4]
    vocab_size: int
    seq_len: int
    tokenizer_sha256: Sha256  # of tokenizer.json, itself served by hash
    end_of_text: int  # the id between documents
    train: tuple[ShardRef, ...] = ()
    validation: tuple[ShardRef, ...] = ()
    leases: tuple[Lease, ...] = ()
    text_column: str = "text"


class SliceRef(Message):
    """One member's slice of a checkpoint: safetensors with weights and moments of its ranges."""

    rank: int
    sha256: Sha256
    size_bytes: int


class CheckpointManifest(Message):
    """What belongs to the checkpoint after `step` steps. Complete when all slices are there."""

    run_id: RunId
    epoch: Epoch
    step: int
    tokens: int
    shares: tuple[int, ...]
    shape: ModelShape
    config_digest: Sha256
    slices: tuple[SliceRef, ...] = ()


class CheckpointView(Message):
    step: int
    complete: bool
    assembled: bool
    weights_digest: str | None  # root over the weights; set when assembled
    manifest: CheckpointManifest
    files: tuple[str, ...] = ()  # of the assembled folder: GET /checkpoints/{step}/files/{name}


class ResumeRequest(Message):
    """`workers`: how many the resumed run waits for; None: as many as before."""

    workers: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class InviteRequest(Message):
    """`relay`: for relays, and for no worker."""

    uses: Annotated[int, Field(ge=1, le=10_000)] = 1
    valid_s: Annotated[float, Field(gt=0, le=31_536_000)] = 7 * 86_400
    relay: bool = False


class InviteReply(Message):
    invite: str  # legion://HOST:PORT/?token=...&ca=SHA256
    expires_at: float


EventType = Literal[
    "worker_joined",
    "worker_state",
    "worker_lost",
    "plan",
    "phase",
    "config",
    "step",
    "evaluation",
    "checkpoint",
    "round_plan",
    "round",
    "round_term",
    "audit_failed",
    "cluster_lost",
    "root_mismatch",
    "gap",
]


class Event(Message):
    """One line of the event stream. Numbers grow by one; `gap` says that older events were dropped."""

    number: int
    type: EventType
    at: float  # s since 1970
    data: dict[str, Any] = Field(default_factory=dict)
