"""What agent and engine say to each other: one JSON object a line, over the engine's standard input and output.

The engine ends when its input does: it never outlives its agent.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from legion.comm.bucket import BURST_S
from legion.config import RunConfig
from legion.ids import ClusterId, WorkerId
from legion.links import LinkSample
from legion.messages import Broken, DatasetManifest, Device, LinkPeer, Message, ModelShape, Plan, Whereabouts
from legion.reports import EvaluationRecord, StepRecord, TextSample
from legion.rounds import Handover, RootReport, RoundPlan, RoundRecord, SpanReport

REGROUP_S = 30.0  # an engine whose plan is broken waits this long for another
PULSE_S = 5.0
UPDATES = "updates"  # folder in the engine's work folder: those of the newest rounds, named by their SHA-256


class Prepare(Message):
    """The first command: load, build the model on meta, listen."""

    kind: Literal["prepare"] = "prepare"
    config: RunConfig
    manifest: DatasetManifest
    identity_dir: Path  # see legion.identity.Identity.load
    cache_dir: Path  # token shards and tokenizer.json, each named by its SHA-256
    work_dir: Path  # where slices are written
    listen_host: str = "127.0.0.1"
    listen_port: int = 0  # 0: any free port
    state_path: Path | None = None  # where a member of a run in rounds keeps its local state; None: nowhere
    device_kinds: tuple[str, ...] | None = None  # that may compute beside the CPU, as torch names them; None: all
    power_note: Path | None = None  # see machine.card_power; None: the card's own power limit is not to be set


class Train(Message):
    """Train by this plan, from theta_0 or from a slice laid out for this plan and rank.

    A second one takes the place of the first: the engine goes on from the restore point that the plan names.

    `local_state`: what an engine of this worker kept of the same run and slice. Without a `resume_slice` the engine
    starts from the state's own anchor, whatever the plan says, and asks for all updates since; with one, only what
    waited moves over, and `missed` is what the log has of the rounds from the state's anchor to the slice's.
    """

    kind: Literal["train"] = "train"
    plan: Plan
    resume_slice: Path | None = None
    local_state: Path | None = None
    missed: tuple[RoundRecord, ...] = ()


class RoundNews(Message):
    """What the coordinator says of rounds. Repeated news changes nothing."""

    kind: Literal["round_news"] = "round_news"
    plans: tuple[RoundPlan, ...] = ()
    records: tuple[RoundRecord, ...] = ()
    gone: tuple[ClusterId, ...] = ()  # participants of the newest plan that nobody need wait for


class UpdateHere(Message):
    """The answer to UpdateWanted: where it lies, or nowhere (yet)."""

    kind: Literal["update_here"] = "update_here"
    sha256: str
    path: Path | None


class Stop(Message):
    """Finish or abort the step, tell the peers, end."""

    kind: Literal["stop"] = "stop"
    reason: str
    within_s: float | None = None  # for the step under way, then it is aborted; None: as long as it takes
    rests: bool = False  # the others go on without us: in a run without rounds, from a checkpoint made now


class Pause(Message):
    """Compute nothing from the next micro-batch on; what is sent and fetched goes on. Held is the answer."""

    kind: Literal["pause"] = "pause"
    reason: str
    after_contribution: bool = False  # only once this round's is made; in a run without rounds, after the step
    serves: bool = False  # the cluster's others compute on until its next contribution is made, then Left follows


class Resume(Message):
    kind: Literal["resume"] = "resume"


class Throttle(Message):
    """Limits until the next Throttle, from the next micro-batch on. It may come at any time after Prepare."""

    kind: Literal["throttle"] = "throttle"
    duty: Annotated[float, Field(gt=0, le=1)] = 1.0  # part of the time that is computed
    # Of what the card's power limit allows: by that limit, or else by computing for so much less of the time.
    power: Annotated[float, Field(gt=0, le=1)] = 1.0
    threads: Annotated[int, Field(ge=1)] | None = None  # None: as many as there are cores
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None  # of the card's memory; None: all of it


class Regroup(Message):
    """Break off once this round's contribution is made: another plan, with another member, follows PlanBroken."""

    kind: Literal["regroup"] = "regroup"


class Rates(Message):
    """How fast the engine may use the line, until the next Rates, also for what waits already. None: no limit."""

    kind: Literal["rates"] = "rates"
    upload_bytes_per_s: Annotated[float, Field(gt=0)] | None = None
    download_bytes_per_s: Annotated[float, Field(gt=0)] | None = None
    burst_s: Annotated[float, Field(gt=0)] = BURST_S  # of these rates, that may pass at once
    # Of bursts that stay in a private network: what the volunteer chose by hand, without a share of the way out.
    house_upload_bytes_per_s: Annotated[float, Field(gt=0)] | None = None
    house_download_bytes_per_s: Annotated[float, Field(gt=0)] | None = None
    bursts: bool = True  # may be sent and answered, to measure links with


class Measure(Message):
    """Look at the links to these workers, one after the other, whatever else is done. LinksMeasured is the answer."""

    kind: Literal["measure"] = "measure"
    peers: tuple[LinkPeer, ...]


class PeersFound(Message):
    """The answer to PeersAway, again and again until they are reached or lost."""

    kind: Literal["peers_found"] = "peers_found"
    peers: tuple[Whereabouts, ...]


Command = Annotated[
    Prepare
    | Train
    | RoundNews
    | UpdateHere
    | Stop
    | Pause
    | Resume
    | Throttle
    | Rates
    | Regroup
    | Measure
    | PeersFound,
    Field(discriminator="kind"),
]


class Listening(Message):
    """The answer to Prepare."""

    kind: Literal["listening"] = "listening"
    port: int
    shape: ModelShape
    device: Device
    card_problem: str | None = None  # why it is no card, though one may compute; in torch's words


class Held(Message):
    """The compute thread rests because of a Pause; what it had on a card is freed if it serves."""

    kind: Literal["held"] = "held"
    after_s: float  # the Pause arrived; 0 if it rests because its contribution is made


class Moved(Message):
    """What went over the engine's line since the last Moved, of whatever kind."""

    kind: Literal["moved"] = "moved"
    sent_bytes: int
    received_bytes: int


class Pulse(Message):
    """Every PULSE_S while it trains: its loop lives. An agent that has heard one misses the next."""

    kind: Literal["pulse"] = "pulse"


class LinksMeasured(Message):
    """Of one link; also when transfers contradict what was measured before."""

    kind: Literal["links_measured"] = "links_measured"
    samples: tuple[LinkSample, ...]


class PeersAway(Message):
    """Members of the plan that cannot be reached just now; empty: all can again."""

    kind: Literal["peers_away"] = "peers_away"
    peers: tuple[WorkerId, ...]


class StepDone(Message):
    kind: Literal["step_done"] = "step_done"
    record: StepRecord


class Evaluated(Message):
    kind: Literal["evaluated"] = "evaluated"
    record: EvaluationRecord


class Wrote(Message):
    kind: Literal["wrote"] = "wrote"
    sample: TextSample


class SliceWritten(Message):
    """A slice of the checkpoint after `step` steps lies at `path`; the agent uploads it and deletes the file."""

    kind: Literal["slice_written"] = "slice_written"
    step: int
    rank: int
    tokens: int  # committed by the run so far
    path: Path
    sha256: str
    size_bytes: int


class SpanReduced(Message):
    """This worker has combined a span; the agent reports it and takes the update at `path` to storage."""

    kind: Literal["span_reduced"] = "span_reduced"
    report: SpanReport
    path: Path


class AnchorReached(Message):
    kind: Literal["anchor_reached"] = "anchor_reached"
    report: RootReport


class HandedOver(Message):
    """This worker stops, and what its updates had not held yet is with others; the agent reports it."""

    kind: Literal["handed_over"] = "handed_over"
    handover: Handover


class UpdateWanted(Message):
    """No worker gives us this update: the agent may find it in storage."""

    kind: Literal["update_wanted"] = "update_wanted"
    sha256: str
    size_bytes: int


class StateSaved(Message):
    """This member's local state lies at `path`, its place of before; the agent offers it with the next Train."""

    kind: Literal["state_saved"] = "state_saved"
    path: Path
    anchor: int
    size_bytes: int
    final: bool  # nothing is done by this engine after it


class PlanBroken(Message):
    """The plan cannot go on without `lost_peer`; this engine waits for a Train by another plan, `REGROUP_S` at most."""

    kind: Literal["plan_broken"] = "plan_broken"
    broken: Broken
    message: str
    lost_peer: WorkerId | None = None


class Finished(Message):
    """The run's last step is committed and its slice written."""

    kind: Literal["finished"] = "finished"
    step: int


class Left(Message):
    """The answer to Stop."""

    kind: Literal["left"] = "left"
    step: int


class Failed(Message):
    """The engine cannot go on; it ends with the error's exit code."""

    kind: Literal["failed"] = "failed"
    slug: str
    message: str
    hint: str
    step: int
    lost_peer: WorkerId | None = None


Report = Annotated[
    Listening
    | Held
    | Moved
    | Pulse
    | LinksMeasured
    | PeersAway
    | StepDone
    | Evaluated
    | Wrote
    | SliceWritten
    | SpanReduced
    | AnchorReached
    | HandedOver
    | UpdateWanted
    | StateSaved
    | PlanBroken
    | Finished
    | Left
    | Failed,
    Field(discriminator="kind"),
]

COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
REPORTS: TypeAdapter[Report] = TypeAdapter(Report)
