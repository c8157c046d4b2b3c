"""Boards for anybody: pages by cursor, what a volunteer's page says, totals."""

import base64
import json
import re
from collections.abc import Callable

from legion.accounts import Board, BoardRow, BoardView, DayView, Order, VolunteerView
from legion.errors import NotFound, Unusable
from legion.ids import RunId
from legion_server.domain import accounts as rules
from legion_server.domain.standing import MFLOP_PER_CREDIT, credit_a_day
from legion_server.service.accounts import standing_of, team_ref
from legion_server.store.accounts import AccountStore, Volunteer
from legion_server.store.attribution import ALL_RUNS
from legion_server.store.standings import Place, Row, StandingStore
from legion_server.store.teams import TeamStore

COLUMN = {"credit": "mflop", "recent": "recent"}
_ACCOUNT = re.compile(r"[a-z2-7]{1,32}")
TOTALS_S = 10.0  # that totals over a board are good for: they are sums over all of it


class Boards:
    def __init__(
        self, accounts: AccountStore, teams: TeamStore, standings: StandingStore, clock: Callable[[], float]
    ) -> None:
        self._accounts = accounts
        self._teams = teams
        self._standings = standings
        self._clock = clock
        self._totals: dict[tuple[Board, str], tuple[float, int, float]] = {}

    async def page(self, board: Board, run_id: RunId | None, order: Order, after: str | None, limit: int) -> BoardView:
        """Unusable for a cursor that no page gave."""
        scope = run_id or ALL_RUNS
        place = _place(after) if after is not None else None
        column = COLUMN[order]
        rows = await self._standings.page(board, scope, column, after=place, limit=limit + 1)  # type: ignore[arg-type]
        shown, now = rows[:limit], self._clock()
        accounts, credit = await self._sums(board, scope)
        return BoardView(
            board=board,
            run_id=run_id,
            order=order,
            rows=tuple(row_view(board, row, now) for row in shown),
            after=_cursor(shown[-1].place(column)) if len(rows) > limit else None,  # type: ignore[arg-type]
            accounts=accounts,
            credit=credit,
        )

    async def search(self, board: Board, beginning: str) -> tuple[BoardRow, ...]:
        """Volunteers and teams by the beginning of their names."""
        if board == "devices" or not beginning.isprintable():
            return ()
        rows = await self._standings.search(board, rules.folded(beginning.strip()))
        return tuple(row_view(board, row, self._clock()) for row in rows)

    async def own(self, volunteer: Volunteer, run_id: RunId | None, order: Order) -> BoardRow | None:
        """A volunteer's own row of the volunteers' board."""
        column = COLUMN[order]
        row = await self._standings.one("volunteers", volunteer.volunteer_id, run_id or ALL_RUNS, column)  # type: ignore[arg-type]
        return row_view("volunteers", row, self._clock()) if row else None

    async def volunteer(self, nickname: str) -> VolunteerView:
        """NotFound, for those who are not listed too."""
        found = await self._accounts.by_key(rules.folded(nickname)) if nickname.isprintable() else None
        if found is None or not found.listed:
            raise NotFound(f"there is no volunteer {nickname} on the boards")
        who, now = found.volunteer_id, self._clock()
        runs = await self._standings.runs_of("volunteers", who)
        return VolunteerView(
            nickname=found.nickname,
            created_at=found.created_at,
            standing=standing_of(await self._standings.one("volunteers", who), now),
            team=team_ref(await self._teams.of_volunteer(who), who),
            devices=len(await self._accounts.devices(who)),
            runs={run_id: mflop / MFLOP_PER_CREDIT for run_id, mflop in runs.items()},
            days=await self.days("volunteers", who),
        )

    async def days(self, board: Board, account: str) -> tuple[DayView, ...]:
        days = await self._standings.days(board, account, self._clock())
        return tuple(DayView(day=day, credit=mflop / MFLOP_PER_CREDIT) for day, mflop in days.items())

    async def _sums(self, board: Board, scope: str) -> tuple[int, float]:
        now = self._clock()
        known = self._totals.get((board, scope))
        if known is None or not 0 <= now - known[0] < TOTALS_S:
            found = await self._standings.totals(board, scope)
            known = self._totals[board, scope] = (now, found.accounts, found.mflop / MFLOP_PER_CREDIT)
        return known[1], known[2]


def row_view(board: Board, row: Row, now: float) -> BoardRow:
    return BoardRow(
        rank=row.rank,
        name=row.name,
        team_id=row.account if board == "teams" else None,
        device=row.number,
        tokens=row.tokens,
        credit=row.mflop / MFLOP_PER_CREDIT,
        credit_a_day=credit_a_day(row.recent, now),
    )


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _place(cursor: str) -> Place:
    try:
        value, account = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError):
        value, account = None, None
    if type(value) in (int, float) and abs(value) < 2**63 and isinstance(account, str) and _ACCOUNT.fullmatch(account):
        return value, account
    raise Unusable("this is no cursor of a board", hint="Begin with the first page, without 'after'.")
