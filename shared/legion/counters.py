"""The rounds of a run in figures: a part of GET /metrics, and the counters that the server keeps of them."""

from pydantic import BaseModel, Field


class Figures(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A part of a message."""


class RoundCounters(Figures):
    """What went wrong, or nearly, in the rounds of a run so far."""

    refused: dict[str, int] = Field(default_factory=dict)  # contributions that reducers turned away, by reason
    reports_refused: int = 0  # by the server: they did not fit the plan
    conflicts: int = 0  # reports of a past round or term, of somebody else, or a second digest for a span
    terms_raised: int = 0
    residuals_lost: int = 0  # a reducer gone or silent, and with it what encoding had dropped
    duplicate_blocks: int = 0  # delivered again; counted once
    uncounted_tokens: int = 0  # named beyond what the plan allows
    empty_spans: int = 0  # updates that nobody contributed to
    clusters_lost: int = 0
    root_mismatches: int = 0
    blobs_refused: int = 0  # of another size or digest than reported
    storage_failures: int = 0  # updates that could not be stored: a full disk, a store out of reach
    blobs_missing: int = 0  # now: committed, and no longer in storage


class RoundsView(Figures):
    """The rounds of a run, in figures."""

    committed: int
    rounds: int  # of the whole run
    participants: int  # of the round being trained, that are still there
    tokens: int  # counted in committed rounds
    round_s: float | None  # the last rounds' mean; None: nothing measured
    counters: RoundCounters
