"""The rounds of a run in figures: a part of GET /metrics, and the counters that the server keeps of them."""

from pydantic import BaseModel, Field


class Figures(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A part of a message."""


class RoundCounters(Figures):
    """What went wrong, or nearly, in the rounds of a run so far."""

    refused: dict[str, int] = Field(default_factory=dict)  # contributions that reducers turned away, by reason
    reports_refused: int = 0  # by the server: they did not fit the plan
    conflicts: int = 0  # reports of a past round or term, or of somebody else
    digests_differ: int = 0  # a second digest for a span and term
    undelivered: int = 0  # updates that were reported and never came into storage: the span's next reducer made another
    terms_raised: int = 0
    residuals_lost: int = 0  # a reducer gone, silent or not believed, and with it what encoding had dropped
    residuals_handed: int = 0  # by reducers that left, to the next ones
    audits_passed: int = 0  # spans that two workers combined to the same digest
    audits_failed: int = 0  # to two digests, of the same contributions: neither was believed
    audits_inconclusive: int = 0  # of different contributions: the reducer's update stands
    audits_silent: int = 0  # the auditor's did not come in time, or the span changed hands before
    duplicate_blocks: int = 0  # delivered again; counted once
    uncounted_tokens: int = 0  # named beyond what the plan allows
    empty_spans: int = 0  # updates that nobody contributed to
    below_quorum: int = 0  # updates with less than `rounds.quorum` of the plan's weight in them, made at the deadline
    clusters_lost: int = 0
    clusters_regrouped: int = 0  # that went on from a restore point with other members
    members_lost: int = 0  # by those
    root_mismatches: int = 0
    replays_differ: int = 0  # rounds that the assembler applied again, with another root than before
    checkpoints_damaged: int = 0  # on the server's disk: not what their manifest says, or not what the log gives
    blobs_refused: int = 0  # of another size or digest than reported
    blobs_damaged: int = 0  # in storage: they are not what their name says, and were deleted
    updates_damaged: int = 0  # that reached a worker: not what their name says
    storage_failures: int = 0  # updates that could not be stored or read: a full disk, a store out of reach
    worker_storage_failures: int = 0  # workers in rounds that stopped because their disk takes no more
    blobs_missing: int = 0  # now: committed, and no longer in storage


class RoundsView(Figures):
    """The rounds of a run, in figures."""

    committed: int
    rounds: int  # of the whole run
    participants: int  # of the round being trained, that are still there
    tokens: int  # counted in committed rounds
    round_s: float | None  # the last rounds' mean; None: nothing measured
    counters: RoundCounters
