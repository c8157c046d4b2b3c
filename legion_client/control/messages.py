"""What a window or a command asks of the agent, and what the agent tells: one JSON object a line, both ways.

The same messages serve the tray of the agent's own process, a window that attaches to it, and `legion-client status`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from legion.messages import Message
from legion_client.control.accounts import AccountAnswer, AccountRequest

PROTOCOL = 1

# How the volunteer sees the program: each has a shape, a colour and a word of its own.
Face = Literal["training", "syncing", "waiting", "paused", "warning", "offline"]
Mode = Literal["auto", "always", "never"]
Axis = Literal["cpu", "gpu", "network"]
Level = Literal["info", "warning", "error"]
# `ready`: it may compute, as far as it alone goes. `waiting`: for a rule of the moment. `off`: the volunteer said so.
DeviceState = Literal["computing", "ready", "waiting", "off", "unusable"]


class Said(Message):
    """A sentence before its values are filled in with str.format: what a window in another language translates.

    A text without values is taken as it is.
    """

    text: str  # English
    values: dict[str, str | int] = Field(default_factory=dict)

    def __str__(self) -> str:
        if not self.values:
            return self.text
        return self.text.format(**{key: f"{v:,}" if isinstance(v, int) else v for key, v in self.values.items()})


class Why(Message):
    """A reason to wait or to do less: `slug` names it for programs, `sentence` says it to people."""

    slug: str
    sentence: str
    setting: str | None = None  # that causes it, as `settings list` names it
    until: float | None = None  # s since 1970, when it is known to end
    said: tuple[Said, ...] = ()  # the same sentence


class ModeNow(Message):
    """A run mode, and until when; then it is `auto` again."""

    mode: Mode = "auto"
    until: float | None = None  # s since 1970; None: until it is changed


class DeviceNow(Message):
    """The processor, or a graphics card, as this computer has it; whether an engine computes on it or not."""

    kind: Literal["cpu", "cuda", "mps", "xpu"]
    name: str
    index: int | None = None  # of a card, as its driver and `graphics.excluded` number it
    cores: int | None = None  # of the processor
    memory_bytes: int | None = None  # None: nobody tells
    state: DeviceState = "ready"
    reasons: tuple[Why, ...] = ()  # that stop or slow it alone; a fault stands first


class RunNow(Message):
    """The run that this computer takes part in, as the server tells."""

    run_id: str
    phase: str
    step: int
    steps: int
    round: int | None = None
    rounds: int | None = None
    workers: int = 0
    loss: float | None = None  # nats a token
    validation_loss: float | None = None
    tokens: int = 0  # of everybody


class Contribution(Message):
    """What the server has accepted from this computer."""

    accepted_tokens: int = 0
    rank: int | None = None
    ranked: int = 0  # computers that have one
    share: float | None = None  # of the run's tokens, 0 to 1


class Sample(Message):
    """One point of the graphs."""

    at: float  # s since 1970
    tokens_per_s: float = 0.0
    cpu_load: float | None = None  # ours, 0 to 1 of all cores
    gpu_load: float | None = None
    celsius: float | None = None
    watts: float | None = None
    sent_bytes_per_s: float | None = None
    received_bytes_per_s: float | None = None


class Happening(Message):
    """One line of the activity: what happened and why, as a sentence."""

    number: int
    at: float  # s since 1970
    level: Level = "info"
    kind: str
    sentence: str
    said: tuple[Said, ...] = ()  # the same


class CurvePoint(Message):
    """The run's loss at one step."""

    step: int
    tokens: int = 0  # of everybody, up to there
    loss: float  # nats a token
    least: float | None = None  # of the steps that this point stands for
    most: float | None = None


class Status(Message):
    """Everything that the tray, Home and `status` show."""

    protocol: int = PROTOCOL
    version: str
    face: Face
    headline: str  # the live reason, in words
    headline_said: tuple[Said, ...] = ()  # the same
    reasons: tuple[Why, ...] = ()  # all that hold, the most important first
    worker_id: str | None = None
    server: str | None = None  # host and port
    name: str = ""
    modes: dict[Axis, ModeNow] = Field(default_factory=dict)
    finishing: bool = False  # asked to stop after this round
    tokens_per_s: float = 0.0
    run: RunNow | None = None
    contribution: Contribution = Contribution()
    devices: tuple[DeviceNow, ...] = ()  # empty until they have been looked at
    progress: str = ""  # of what takes long: a download, the model being built
    progress_share: float | None = None  # 0 to 1


# The first line each way. Everything else waits until both have been read.


class Hello(Message):
    """Who connects. `token` and `nonce` are needed where the address has a secret: see control.address."""

    kind: Literal["hello"] = "hello"
    protocol: int = PROTOCOL
    token: str = ""
    nonce: str = ""


class Welcome(Message):
    """`proof` shows that the agent knows the secret too."""

    kind: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL
    version: str
    proof: str = ""


# Requests.


class GetStatus(Message):
    kind: Literal["status"] = "status"


class Follow(Message):
    """Status now and after every change, and happenings as they come, until the connection is closed."""

    kind: Literal["follow"] = "follow"


class Attach(Message):
    """Follow, as the window of an agent that has none: what is to be shown comes there, as Show.

    An agent has one window. Another one is refused with AlreadyRunning, after the first got `invite` to ask about."""

    kind: Literal["attach"] = "attach"
    invite: str | None = None


class Pause(Message):
    """Until `until` (s since 1970), or until Resume."""

    kind: Literal["pause"] = "pause"
    until: float | None = None


class Resume(Message):
    kind: Literal["resume"] = "resume"


class Finish(Message):
    """Finish this round, then pause; what has been learned is contributed first."""

    kind: Literal["finish"] = "finish"


class SetMode(Message):
    kind: Literal["mode"] = "mode"
    axis: Axis
    mode: Mode
    until: float | None = None


class GetSettings(Message):
    kind: Literal["settings"] = "settings"


class ChangeSettings(Message):
    """Values by dotted name; all of them or, with a problem in one, none. None takes a value back to its default."""

    kind: Literal["change_settings"] = "change_settings"
    values: dict[str, Any]


class Join(Message):
    """`invite` never stands on a command line: it comes from a file, standard input or a window."""

    kind: Literal["join"] = "join"
    invite: str


class Leave(Message):
    """Leave the run and the server; the identity stays."""

    kind: Literal["leave"] = "leave"


class GetHappenings(Message):
    kind: Literal["happenings"] = "happenings"
    after: int = 0
    most: Annotated[int, Field(ge=1, le=10_000)] = 200


class GetSamples(Message):
    """The graphs' points since a moment, thinned to at most so many."""

    kind: Literal["samples"] = "samples"
    since: float
    most: Annotated[int, Field(ge=2, le=10_000)] = 600


class Show(Message):
    """Raise the window; with an invite, ask there whether to join with it. The agent hands it on to a window that is
    attached."""

    kind: Literal["show"] = "show"
    invite: str | None = None


class GetCurve(Message):
    """The run's loss from its first step on, thinned to at most so many points, and what its newest model writes."""

    kind: Literal["curve"] = "curve"
    most: Annotated[int, Field(ge=2, le=10_000)] = 600


class Quit(Message):
    """End the agent in good order, as SIGTERM does."""

    kind: Literal["quit"] = "quit"


Request = Annotated[
    GetStatus
    | Follow
    | Attach
    | Pause
    | Resume
    | Finish
    | SetMode
    | GetSettings
    | ChangeSettings
    | Join
    | Leave
    | GetHappenings
    | GetSamples
    | GetCurve
    | Show
    | Quit
    | AccountRequest,
    Field(discriminator="kind"),
]


# Answers.


class StatusIs(Message):
    kind: Literal["status_is"] = "status_is"
    status: Status


class Happened(Message):
    kind: Literal["happened"] = "happened"
    happening: Happening


class HappeningsAre(Message):
    kind: Literal["happenings_are"] = "happenings_are"
    happenings: tuple[Happening, ...]


class SamplesAre(Message):
    kind: Literal["samples_are"] = "samples_are"
    samples: tuple[Sample, ...]


class CurveIs(Message):
    """`text` is a continuation that the newest checkpoint wrote, where the server has one."""

    kind: Literal["curve_is"] = "curve_is"
    training: tuple[CurvePoint, ...] = ()
    validation: tuple[CurvePoint, ...] = ()
    text: str | None = None
    text_step: int | None = None


class SettingsAre(Message):
    """Every setting by dotted name, and which of them the volunteer has set."""

    kind: Literal["settings_are"] = "settings_are"
    values: dict[str, Any]
    chosen: tuple[str, ...] = ()


class Done(Message):
    kind: Literal["done"] = "done"


class Refused(Message):
    """A LegionError: nothing has changed."""

    kind: Literal["refused"] = "refused"
    slug: str
    message: str
    hint: str = ""


Answer = Annotated[
    Welcome
    | StatusIs
    | Happened
    | HappeningsAre
    | SamplesAre
    | CurveIs
    | SettingsAre
    | AccountAnswer
    | Show
    | Done
    | Refused,
    Field(discriminator="kind"),
]

REQUESTS: TypeAdapter[Request] = TypeAdapter(Request)
ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)
