"""Bodies of the REST interface about people: accounts, devices, teams, boards.

Credit is in units of 10^12 floating-point operations of accepted work.
"""

from typing import Annotated, Literal

from pydantic import Field

from legion.ids import RunId
from legion.messages import Endpoint, Hardware, Message

Board = Literal["volunteers", "teams", "devices"]
Order = Literal["credit", "recent"]
Nickname = Annotated[str, Field(min_length=1, max_length=64)]
TeamName = Annotated[str, Field(min_length=1, max_length=128)]
TeamId = Annotated[str, Field(pattern="^[a-z2-7]{16}$")]


class Standing(Message):
    """`rank` from 1 among those that are shown; None before any credit. `credit_a_day`: over the last week or so."""

    credit: float
    credit_a_day: float
    rank: int | None


class DeviceView(Message):
    """`number` is public, `is_this` that it asks. `linked_at` in s since 1970."""

    number: int
    is_this: bool
    linked_at: float
    credit: float


class TeamRef(Message):
    team_id: TeamId
    name: str
    is_founder: bool


class AccountView(Message):
    """What the server knows of a device and of whose it is; without `nickname` it is nobody's yet."""

    device: int
    nickname: str | None
    listed: bool = True
    exported: bool = False
    created_at: float | None = None
    standing: Standing
    devices: tuple[DeviceView, ...] = ()
    team: TeamRef | None = None
    asked: TeamRef | None = None  # a team that has not answered yet


class ClaimRequest(Message):
    """`listed`: on public boards; `exported`: in the statistics that anybody may download."""

    nickname: Nickname
    listed: bool = True
    exported: bool = False


class AccountChange(Message):
    """What is None stays."""

    nickname: Nickname | None = None
    listed: bool | None = None
    exported: bool | None = None


class ForgetRequest(Message):
    """`nickname`: the account's own, to be sure. `devices`: end their enrolments too, and forget what they are."""

    nickname: Nickname
    devices: bool = False


class RecoveryReply(Message):
    """Twelve words, shown once: with them another device is linked, whatever became of this one."""

    account: AccountView
    recovery_phrase: str


class LinkCode(Message):
    """For another device, within `expires_at` (s since 1970)."""

    code: str
    expires_at: float


class LinkRequest(Message):
    """A code of 8 digits, or a recovery phrase."""

    secret: Annotated[str, Field(min_length=8, max_length=200)]


class SignInLink(Message):
    """Opens the web pages, signed in; good once, until `expires_at` (s since 1970)."""

    url: str
    expires_at: float


class DeviceRecord(Message):
    """What a device has said of itself; None: nothing is known any more. Times in s since 1970."""

    number: int
    linked_at: float
    name: str | None
    hardware: Hardware | None
    endpoint: Endpoint | None
    enrolled_at: float | None
    last_seen: float | None
    credit_by_run: dict[str, float]


class DataRecord(Message):
    """All that the server knows of a volunteer."""

    account: AccountView
    devices: tuple[DeviceRecord, ...]
    sessions: tuple[float, ...]  # when browsers were signed in that still are


class TeamRequest(Message):
    name: TeamName
    about: Annotated[str, Field(max_length=1000)] = ""


class TeamChange(Message):
    """What is None stays. `founder`: the nickname of the member who is to be it."""

    name: TeamName | None = None
    about: Annotated[str, Field(max_length=1000)] | None = None
    founder: Nickname | None = None


class TeamMember(Message):
    """`since`: s since 1970."""

    nickname: str
    since: float


class TeamView(Message):
    """Members who are not on the boards are counted, not named; who asks to join is for the founder to see."""

    team_id: TeamId
    name: str
    about: str
    created_at: float
    founder: str | None
    member_count: int
    members: tuple[TeamMember, ...]
    requests: tuple[TeamMember, ...] = ()
    standing: Standing


class BoardRow(Message):
    """`name`: of a volunteer or a team, or of the volunteer whose device it is; None: not to be seen."""

    rank: int
    name: str | None
    team_id: TeamId | None = None
    device: int | None = None
    tokens: int
    credit: float
    credit_a_day: float


class BoardView(Message):
    """`after` begins the next page; None: this is the last. `accounts` and `credit`: of all, shown or not."""

    board: Board
    run_id: RunId | None
    order: Order
    rows: tuple[BoardRow, ...]
    after: str | None
    accounts: int
    credit: float


class DayView(Message):
    """`day`: since 1970, UTC."""

    day: int
    credit: float


class VolunteerView(Message):
    """What anybody may see of a volunteer."""

    nickname: str
    created_at: float
    standing: Standing
    team: TeamRef | None
    devices: int
    runs: dict[str, float]  # credit by run
    days: tuple[DayView, ...]
