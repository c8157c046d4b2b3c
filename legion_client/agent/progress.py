"""How far what takes long has come: a phrase that follows the headline, and a share where it is known."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from legion_client.agent.cache import Download
from legion_client.agent.life import Phase

MB: Final = 10**6
QUIET_S: Final = 5.0  # without a step, or three steps' time if that is longer: others are waited for


@dataclass(frozen=True, slots=True)
class Progress:
    phrase: str
    share: float | None = None  # 0 to 1


@dataclass(frozen=True, slots=True)
class Going:
    """What is known of a membership under way."""

    phase: Phase
    transfer: Progress | None = None  # the newest
    in_rounds: bool = False
    members: int = 1  # of our cluster
    caught_up: tuple[int, int] | None = None  # rounds: so many of so many
    step_s: float | None = None  # of our newest step; None before the first
    quiet_s: float = 0.0  # since it


def progress(going: Going) -> Progress | None:
    """None where nothing takes long."""
    match going.phase:
        case Phase.JOINING | Phase.LOADING:
            return going.transfer
        case Phase.PREPARING | Phase.WAKING:
            return Progress("opens the data and builds the model")
        case Phase.READY | Phase.DOZING:
            when = "with one of its next rounds" if going.in_rounds else "once enough computers are there"
            return Progress(f"the run takes computers in {when}")
        case Phase.TRAINING:
            return _training(going)
    return None


def _training(going: Going) -> Progress | None:
    if going.caught_up is not None:
        done, rounds = going.caught_up
        return Progress(f"catches up with the run, {done:,} of {rounds:,} rounds", done / rounds)
    if going.step_s is None:
        return Progress("begins its first round" if going.in_rounds else _first_step(going.members))
    if going.in_rounds and going.quiet_s > max(QUIET_S, 3 * going.step_s):
        return Progress("waits until the round's contributions are combined")
    return None


def _first_step(members: int) -> str:
    return "the first step is under way" if members == 1 else "connects to the other computers"


class Meter:
    """Counts what comes of so many bytes, and tells of it whenever a percent is full."""

    def __init__(self, what: str, total_bytes: int, told: Callable[[Progress], None]) -> None:
        self._what = what
        self._total = total_bytes
        self._told = told
        self._percent = -1
        self.at(0)

    def at(self, done_bytes: int) -> None:
        """So much is here, however much that was before."""
        done = min(done_bytes, self._total)
        percent = 100 * done // self._total if self._total else 100
        if percent != self._percent:
            self._percent = percent
            phrase = f"{done / MB:,.1f} of {self._total / MB:,.1f} MB of {self._what}"
            self._told(Progress(phrase, done / self._total if self._total else 1.0))

    def counting(self, download: Download, before_bytes: int, size_bytes: int) -> Download:
        """The same download, which counts for `size_bytes`; `before_bytes` of others are here already."""

        async def chunks(offset: int) -> AsyncIterator[bytes]:
            done = offset
            async for chunk in download(offset):
                done += len(chunk)
                self.at(before_bytes + min(done, size_bytes))
                yield chunk

        return chunks
