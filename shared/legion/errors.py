"""Every exception Legion raises, in one tree.

Each class says what happened (`title`), what a person can do (`hint`), whether trying again can help
(`retryable`), and how it leaves the program (`exit_code` of a process, `status` of an HTTP response).
Foreign errors are mapped to these at the border where they appear: gRPC, HTTP, the operating system.

    LegionError
    +- Unusable        bad input: configuration, arguments, files
    +- Refused         identity, invites, permissions
    +- DataError       dataset or tokenizer
    +- PeerError       other members of a cluster
    +- Unavailable     server, network, storage
    +- RunError        the run itself cannot go on
"""

from typing import Any, ClassVar


class LegionError(Exception):
    """The base. `str(error)` is one sentence with the values at hand; `hint` says what to do."""

    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong in Legion"
    hint: str = "Report this with the log around it."
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, message: str = "", *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message or self.title)
        self.details = details
        if hint is not None:
            self.hint = hint


class Unusable(LegionError):
    """Input that cannot be used as it is."""

    slug = "unusable"
    title = "That cannot be used"
    hint = "Correct it and try again."
    exit_code = 2
    status = 422


class ConfigInvalid(Unusable):
    """A run configuration that does not fit together. `details["errors"]` lists field, problem, allowed values."""

    slug = "config-invalid"
    title = "The run's configuration is not valid"
    hint = "Change the named fields; GET /training/config shows the whole configuration."


class ConfigLocked(Unusable):
    slug = "config-locked"
    title = "The run has started; its configuration can no longer change"
    hint = "Start a new run in another data folder to train with another configuration."
    status = 409


class NotFound(Unusable):
    slug = "not-found"
    title = "There is no such thing here"
    hint = "Check the name; the parent path lists what exists."
    status = 404


class SecretUnknown(NotFound):
    slug = "secret-unknown"
    title = "This code or phrase is not known"
    hint = "A code is good for 10 minutes and once: ask for another on a device that is linked already."


class AccountMissing(NotFound):
    slug = "account-missing"
    title = "This device has no account"
    hint = "Claim a nickname first, or link the device to the account of another one."


class NameUnusable(Unusable):
    slug = "name-unusable"
    title = "This name cannot be used"
    hint = "Take 3 to 24 letters and digits, with - _ . between them."


class NameTaken(Unusable):
    slug = "name-taken"
    title = "This name is taken"
    hint = "Choose another one."
    status = 409


class CheckpointInvalid(Unusable):
    slug = "checkpoint-invalid"
    title = "The checkpoint cannot be used"
    hint = "Use another checkpoint; this one is incomplete or damaged."
    exit_code = 5


class Refused(LegionError):
    """The other side does not let us in, or we do not trust it."""

    slug = "refused"
    title = "Permission denied"
    hint = "Ask the operator of the server."
    exit_code = 10
    status = 403


class Unauthenticated(Refused):
    slug = "unauthenticated"
    title = "A valid token is needed"
    hint = "Send the admin's or the worker's token as 'Authorization: Bearer ...'."
    status = 401


class InviteInvalid(Refused):
    slug = "invite-invalid"
    title = "The invite is not valid"
    hint = "Ask the operator for a new invite ('legion-server invite')."


class InviteExpired(InviteInvalid):
    slug = "invite-expired"
    title = "The invite has expired"


class InviteUsed(InviteInvalid):
    slug = "invite-used"
    title = "The invite was used already"


class WrongAuthority(Refused):
    slug = "wrong-authority"
    title = "The server's certificate authority is not the one the invite names"
    hint = "Do not go on: somebody may be between you and the server. Ask the operator for a fresh invite."


class WorkerRevoked(Refused):
    slug = "worker-revoked"
    title = "This worker's access was revoked"
    hint = "Ask the operator for a new invite and join with it; one that this computer has used before does not count."


class WorkerDoubled(Refused):
    slug = "worker-doubled"
    title = "Another program takes part with this computer's identity"
    hint = "Two computers must not share one identity: join this one with an invite of its own, in a new home (--home)."
    status = 409


class ProtocolMismatch(Refused):
    slug = "protocol-mismatch"
    title = "Client and server speak different protocol versions"
    hint = "Install the same Legion version on both sides."
    exit_code = 11
    status = 426


class TooManyRequests(Refused):
    slug = "too-many-requests"
    title = "Too many requests"
    hint = "Wait for the time that Retry-After names."
    retryable = True
    status = 429


class RoundConflict(Unusable):
    """A report of a past round or term, from somebody else than the span's reducer, or a second digest."""

    slug = "round-conflict"
    title = "The round has moved on without this"
    hint = "Fetch the round's plan, and go on from there."
    status = 409


class ReportInvalid(Unusable):
    """A reducer's report that does not fit the round's plan."""

    slug = "report-invalid"
    title = "The report does not fit the round's plan"
    hint = "The reducer is broken or hostile; the operator can revoke it. The next in the list does the span."


class DataError(LegionError):
    slug = "data"
    title = "The dataset cannot be used"
    hint = "Check the dataset's name and files on the server."
    exit_code = 20
    status = 422


class DatasetMissing(DataError):
    slug = "dataset-missing"
    title = "The dataset does not exist"


class DatasetEmpty(DataError):
    slug = "dataset-empty"
    title = "The dataset holds no text"
    hint = "Add files with text, or lower data.seq_len."


class FingerprintMismatch(DataError):
    slug = "fingerprint-mismatch"
    title = "The data is not the data this run was started with"
    hint = "Clear the client's data cache; if it happens again, the server's data folder was changed under the run."


class PeerError(LegionError):
    slug = "peer"
    title = "Another computer of the cluster failed"
    exit_code = 30
    status = 502


class PeerLost(PeerError):
    slug = "peer-lost"
    title = "A computer of this cluster left"
    hint = "Start it again and resume the run from its last checkpoint."
    retryable = True


class PeerPaused(PeerLost):
    slug = "peer-paused"
    title = "A computer of this cluster was paused"
    hint = "Nothing is to be done: the run goes on from where it stands, with the computers that are ready then."


class PeerRefused(PeerError):
    slug = "peer-refused"
    title = "A computer of this cluster does not accept us"
    hint = "Both sides need certificates of the same server and the same plan; restart the client to renew them."


class PartInvalid(PeerError):
    """A frame or tensor that must not be used: truncated, repeated, wrong shape, wrong owner, wrong CRC."""

    slug = "part-invalid"
    title = "A peer sent data that does not fit the plan"
    hint = "The sender is broken or hostile; the operator can revoke it."


class PartRefused(PeerError):
    """A contribution that a reducer turns away; `reason` is one word, to be counted."""

    slug = "part-refused"
    title = "A reducer does not take this contribution"
    hint = "What it held waits and goes with the next one; nothing is lost."

    @property
    def reason(self) -> str:
        return str(self.details.get("reason", "unknown"))


class NotFinite(PeerError):
    slug = "not-finite"
    title = "A gradient or weight is NaN or infinite"
    hint = "Lower the learning rate or use fp32; if one worker alone does this, its hardware is suspect."


class Unavailable(LegionError):
    slug = "unavailable"
    title = "A service cannot be reached"
    hint = "Check that it runs and that the address is right."
    retryable = True
    exit_code = 40
    status = 503


class ServerUnreachable(Unavailable):
    slug = "server-unreachable"
    title = "The Legion server cannot be reached"
    hint = "Check the address and your connection; the client keeps trying by itself."


class NoLeader(Unavailable):
    """Several servers share a database, and the one that decides is not known now, or was another in between."""

    slug = "no-leader"
    title = "No server leads the run at this moment"
    hint = "Another one takes over within seconds; ask again."


class NotReady(Unavailable):
    slug = "not-ready"
    title = "This server should not be sent requests now"
    hint = "Send them to another server, and look here again in a few seconds."


class PortInUse(Unavailable):
    slug = "port-in-use"
    title = "The port is in use"
    hint = "Stop the other program, or choose another port with --port."
    retryable = False
    exit_code = 41


class StorageFailed(Unavailable):
    """Disk full, read-only or missing folder. Nothing half-written stays behind."""

    slug = "storage-failed"
    title = "A file could not be written"
    hint = "Free disk space or choose another folder; finished checkpoints are intact."
    retryable = False
    exit_code = 42
    status = 507


class ClockBehind(Unavailable):
    slug = "clock-behind"
    title = "This machine's clock is wrong"
    hint = "Set the clock, and start again: nobody would believe certificates of the past."
    retryable = False
    exit_code = 46


class AgentNotRunning(Unavailable):
    """A window or a command found no agent that serves this home."""

    slug = "agent-not-running"
    title = "Legion is not running"
    hint = "Start it: 'legion-client', or 'legion-client --no-gui' without a window."
    retryable = False
    exit_code = 43


class AlreadyRunning(Unavailable):
    slug = "already-running"
    title = "Legion is already running with this home"
    hint = "Use 'legion-client status' to see it, or give the second one a folder of its own with --home."
    retryable = False
    exit_code = 44


class NoDisplay(Unavailable):
    """Qt would end the program: a library that draws windows is missing, or no display answers."""

    slug = "no-display"
    title = "No window can be opened here"
    hint = "Start it in a desktop session, or run 'legion-client --no-gui', which needs no window."
    retryable = False
    exit_code = 45


class RunError(LegionError):
    slug = "run"
    title = "The run cannot go on"
    hint = "Resume it from its last checkpoint: legion-server up --resume."
    exit_code = 50
    status = 409


class StepAborted(RunError):
    slug = "step-aborted"
    title = "The step was aborted on all members"


class EngineDied(RunError):
    slug = "engine-died"
    title = "The training engine ended unexpectedly"
    hint = "See the engine's log; out of memory and driver faults end it without a message."
    exit_code = 51


class VerificationFailed(RunError):
    slug = "verification-failed"
    title = "The run differs from the single-process reference"
    hint = "Training is not exact: report this with the printed table."
    exit_code = 1


def every_error() -> list[type[LegionError]]:
    """All classes of the tree, parents first; the documentation and its test list them."""
    found: list[type[LegionError]] = [LegionError]
    for kind in found:
        found.extend(sorted(kind.__subclasses__(), key=lambda c: c.__name__))
    return found


def by_slug(slug: str, message: str, *, hint: str | None = None) -> LegionError:
    """The error a peer process or the server named; an unknown slug becomes a plain LegionError."""
    for kind in every_error():
        if kind.slug == slug:
            return kind(message, hint=hint)
    return LegionError(message, hint=hint)
