"""What every widget shows, made of the agent's status: pure, and without Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from legion_client.ui.words import Words, amount, memory, moment, percent, spoken

if TYPE_CHECKING:  # their models take longer to make than a tray to show
    from legion_client.control.messages import Axis, DeviceNow, Face, Status, Why

Action = Literal[
    "pause", "snooze_15", "snooze_60", "snooze_240", "snooze_tomorrow", "resume", "finish", "gpu", "open",
    "preferences", "join", "quit",
]  # fmt: skip
SNOOZES_S = {"snooze_15": 15 * 60, "snooze_60": 3600, "snooze_240": 4 * 3600}
MORNING_HOUR = 8  # "until tomorrow" ends then
NOTHING = "-"
COUNTED_S = 2.0  # what takes longer and has no share


@dataclass(frozen=True, slots=True)
class Entry:
    """One action as the tray's menu and the window's menu bar show it."""

    text: str
    enabled: bool = True
    visible: bool = True
    checked: bool | None = None  # None: cannot be checked


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of Home."""

    caption: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    sentence: str
    setting: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    text: str
    detail: str  # what it has, what it does, or why it does nothing
    on: bool
    mark: str  # what the mark before it says, for who does not see it


@dataclass(frozen=True, slots=True)
class View:
    """Everything that follows from one status at one moment."""

    face: Face
    word: str  # of the face
    headline: str
    tooltip: str
    joined: bool
    entries: dict[Action, Entry]
    reasons: tuple[Reason, ...] = ()
    tiles: tuple[Tile, ...] = ()
    devices: tuple[DeviceRow, ...] = ()
    run_line: str = ""
    run_share: float | None = None  # 0 to 1
    run_facts: tuple[Tile, ...] = ()
    progress: str = ""
    progress_share: float | None = None  # 0 to 1; None with a text: nobody knows how long
    server_line: str = ""
    main_action: Action = "pause"
    busy: bool = field(default=False)  # work is being done at this moment


def face_words(words: Words) -> dict[Face, str]:
    return {
        "training": words.tr("Training"),
        "syncing": words.tr("Syncing"),
        "waiting": words.tr("Waiting"),
        "paused": words.tr("Paused"),
        "warning": words.tr("Needs attention"),
        "offline": words.tr("Offline"),
    }


def starting(words: Words) -> View:
    """Before the agent has said anything."""
    return _without_status(words, "waiting", words.tr("Starting"), words.tr("Legion is starting."))


def lost(words: Words, sentence: str, *, passes: bool = True) -> View:
    """While the agent cannot be reached; what does not pass by itself needs somebody's attention."""
    face: Face = "offline" if passes else "warning"
    return _without_status(words, face, face_words(words)[face], sentence)


def _without_status(words: Words, face: Face, word: str, headline: str) -> View:
    return View(face, word, headline, f"Legion: {word}\n{headline}", False, entries(words, None))


def view_of(words: Words, status: Status, now: float, since: float | None = None) -> View:
    """`now` in s since 1970, and `since` when what is told as progress began."""
    word, headline = face_words(words)[status.face], spoken(words, status.headline_said, status.headline)
    joined = status.server is not None
    return View(
        face=status.face,
        word=word,
        headline=headline,
        tooltip=tooltip(words, status, word, headline),
        joined=joined,
        entries=entries(words, status),
        reasons=tuple(Reason(sentence(words, why, now), link_of(why)) for why in status.reasons),
        tiles=tiles(words, status),
        devices=device_rows(words, status, now),
        run_line=run_line(words, status),
        run_share=None if status.run is None or not status.run.steps else status.run.step / status.run.steps,
        run_facts=run_facts(words, status),
        progress=progress(words, status, 0.0 if since is None else now - since),
        progress_share=status.progress_share,
        server_line=server_line(words, status),
        main_action="resume" if is_held(status) else "pause",
        busy=status.face in ("training", "syncing"),
    )


def server_line(words: Words, status: Status) -> str:
    if status.server is None:
        return ""
    if status.face == "offline":
        return words.tr("Server {server}", server=status.server)
    return words.tr("Connected to {server}", server=status.server)


def counts(status: Status) -> bool:
    """Whether seconds are shown: not while something is waited for, which may take hours."""
    return status.face == "syncing" and bool(status.progress) and status.progress_share is None


def progress(words: Words, status: Status, lasts_s: float) -> str:
    """With the seconds it lasts already where nobody knows its share: they show that something goes on.

    The agent's phrase goes on where a headline ends; here it has a line of its own.
    """
    phrase = status.progress[:1].upper() + status.progress[1:]
    if not counts(status) or lasts_s < COUNTED_S:
        return phrase
    return words.tr("{progress} ({seconds} s)", progress=phrase, seconds=words.number(int(lasts_s)))


def is_held(status: Status) -> bool:
    """Whether the volunteer has paused it; what waits for a rule goes on by itself."""
    return status.face == "paused"


def link_of(why: Why) -> str | None:
    """The setting to change; a pause is no row of the preferences, and ends where it began."""
    return None if why.setting == "modes.paused" else why.setting


def sentence(words: Words, why: Why, now: float) -> str:
    """With the time at which the reason ends, where that is known."""
    told = spoken(words, why.said, why.sentence)
    if why.until is None or why.until <= now:
        return told
    return words.tr("{sentence} Until {time}.", sentence=told, time=moment(words, why.until, now))


def tooltip(words: Words, status: Status, word: str, headline: str) -> str:
    """Three lines at most: some systems cut longer ones."""
    lines = [f"Legion: {word}", headline]
    if status.tokens_per_s > 0:
        lines.append(words.tr("{rate} tokens/s", rate=amount(words, status.tokens_per_s)))
    elif status.finishing:
        lines.append(words.tr("Pauses when this round is finished."))
    return "\n".join(lines)


def entries(words: Words, status: Status | None) -> dict[Action, Entry]:
    """All actions, whether they can be used now or not; `visible` is False for what this computer does not have."""
    known = status is not None
    joined = status is not None and status.server is not None
    held = status is not None and is_held(status)
    has_gpu = status is not None and any(map(can_use, cards_of(status.devices)))
    finishing = status is not None and status.finishing
    return {
        "pause": Entry(words.tr("&Pause"), joined, not held),
        "snooze_15": Entry(words.tr("For 15 minutes"), joined),
        "snooze_60": Entry(words.tr("For 1 hour"), joined),
        "snooze_240": Entry(words.tr("For 4 hours"), joined),
        "snooze_tomorrow": Entry(words.tr("Until tomorrow"), joined),
        "resume": Entry(words.tr("&Resume"), joined, held),
        "finish": Entry(
            words.tr("&Finish this round, then pause"), joined and not held and not finishing, checked=finishing
        ),
        "gpu": Entry(words.tr("Use the &graphics card"), joined, has_gpu, gpu_on(status)),
        "open": Entry(words.tr("&Open Legion")),
        "preferences": Entry(words.tr("P&references…"), known),
        "join": Entry(words.tr("&Join with an invite…"), known),
        "quit": Entry(words.tr("&Quit Legion")),
    }


def gpu_on(status: Status | None) -> bool:
    mode = None if status is None else status.modes.get("gpu")
    return mode is None or mode.mode != "never"


def tiles(words: Words, status: Status) -> tuple[Tile, ...]:
    given = status.contribution
    return (
        Tile(words.tr("Speed"), amount(words, status.tokens_per_s), words.tr("tokens a second")),
        Tile(words.tr("Accepted from you"), amount(words, given.accepted_tokens), words.tr("tokens")),
        Tile(
            words.tr("Your rank"),
            NOTHING if given.rank is None else f"#{words.number(given.rank)}",
            words.tr("not counted yet")
            if given.rank is None
            else words.count(given.ranked, "of {n} computer", "of {n} computers"),
        ),
        Tile(
            words.tr("Your share"),
            NOTHING if given.share is None else percent(words, given.share),
            words.tr("of the run"),
        ),
    )


def run_line(words: Words, status: Status) -> str:
    """One line about the whole run."""
    run = status.run
    if run is None:
        return ""
    parts = [words.tr("Step {step} of {steps}", step=words.number(run.step), steps=words.number(run.steps))]
    if run.round is not None:
        parts.append(words.tr("round {round}", round=words.number(run.round)))
    if run.loss is not None:
        parts.append(words.tr("loss {loss}", loss=words.number(run.loss, 3)))
    return " · ".join(parts)


def run_facts(words: Words, status: Status) -> tuple[Tile, ...]:
    run = status.run
    if run is None:
        return ()
    loss = NOTHING if run.loss is None else words.number(run.loss, 3)
    checked = (
        "" if run.validation_loss is None else words.tr("{loss} on new text", loss=words.number(run.validation_loss, 3))
    )
    rounds = NOTHING if run.round is None else words.number(run.round)
    return (
        Tile(words.tr("Steps"), words.number(run.step), words.tr("of {steps}", steps=words.number(run.steps))),
        Tile(
            words.tr("Rounds"),
            rounds,
            words.tr("every step is shared")
            if run.round is None
            else ("" if run.rounds is None else words.tr("of {rounds}", rounds=words.number(run.rounds))),
        ),
        Tile(words.tr("Computers"), words.number(run.workers), words.tr("take part")),
        Tile(words.tr("Loss"), loss, checked),
        Tile(words.tr("Read so far"), amount(words, run.tokens), words.tr("tokens")),
    )


def cards_of(devices: Sequence[DeviceNow]) -> list[DeviceNow]:
    return [device for device in devices if device.kind != "cpu"]


def can_use(device: DeviceNow) -> bool:
    """Whether it is for the volunteer to say if it computes."""
    return device.state != "unusable"


def device_rows(words: Words, status: Status, now: float) -> tuple[DeviceRow, ...]:
    rows = []
    many = len(cards_of(status.devices)) > 1
    for device in status.devices:
        axis: Axis = "cpu" if device.kind == "cpu" else "gpu"
        mode = status.modes.get(axis)
        on = device.state in ("computing", "ready") and (mode is None or mode.mode != "never")
        alone = sum(other.reasons[:1] == device.reasons[:1] for other in status.devices) == 1
        facts = device_facts(words, device, numbered=many)
        if device.reasons and alone:
            facts.append(sentence(words, device.reasons[0], now))
        elif device.state == "waiting":  # what all cards wait for stands above them, once
            facts.append(words.tr("waits"))
        elif not on:
            facts.append(words.tr("switched off"))
        elif device.state == "computing":
            facts.append(words.tr("computes now"))
        mark = words.tr("may compute") if on else words.tr("does not compute")
        rows.append(DeviceRow(device.name, " · ".join(facts), on, mark))
    return tuple(rows)


def device_facts(words: Words, device: DeviceNow, *, numbered: bool) -> list[str]:
    """`numbered`: with its number, which reasons and settings name, where there are several cards."""
    facts = []
    if device.cores is not None:
        facts.append(words.count(device.cores, "{n} core", "{n} cores"))
    if device.memory_bytes is not None:
        facts.append(memory(words, device.memory_bytes))
    if numbered and device.index is not None:
        facts.append(words.tr("graphics card {number}", number=device.index))
    return facts


def pause_until(action: Action, now: float) -> float | None:
    """When a pause of this kind ends, in s since 1970; None: when the volunteer says so."""
    if action in SNOOZES_S:
        return now + SNOOZES_S[action]
    if action == "snooze_tomorrow":
        morning = datetime.fromtimestamp(now).replace(hour=MORNING_HOUR, minute=0, second=0, microsecond=0)
        return (morning + timedelta(days=1)).timestamp()
    return None
