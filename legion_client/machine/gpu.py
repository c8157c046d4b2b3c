"""What NVIDIA's driver says of its cards. A card that is gone and a driver that fails are readings, not errors.

Asking wakes a laptop's sleeping card, and keeping the library open keeps it awake. So a card that may sleep is asked
rarely and let go afterwards unless we compute on it, and one that sleeps is asked once, to know that it is there.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from legion_client.machine.nvml import pynvml
from legion_client.machine.readings import GpuReading
from legion_client.machine.sensing import Clock

T = TypeVar("T")

PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY_CLASS = "0x10de", "0x03"
# Each question takes the driver about a millisecond; while we do not compute, only the settings page wants to know.
COMPUTING_PERIOD_S, WAITING_PERIOD_S, SLEEPER_PERIOD_S = 2.0, 10.0, 60.0


@dataclass(frozen=True, slots=True)
class Gpus:
    cards: tuple[GpuReading, ...] = ()
    problem: str | None = None  # one sentence


class NvidiaGpus:
    """`own_pids` and `computing` tell which of the memory is ours; see `memory_of_ours`. `mask`: see `leaves`."""

    def __init__(
        self,
        own_pids: Callable[[], frozenset[int]],
        computing: Callable[[], bool],
        *,
        nvml: ModuleType | Any | None = pynvml,
        mask: str | None = None,
        pci: Path = PCI,
        clock: Clock = time.monotonic,
    ) -> None:
        self._own_pids = own_pids
        self._computing = computing
        self._nvml = nvml
        self._mask = mask
        self._power = PowerControl(pci)
        self._clock = clock
        self._open = False
        self._read_at: float | None = None
        self._last = Gpus()
        self._ours: dict[int, int] = {}

    def read(self) -> Gpus | None:
        if self._nvml is None:
            return Gpus()
        if self._read_at is not None and not self._computing() and self._power.asleep:
            return dataclasses.replace(self._last, cards=tuple(unread(card) for card in self._last.cards))
        if not self._due():
            return self._last
        self._read_at = self._clock()
        self._last = self._ask(self._nvml)
        if self._power.may_sleep and not self._computing():
            self._let_go(self._nvml)
        return self._last

    def close(self) -> None:
        if self._nvml is not None:
            self._let_go(self._nvml)

    def _due(self) -> bool:
        if self._computing():
            period_s = COMPUTING_PERIOD_S
        elif self._power.may_sleep:
            period_s = SLEEPER_PERIOD_S
        else:
            period_s = WAITING_PERIOD_S
        return self._read_at is None or self._clock() - self._read_at >= 0.8 * period_s

    def _ask(self, nvml: Any) -> Gpus:
        try:
            if not self._open:
                nvml.nvmlInit()
                self._open = True
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            indices = [index for index in range(nvml.nvmlDeviceGetCount()) if self._may_be_seen(nvml, index)]
            cards = tuple(self._card(nvml, index, driver) for index in indices)
        except nvml.NVMLError as error:
            return self._without_driver(nvml, error)
        return self._with_missing(cards, driver)

    def _may_be_seen(self, nvml: Any, index: int) -> bool:
        if self._mask is None or "GPU-" not in self._mask:
            return leaves(self._mask, index)
        try:
            uuid = _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)))
        except nvml.NVMLError:  # lost: if it was there before, it is missed
            uuid = ""
        return leaves(self._mask, index, uuid)

    def _without_driver(self, nvml: Any, error: Exception) -> Gpus:
        """A computer that never had a driver is no problem; one whose driver stops answering is."""
        self._let_go(nvml)
        absent = isinstance(error, (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded))
        if absent and not self._last.cards:
            return Gpus()
        lost = tuple(GpuReading(card.index, card.name, driver=card.driver, lost=True) for card in self._last.cards)
        advice = "Restart the computer, or install the driver anew."
        return Gpus(lost, f"The NVIDIA driver does not answer: {error}. {advice}")

    def _with_missing(self, cards: tuple[GpuReading, ...], driver: str) -> Gpus:
        """Cards that were there before stay in the list as lost: the driver renumbers those that are left."""
        here = [card.name for card in cards]
        gone = []
        for card in self._last.cards:
            if card.name in here:
                here.remove(card.name)
            else:
                gone.append(card.name)
        next_index = max((card.index for card in cards), default=-1) + 1
        lost = tuple(GpuReading(next_index + place, name, driver=driver, lost=True) for place, name in enumerate(gone))
        names = ", ".join(card.name for card in (*cards, *lost) if card.lost)
        if not names:
            return Gpus(cards)
        return Gpus((*cards, *lost), f"{names} no longer answers. Restart the computer if it does not come back.")

    def _card(self, nvml: Any, index: int, driver: str) -> GpuReading:
        """Every value that the card or an old driver does not tell is None."""
        name = next((card.name for card in self._last.cards if card.index == index), f"NVIDIA GPU {index}")
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = _text(nvml.nvmlDeviceGetName(handle))
            return self._answers(nvml, handle, GpuReading(index, name, driver=driver))
        except nvml.NVMLError:
            return GpuReading(index, name, driver=driver, lost=True)

    def _answers(self, nvml: Any, handle: Any, card: GpuReading) -> GpuReading:
        memory = _told(nvml, lambda: _memory(nvml, handle))
        compute = _told(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        graphics = _told(nvml, lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)) or []
        ours = None if compute is None else memory_of_ours([*compute, *graphics], self._own_pids())
        # Our own memory must not pass for that of others, to whom we would yield for ever.
        knows = ours is not None and (ours > 0 or not self._computing())
        if ours:
            self._ours[card.index] = ours
        return dataclasses.replace(
            card,
            celsius=_told(nvml, lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            watts=_told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0),
            load=_told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0),
            memory_bytes=None if memory is None else int(memory.total),
            memory_of_others_bytes=max(0, int(memory.used) - (ours or 0)) if memory is not None and knows else None,
            engine_memory_bytes=self._ours.get(card.index),
        )

    def _let_go(self, nvml: Any) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def leaves(mask: str | None, index: int, uuid: str = "") -> bool:
    """Whether CUDA_VISIBLE_DEVICES, as the volunteer has set it, leaves this card; None: all.

    Numbers are taken for the driver's, as `nvidia-smi` shows them. Parts of a card ("MIG-...") are none of ours. As for
    CUDA, what stands behind an entry that names no card does not count.
    """
    if mask is None:
        return True
    for entry in (entry.strip() for entry in mask.split(",")):
        if entry.isdecimal():
            if int(entry) == index:
                return True
        elif not entry.startswith("GPU-"):
            return False
        elif uuid.startswith(entry):
            return True
    return False


def unread(card: GpuReading) -> GpuReading:
    """What is still known of a card that is switched off, or whose driver takes its time."""
    return dataclasses.replace(card, celsius=None, watts=None, load=None, memory_of_others_bytes=None)


def memory_of_ours(programs: Iterable[Any], own_pids: frozenset[int]) -> int | None:
    """Bytes that our processes hold, of those that compute or draw on a card; None if the driver gives no numbers.

    Windows gives none. A container's driver gives process numbers of the host, among which there are none of ours.
    """
    held = {program.pid: program.usedGpuMemory for program in programs if program.pid in own_pids}
    if None in held.values():
        return None
    return sum(int(size) for size in held.values())


def _told(nvml: Any, question: Callable[[], T]) -> T | None:
    """None for what a card or its driver does not tell; a card that is lost is told apart."""
    try:
        return question()
    except nvml.NVMLError_GpuIsLost:
        raise
    except nvml.NVMLError:
        return None


def _memory(nvml: Any, handle: Any) -> Any:
    """The second version does not count what the driver keeps for itself as used; old drivers do not have it."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NotSupported, nvml.NVMLError_ArgumentVersionMismatch):
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class PowerControl:
    """Whether the kernel may switch NVIDIA cards off while nobody uses them, as in laptops, and whether it has.

    Neither where that is not told: desktops, Windows.
    """

    def __init__(self, pci: Path) -> None:
        self._cards = [path / "power" for path in pci.glob("*") if _is_nvidia_card(path)]

    @property
    def may_sleep(self) -> bool:
        return any(word(card / "control") == "auto" for card in self._cards)

    @property
    def asleep(self) -> bool:
        return bool(self._cards) and all(word(card / "runtime_status") == "suspended" for card in self._cards)


def _is_nvidia_card(path: Path) -> bool:
    return word(path / "vendor") == NVIDIA and word(path / "class")[:4] == DISPLAY_CLASS


def word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
