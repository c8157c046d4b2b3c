"""A desk that keeps everything in memory: what is asked of it changes what it tells, as with the agent."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from legion.accounts import AccountView, DeviceView, Standing, TeamRef
from legion.errors import SecretUnknown, Unusable
from legion.identity import Invite
from legion_client.control.accounts import (
    AccountAnswer,
    AccountIs,
    AccountRequest,
    ClaimName,
    CodeIs,
    LinkAccount,
    NewCode,
    NewPhrase,
    NewSignIn,
    SignInIs,
)
from legion_client.control.messages import (
    Axis,
    Contribution,
    CurveIs,
    CurvePoint,
    DeviceNow,
    Happening,
    Mode,
    ModeNow,
    RunNow,
    Sample,
    SettingsAre,
    Status,
    Why,
)
from legion_client.ui.near import Near

NEW = Status(version="0.1", face="waiting", headline="This computer has not joined a run yet.")
TRAINING = Status(
    version="0.1",
    face="training",
    headline="Training in round 13 with 37 other computers.",
    worker_id="qd5x2mzv7yt3knahc6b4ojw2lrpsu6gi",
    server="training.example.org:8470",
    name="attic",
    modes={"cpu": ModeNow(), "gpu": ModeNow(), "network": ModeNow()},
    tokens_per_s=8412.0,
    run=RunNow(
        run_id="run-1f3a9c2e", phase="training", step=4120, steps=12000, round=13, rounds=375, workers=38,
        loss=3.271, validation_loss=3.318, tokens=1_080_033_280,
    ),
    contribution=Contribution(accepted_tokens=24_182_784, rank=9, ranked=38, share=0.0224),
    devices=(
        DeviceNow(kind="cuda", name="NVIDIA GeForce RTX 3060", index=0, memory_bytes=12 * 2**30, state="computing"),
        DeviceNow(kind="cpu", name="AMD Ryzen 7 5800X", cores=8, memory_bytes=32 * 2**30),
    ),
)  # fmt: skip
WAITING = TRAINING.model_copy(
    update={
        "face": "waiting",
        "headline": "Waiting: a program covers the whole screen.",
        "tokens_per_s": 0.0,
        "reasons": (
            Why(
                slug="full-screen", sentence="Waiting: a program covers the whole screen.", setting="pause.full_screen"
            ),
            Why(slug="battery", sentence="Waiting: the computer runs on battery.", setting="pause.on_battery"),
        ),
    }
)
TEXT = (
    "The lighthouse keeper wrote every evening into the same book. On the first page stood the weather, on the second "
    "the ships that had passed, and on the third what the sea had told him, which was seldom the same thing twice."
)

CODE = "83015527"
PHRASE = "gravity machine north sort system female filter attitude volume fold club stay"


def account_of(nickname: str | None) -> AccountView:
    """Of a volunteer with two computers, or of nobody's."""
    standing = Standing(credit=12_345.6, credit_a_day=810.0, rank=7)
    if nickname is None:
        return AccountView(device=41, nickname=None, standing=standing)
    return AccountView(
        device=41,
        nickname=nickname,
        standing=standing,
        devices=(
            DeviceView(number=41, is_this=True, linked_at=1_800_000_000.0, credit=12_000.0),
            DeviceView(number=52, is_this=False, linked_at=1_800_000_000.0, credit=345.6),
        ),
        team=TeamRef(team_id="attic72222222222", name="Attic 7", is_founder=False),
    )


class MemoryDesk:
    """The desk of an agent whose world is a few lists."""

    def __init__(self, status: Status = TRAINING) -> None:
        self._status = status
        self._queues: list[asyncio.Queue[Status | Happening]] = []
        self.values: dict[str, Any] = {}
        self.joined_with: list[str] = []
        self.has_quit = False
        self.kept_happenings: list[Happening] = []
        self.kept_samples: list[Sample] = []
        self.kept_curve = CurveIs()
        self.kept_account = account_of(None)

    def status(self) -> Status:
        return self._status

    def tell(self, **changes: Any) -> None:
        self._status = self._status.model_copy(update=changes)
        self._send(self._status)

    def happen(self, sentence: str, **fields: Any) -> None:
        line = Happening(
            number=len(self.kept_happenings) + 1,
            **{"at": time.time(), "kind": "note", "sentence": sentence} | fields,
        )
        self.kept_happenings.append(line)
        self._send(line)

    def _send(self, told: Status | Happening) -> None:
        for queue in self._queues:
            queue.put_nowait(told)

    async def follow(self) -> AsyncIterator[Status | Happening]:
        queue: asyncio.Queue[Status | Happening] = asyncio.Queue()
        queue.put_nowait(self._status)
        self._queues.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)

    async def pause(self, until: float | None) -> None:
        why = Why(slug="paused", sentence="Paused by you.", until=until)
        self.tell(face="paused", headline="Paused by you.", reasons=(why,), tokens_per_s=0.0)

    async def resume(self) -> None:
        self.tell(face="training", headline=TRAINING.headline, reasons=(), tokens_per_s=TRAINING.tokens_per_s)

    async def finish(self) -> None:
        self.tell(finishing=True)

    async def mode(self, axis: Axis, mode: Mode, until: float | None) -> None:
        self.tell(modes=self._status.modes | {axis: ModeNow(mode=mode, until=until)})

    def settings(self) -> SettingsAre:
        return SettingsAre(values=dict(self.values), chosen=tuple(self.values))

    async def change(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value

    async def join(self, invite: str) -> None:
        parsed = Invite.parse(invite)
        self.joined_with.append(invite)
        self.tell(
            **TRAINING.model_dump(include={"face", "headline", "worker_id"}), server=f"{parsed.host}:{parsed.port}"
        )

    async def leave(self) -> None:
        if self._status.server is None:
            raise Unusable("this computer has not joined a server")
        self.tell(server=None, face="offline", run=None)

    async def happenings(self, after: int, most: int) -> Sequence[Happening]:
        return [line for line in self.kept_happenings if line.number > after][-most:]

    async def samples(self, since: float, most: int) -> Sequence[Sample]:
        found = [sample for sample in self.kept_samples if sample.at >= since]
        return found[:: max(1, math.ceil(len(found) / most))]

    async def curve(self, most: int) -> CurveIs:
        return self.kept_curve

    async def account(self, request: AccountRequest) -> AccountAnswer:
        match request:
            case ClaimName(nickname=nickname):
                self.kept_account = account_of(nickname)
                return AccountIs(account=self.kept_account, phrase=PHRASE)
            case LinkAccount(secret=secret):
                if secret != CODE:
                    raise SecretUnknown("nobody has this code or phrase, or it has expired")
                self.kept_account = account_of("Ada")
            case NewPhrase():
                return AccountIs(account=self.kept_account, phrase=PHRASE)
            case NewCode():
                return CodeIs(code=CODE, expires_at=time.time() + 600)
            case NewSignIn():
                return SignInIs(url="https://training.example.org:8470/sign-in/once")
        return AccountIs(account=self.kept_account)

    async def show(self, invite: str | None) -> None:
        raise Unusable("this agent has no window")

    async def quit(self) -> None:
        self.has_quit = True


def with_history(now: float, status: Status = TRAINING) -> MemoryDesk:
    """A desk that has been at it for a day."""
    desk = MemoryDesk(status)
    desk.kept_samples = [sample_at(now - 86_400 + 60 * minute, minute) for minute in range(1440)]
    curve = [point_at(step) for step in range(20, 4121, 20)]
    checks = [CurvePoint(step=point.step, loss=point.loss + 0.05) for point in curve[9::10]]
    desk.kept_curve = CurveIs(training=tuple(curve), validation=tuple(checks), text=TEXT, text_step=4096)
    for minutes, level, sentence in (
        (1500, "info", "This computer has joined https://training.example.org:8470."),
        (1490, "info", "This computer trains on its own, from step 0 on."),
        (378, "info", "A program covers the screen."),
        (340, "info", "Training goes on after 38 min. A program covers the screen."),
        (
            214,
            "warning",
            "The server is not heard: https://training.example.org:8470 cannot be reached: it has stopped answering. "
            "It is tried again; training goes on as far as it can.",
        ),
        (210, "info", "The server is heard again, after 4 min."),
        (
            41,
            "warning",
            "The training engine ended unexpectedly: the engine was killed by SIGKILL (often the system's "
            "answer when memory runs out). It is started again.",
        ),
        (5, "error", "The training engine crashed 3 times: the engine was killed by SIGKILL."),
    ):
        desk.happen(sentence, at=now - 60 * minutes, level=level)
    return desk


def sample_at(at: float, minute: int) -> Sample:
    """A day with a pause in it."""
    if 1100 <= minute < 1140:
        return Sample(at=at, cpu_load=0.02, gpu_load=0.3, celsius=51.0, watts=34.0)
    wave = math.sin(minute / 40) + 0.4 * math.sin(minute / 7)
    return Sample(
        at=at, tokens_per_s=8200 + 350 * wave, cpu_load=0.46 + 0.03 * wave, gpu_load=0.93 + 0.01 * wave,
        celsius=68 + 2.5 * wave, watts=162 + 6 * wave, sent_bytes_per_s=0.0 if minute % 95 else 2.4e6,
        received_bytes_per_s=4e4 if minute % 95 else 3.1e6,
    )  # fmt: skip


def point_at(step: int) -> CurvePoint:
    loss = loss_after(step)
    spread = 0.05 + 0.04 * abs(math.sin(step))
    return CurvePoint(step=step, tokens=step * 262_144, loss=loss, least=loss - spread, most=loss + spread)


def loss_after(step: int) -> float:
    return 2.9 + 7.0 * (step + 15) ** -0.36 + 0.03 * math.sin(step * 1.7)


@asynccontextmanager
async def seat_of(desk: MemoryDesk) -> AsyncIterator[Near]:
    yield Near(desk)
