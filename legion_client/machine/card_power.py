"""A graphics card's own power limit: lowered while we compute on it, and put back whatever becomes of us.

The limit is the whole computer's and outlives who sets it. So a note says what it was before it is lowered, and goes
once it is back. Who keeps a limit down holds the note's lock, which the system takes back when a process ends, however
it ends: a note whose lock is free is of a limit that nobody looks after any more. A limit that is no longer what we
made of it is somebody else's, and stays as it is.
"""

import contextlib
import logging
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from pydantic import BaseModel, PositiveInt, ValidationError

from legion.errors import LegionError
from legion_client.control.instance import take
from legion_client.machine.nvml import pynvml
from legion_client.machine.volume import write_whole

logger = logging.getLogger(__name__)

WHOLE = 1.0
WATT_MW = 1000
SET_BY_OTHERS = "somebody else has set it"


class DriverFailed(Exception):
    """What NVIDIA's driver refuses, in its words."""


class Lowered(BaseModel, frozen=True, extra="forbid"):
    """The note: whose limit, what it was, and what we made of it."""

    card: str  # as NVIDIA's driver names it: GPU-...
    before_mw: PositiveInt
    ours_mw: PositiveInt
    being_set: bool = False  # what the card makes of it is not known yet

    @property
    def share(self) -> float:
        return self.ours_mw / self.before_mw


class Move(Enum):
    STAY = auto()
    LOWER = auto()
    PUT_BACK = auto()
    LOWER_ANEW = auto()  # from what it was, so that a note never tells of two limits
    LEAVE = auto()


def target_mw(found_mw: int, least_mw: int, share: float) -> int:
    """A share of what was found, in whole watts: never less than the card takes, never more than was found."""
    return min(found_mw, max(least_mw, round(found_mw * share / WATT_MW) * WATT_MW))


def next_move(share: float, lowered: Lowered | None, lowered_for: float, present_mw: int) -> Move:
    """`share`: of the limit, that is wanted; `lowered_for`: the one that `lowered` was made for."""
    if lowered is None:
        return Move.LOWER if share < WHOLE else Move.STAY
    if present_mw != lowered.ours_mw:
        return Move.LEAVE
    if share == lowered_for:
        return Move.STAY
    return Move.LOWER_ANEW if share < WHOLE else Move.PUT_BACK


class Note:
    """What is to be put back when its writer no longer can. Any process may look after it, one at a time."""

    def __init__(self, path: Path, nvml: ModuleType | Any | None = pynvml) -> None:
        self._path = path
        self._nvml = nvml

    def read(self) -> None:
        """Settles a note that nobody looks after: see `sensing.Probe`. Raises what the driver does; it stays then."""
        if self._nvml is None or not self._path.exists():
            return
        with self.lock() as mine:
            if mine is not None:
                self.settle()

    @contextlib.contextmanager
    def lock(self) -> Iterator[BinaryIO | None]:
        """None where somebody has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a+b") as lock:
            yield lock if take(lock) else None

    def write(self, lowered: Lowered) -> None:
        write_whole(self._path, lowered.model_dump_json())

    def settle(self) -> None:
        """For who has the lock: the limit is what it was, or what others have made of it, and the note is gone."""
        try:
            lowered = Lowered.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except ValidationError as error:
            logger.warning("power limit of before is not known path=%s reason=%s", self._path, error)
        else:
            with asking(self._nvml):
                put_back(self._nvml, lowered)
        self._path.unlink(missing_ok=True)


class PowerLimit:
    """Of the card that this process computes on. Belongs to one thread, which the driver may hold up."""

    def __init__(self, card: str | None, note: Path, nvml: ModuleType | Any | None = pynvml) -> None:
        """`card`: as NVIDIA's driver names it; None if it is not NVIDIA's."""
        self._card = card
        self._nvml = nvml
        self._note = Note(note, nvml)
        self._locked = contextlib.ExitStack()  # for as long as the limit is ours
        self._lowered: Lowered | None = None
        self._lowered_for = WHOLE
        self._given_up = False

    def keep_to(self, share: float) -> float:
        """Lower the card to a share of its limit; 1 puts that back. The share that it keeps to by itself from now on.

        To be asked again now and then: a limit that others have set is theirs from then on. With the first trouble it
        is given up, and the card keeps to nothing by itself.
        """
        if self._given_up or (share >= WHOLE and self._lowered is None):
            return WHOLE
        if self._nvml is None or self._card is None:
            self._give_up("no driver of NVIDIA's knows the card")
            return WHOLE
        try:
            with asking(self._nvml):
                self._bring_to(share, self._nvml.nvmlDeviceGetHandleByUUID(self._card))
        except (DriverFailed, LegionError, OSError) as error:
            self._give_up(str(error))
        return WHOLE if self._lowered is None else self._lowered.share

    def settle(self) -> None:
        """Puts back what this process could not, or one before it."""
        try:
            self._note.read()
        except (DriverFailed, LegionError, OSError) as error:
            logger.warning("power limit stays lowered for now card=%s reason=%s", self._card, error)

    def _bring_to(self, share: float, handle: Any) -> None:
        nvml: Any = self._nvml
        move = next_move(share, self._lowered, self._lowered_for, nvml.nvmlDeviceGetPowerManagementLimit(handle))
        if move in (Move.PUT_BACK, Move.LOWER_ANEW, Move.LEAVE):
            self._note.settle()
            self._let_go()
        if move is Move.LEAVE:
            self._give_up(SET_BY_OTHERS)
        if move in (Move.LOWER, Move.LOWER_ANEW):
            self._lower(share, handle)

    def _lower(self, share: float, handle: Any) -> None:
        nvml: Any = self._nvml
        if self._locked.enter_context(self._note.lock()) is None:
            self._locked.close()  # whoever has it puts a limit back, and is done at the next look
            return
        self._note.settle()
        if in_parts(nvml, handle):
            raise DriverFailed("the card is divided (MIG), and its limit is that of all parts")
        found_mw = int(nvml.nvmlDeviceGetPowerManagementLimit(handle))
        least_mw, _ = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
        wanted_mw = target_mw(found_mw, int(least_mw), share)
        if wanted_mw >= found_mw:
            self._locked.close()
            return
        assert self._card is not None
        self._lowered = self._set(handle, Lowered(card=self._card, before_mw=found_mw, ours_mw=wanted_mw))
        self._lowered_for = share
        watts, before = self._lowered.ours_mw / WATT_MW, found_mw / WATT_MW
        logger.info("power limit lowered card=%s watts=%.0f before=%.0f", self._card, watts, before)

    def _set(self, handle: Any, wanted: Lowered) -> Lowered:
        """What has become of it: a card may round. The note is there before, so that no kill comes in between."""
        nvml: Any = self._nvml
        self._note.write(wanted.model_copy(update={"being_set": True}))
        try:
            nvml.nvmlDeviceSetPowerManagementLimit(handle, wanted.ours_mw)
            present_mw = int(nvml.nvmlDeviceGetPowerManagementLimit(handle))
        except nvml.NVMLError:
            self._note.settle()  # also where a driver has done what it reports a failure of
            raise
        if present_mw >= wanted.before_mw:
            self._note.settle()
            raise DriverFailed("the card does not take it")
        lowered = wanted.model_copy(update={"ours_mw": present_mw})
        self._note.write(lowered)
        return lowered

    def _let_go(self) -> None:
        self._lowered = None
        self._locked.close()

    def _give_up(self, reason: str) -> None:
        """The note stays if there still is one, for who comes next and finds its lock free."""
        self._given_up = True
        level = logging.INFO if self._lowered is None else logging.WARNING
        logger.log(level, "power limit is given up, rests take its place card=%s reason=%s", self._card, reason)
        self._let_go()


def put_back(nvml: Any, lowered: Lowered) -> None:
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(lowered.card)
    except nvml.NVMLError_NotFound:  # taken out: without power a card forgets its limit
        logger.info("power limit is of a card that is gone card=%s", lowered.card)
        return
    present_mw = nvml.nvmlDeviceGetPowerManagementLimit(handle)
    if present_mw == lowered.ours_mw or (lowered.being_set and present_mw < lowered.before_mw):
        nvml.nvmlDeviceSetPowerManagementLimit(handle, lowered.before_mw)
        logger.info("power limit put back card=%s watts=%.0f", lowered.card, lowered.before_mw / WATT_MW)


def in_parts(nvml: Any, handle: Any) -> bool:
    """Whether several programs have a part of the card each, as data centres do."""
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return False
    return bool(mode == nvml.NVML_DEVICE_MIG_ENABLE)


@contextlib.contextmanager
def asking(nvml: Any) -> Iterator[None]:
    """NVML, open for the time of the block: a library that stays open keeps a laptop's card awake."""
    try:
        nvml.nvmlInit()
        try:
            yield
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise DriverFailed(str(error)) from error
