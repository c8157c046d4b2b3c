"""What the policy's decision means for the engine that runs now, or for the next one. Pure."""

from dataclasses import dataclass
from typing import Protocol

from legion.messages import Device
from legion_client.agent.life import Wish
from legion_client.engine.protocol import Throttle
from legion_client.machine.policy import Decision, GpuLimit, Limits, Pause, Run
from legion_client.machine.reasons import Active, Reason, sentence

# Beside what the decision itself says: reasons that nobody expects to end soon.
ENDS_ENGINE = frozenset((Reason.SHUTTING_DOWN, Reason.SETTINGS_UNUSABLE))
# To serve others of the cluster takes the network and, at the end of each of their steps, the processor for a moment.
SERVES_NOBODY = frozenset((Reason.BATTERY, Reason.BATTERY_LOW, Reason.CPU_HOT))
NO_CARD = ""
LEAST_SHARE = 0.05
# A card that is too hot, or a driver that takes its time: what is over sooner is not worth the way to the processor,
# into the run anew, and back to the card.
HOLD_S = 300.0
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Offer:
    """The most that training may hold, for who plans how much of the model is ours. None: all there is."""

    ram_bytes: int | None = None
    cards: tuple[tuple[str, float], ...] = ()  # by number: of its memory, 0 to 1

    def share(self, device: Device, card: str | None) -> int:
        """GiB of what the engine computes on, at least one; `card`: that it sees."""
        most = device.memory_bytes
        if device.kind == "cuda":
            most = int(most * dict(self.cards).get(card or "", 1.0))
        elif self.ram_bytes is not None:
            most = min(most, self.ram_bytes)
        return max(1, most // GIB)


class Tried(Protocol):
    """What an attempt knows of its card: see `Attempt`."""

    @property
    def cards(self) -> str | None: ...
    @property
    def card_problem(self) -> str | None: ...


class Unusable:
    """Cards that an engine could not compute on, for as long as the agent lives: none is tried twice."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def reasons(self, attempt: Tried | None) -> list[Active]:
        """With what the attempt of now has met, if there is one."""
        if attempt is not None and attempt.card_problem is not None:
            self._problems[attempt.cards or NO_CARD] = attempt.card_problem
        return [
            Active(Reason.GPU_UNUSABLE, int(card) if card.isdecimal() else None, {"problem": problem})
            for card, problem in self._problems.items()
        ]


@dataclass(frozen=True, slots=True)
class Orders:
    """`cards`: what an engine started now may see: one card by its `key`, or none."""

    wish: Wish | None
    throttle: Throttle | None
    cards: str
    without_since: float | None = None  # its card may not compute, s of a clock; None: it may


def seen(cards: str) -> dict[str, str]:
    """The environment of an engine that may see these: the numbers are the driver's, not those by speed."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": cards if cards.isdecimal() else NO_CARD}


def device_kinds(cards: str | None) -> tuple[str, ...] | None:
    """What such an engine may compute on beside the processor, as torch names them; None: on all there is."""
    if cards is None:
        return None
    return () if cards == NO_CARD else ("cuda",) if cards.isdecimal() else (cards,)


def offer(limits: Limits) -> Offer:
    return Offer(limits.memory_bytes, tuple((str(gpu.index), gpu.memory) for gpu in limits.gpus))


def orders(
    decision: Decision, device: str | None, cards: str | None, now: float = 0.0, before: Orders | None = None
) -> Orders:
    """`device`: the kind that the engine computes on, None without one; `cards`: those that it was started with, None
    if it sees all; `now`: s of a clock that only goes forward; `before`: what was said last."""
    if isinstance(decision, Pause):
        first = decision.reasons[0]
        why = {one.reason for one in decision.reasons}
        ends = not decision.network or decision.free_memory or bool(why & ENDS_ENGINE)
        frees_card = device not in (None, "cpu") and bool(decision.free_gpus)
        serves = not ends and not why & SERVES_NOBODY
        return Orders(Wish(sentence(first), ends or frees_card, serves), None, cards or NO_CARD)
    limits = decision.limits
    wanted = limits.gpus[0].key if limits.gpus else NO_CARD
    computes_on_card = device not in (None, "cpu")
    if cards is None and device is not None:
        return Orders(None, _throttle(limits, limits.gpus[0] if computes_on_card and limits.gpus else None), NO_CARD)
    allowed = {gpu.key: gpu for gpu in limits.gpus}
    if computes_on_card and cards not in allowed:
        since = before.without_since if before is not None and before.without_since is not None else now
        return _without(decision, cards or NO_CARD, wanted, since, now)
    if device == "cpu" and allowed and cards not in allowed:
        return Orders(Wish("A graphics card is free: training moves there.", True), None, wanted)
    if device == "cpu" and not limits.on_cpu:
        return Orders(Wish("The processor shall not compute, and the graphics card cannot.", True), None, wanted)
    card = allowed.get(cards or NO_CARD) if computes_on_card else None
    return Orders(None, _throttle(limits, card), wanted if device is None or cards is None else cards)


def _without(decision: Run, card: str, wanted: str, since: float, now: float) -> Orders:
    """For an engine whose card may not compute since then: held for a while, unless the card's memory must go."""
    freed = {str(index) for index in decision.free_gpus}
    if card in freed or (freed and not card.isdecimal()):  # one that has no number is the only one of its kind
        return Orders(Wish("The graphics card is needed: training goes on without it.", True), None, wanted)
    if now - since >= HOLD_S:
        return Orders(Wish("The graphics card rests for long: training goes on without it.", True), None, wanted)
    why = next((one for one in decision.reasons if one.gpu is not None and str(one.gpu) == card), None)
    wish = Wish("The graphics card does not answer: training waits for it.") if why is None else Wish(sentence(why))
    return Orders(wish, None, card, since)


def _throttle(limits: Limits, card: GpuLimit | None) -> Throttle:
    if card is None:
        return Throttle(duty=max(LEAST_SHARE, limits.cpu_share), threads=limits.cpu_threads)
    return Throttle(
        duty=max(LEAST_SHARE, card.share),
        power=card.power,
        threads=limits.cpu_threads,
        gpu_memory_fraction=max(0.01, card.memory),
    )
