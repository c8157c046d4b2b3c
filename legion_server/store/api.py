"""What the coordinator knows of its database. One contract test runs over every implementation."""

from dataclasses import dataclass, field
from typing import Protocol

from legion.ids import RunId, WorkerId
from legion.messages import DatasetManifest
from legion.reports import EvaluationRecord, LossBucket, MetricsReport, StepSummary, TextSample, WorkerTotals
from legion.rounds import RoundPlan, RoundRecord
from legion_server.domain.archive import RunArchive
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.credit import RoundCredit
from legion_server.domain.happenings import Happening
from legion_server.domain.links import Links, Pair
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Run


@dataclass(frozen=True, slots=True)
class Dataset:
    """The prepared data of a run, so that a restarted server need not prepare it again."""

    manifest: DatasetManifest
    unigram_entropy: float | None
    bigram_entropy: float | None


@dataclass(frozen=True, slots=True)
class Numbered:
    """A happening with its place in the stream of events."""

    number: int
    at: float  # s since 1970
    happening: Happening


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything the coordinator holds in memory; `events` is the kept tail, oldest first."""

    run: Run | None
    dataset: Dataset | None
    workers: tuple[Worker, ...]
    checkpoints: tuple[Checkpoint, ...]
    events: tuple[Numbered, ...]
    rounds: Rounds | None = None
    links: Links = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Succession:
    """Another run takes the place of one that is over: all that tells of that one goes, but for its archive."""

    archive: RunArchive
    following: RunId


@dataclass(frozen=True, slots=True)
class Change:
    """One decision: saved as a whole or not at all."""

    succession: Succession | None = None  # before all else
    run: Run | None = None
    dataset: Dataset | None = None
    forget_dataset: bool = False
    workers: tuple[Worker, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    dropped_checkpoints: tuple[int, ...] = ()  # steps
    report: tuple[WorkerId, MetricsReport] | None = None
    superseded_after: int | None = None  # metrics of later steps belong to a past that was given up
    rounds: Rounds | None = None
    rounds_before: Rounds | None = None  # what the store has for sure: the difference is written; None: all is
    records: tuple[RoundRecord, ...] = ()  # new, or with their root
    plans: tuple[RoundPlan, ...] = ()  # in place of older revisions
    credit: RoundCredit | None = None
    links: Links = field(default_factory=dict)  # new rows, and in place of older ones
    dropped_links: tuple[Pair, ...] = ()
    forget_rounds_before: int | None = None
    events: tuple[Numbered, ...] = field(default=())
    keep_events_after: int = 0  # number; older ones go


class Store(Protocol):
    """Errors of the disk come out as StorageFailed, those of a database server as Unavailable."""

    async def open(self) -> None:
        """Bring the schema up to date."""

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Whether it can be read."""

    async def until_damaged(self) -> None:
        """Waits until the database is found to be damaged, and raises what says so."""

    async def load(self) -> Loaded: ...

    async def save(self, change: Change) -> None: ...

    async def events_after(self, number: int) -> list[Numbered]:
        """Those that are kept, oldest first."""

    async def use_invite(self, token_sha256: str, worker: WorkerId, now: float) -> bool:
        """Whether it is this worker's first use; asking again is none. InviteInvalid, InviteExpired or InviteUsed."""

    async def summaries(self, since: int | None, limit: int) -> list[StepSummary]:
        """The next `limit` steps after `since`, or the newest ones; oldest first."""

    async def loss_buckets(self, width: int) -> list[LossBucket]:
        """All steps that count, `width` of them together: 1 to width, and so on; oldest first."""

    async def evaluations(self) -> list[EvaluationRecord]: ...

    async def samples(self) -> list[tuple[WorkerId, TextSample]]:
        """What the model wrote lately, and by whose report; the newest first."""

    async def totals(self) -> list[WorkerTotals]:
        """Sums per worker over the steps that count, by worker id."""

    async def credited(self, run_id: RunId) -> dict[WorkerId, int]:
        """Tokens of all who have any in the run, by the ledger."""

    async def tokens(self) -> int:
        """Of all steps that count."""

    async def records(self, since: int, limit: int) -> list[RoundRecord]:
        """The log's records from round `since` on, oldest first."""

    async def plans(self, since: int, limit: int) -> list[RoundPlan]:
        """The newest plans of rounds from `since` on, oldest first."""
