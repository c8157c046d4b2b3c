"""NVML replaced at its lowest boundary, with pynvml's own errors: no test computer has such a card."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from legion_client.machine.gpu import COMPUTING_PERIOD_S, SLEEPER_PERIOD_S, WAITING_PERIOD_S, Gpus, NvidiaGpus, leaves
from legion_client.machine.readings import GpuReading

GIB = 2**30
ME = frozenset({100, 101})


class Card:
    def __init__(self, name: str = "RTX 4090") -> None:
        self.name = name
        self.used = 10 * GIB
        self.programs = [SimpleNamespace(pid=100, usedGpuMemory=6 * GIB), SimpleNamespace(pid=7, usedGpuMemory=3 * GIB)]
        self.error: int | None = None
        self.missing: set[str] = set()


class Nvml:
    """The functions that are used, over cards that a test changes; errors come as pynvml raises them."""

    def __init__(self, *cards: Card) -> None:
        self.cards = list(cards)
        self.error: int | None = None
        self.open = 0
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)  # errors and constants

    def nvmlInit(self) -> None:  # noqa: N802
        if self.error is not None:
            raise pynvml.NVMLError(self.error)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        if self.error is not None:
            raise pynvml.NVMLError(self.error)
        self.asked += 1
        return b"550.54"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        return self._checked(self.cards[index], "handle")

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: N802
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:  # noqa: N802
        return f"GPU-{self.cards.index(card)}abc"

    def nvmlDeviceGetMemoryInfo(self, card: Card, version: int | None = None) -> Any:  # noqa: N802
        self._checked(card, "memory of version 2" if version else "memory")
        reserved = 0 if version else GIB
        return SimpleNamespace(total=24 * GIB, used=card.used + reserved)

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:  # noqa: N802
        return 215_500 if self._checked(card, "power") else 0

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=35) if self._checked(card, "load") else None

    def nvmlDeviceGetTemperature(self, card: Card, _sensor: int) -> int:  # noqa: N802
        return 66 if self._checked(card, "heat") else 0

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:  # noqa: N802
        return self._checked(card, "processes").programs

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: Card) -> list[Any]:  # noqa: N802
        return self._checked(card, "processes").programs[1:]

    @staticmethod
    def _checked(card: Card, what: str) -> Card:
        if card.error is not None:
            raise pynvml.NVMLError(card.error)
        if what in card.missing:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return card


class Watched:
    def __init__(self, nvml: Nvml | None, pci: Path, mask: str | None = None) -> None:
        self.now = 0.0
        self.computing = False
        self.gpus = NvidiaGpus(
            lambda: ME, lambda: self.computing, nvml=nvml, mask=mask, pci=pci, clock=lambda: self.now
        )

    def read(self) -> Gpus:
        self.now += SLEEPER_PERIOD_S
        found = self.gpus.read()
        assert found is not None
        return found


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def nvml(card: Card) -> Nvml:
    return Nvml(card)


@pytest.fixture
def watched(nvml: Nvml, tmp_path: Path) -> Watched:
    return Watched(nvml, tmp_path)


def test_card_is_read(watched: Watched) -> None:
    assert watched.read() == Gpus(
        (
            GpuReading(
                index=0,
                name="RTX 4090",
                celsius=66.0,
                watts=215.5,
                load=0.35,
                memory_bytes=24 * GIB,
                memory_of_others_bytes=4 * GIB,
                driver="550.54",
                engine_memory_bytes=6 * GIB,
            ),
        )
    )


@pytest.mark.parametrize(
    ("missing", "field"),
    [("power", "watts"), ("load", "load"), ("heat", "celsius"), ("memory", None), ("memory of version 2", None)],
)
def test_what_an_old_driver_does_not_tell_is_none(
    watched: Watched, card: Card, missing: str, field: str | None
) -> None:
    card.missing = {missing}
    (found,) = watched.read().cards
    assert found.memory_bytes == 24 * GIB
    assert field is None or getattr(found, field) is None
    assert found.memory_of_others_bytes == (5 if missing == "memory of version 2" else 4) * GIB


def test_driver_without_process_numbers_does_not_know_others(watched: Watched, card: Card) -> None:
    card.missing = {"processes"}
    assert watched.read().cards[0].memory_of_others_bytes is None
    card.missing = set()
    card.programs[0].usedGpuMemory = None  # Windows
    assert watched.read().cards[0].memory_of_others_bytes is None


def test_our_own_memory_never_passes_for_that_of_others(watched: Watched, card: Card) -> None:
    """In a container the driver gives process numbers of the host."""
    card.programs = [SimpleNamespace(pid=31_337, usedGpuMemory=6 * GIB)]
    watched.computing = True
    assert watched.read().cards[0].memory_of_others_bytes is None
    watched.computing = False
    assert watched.read().cards[0].memory_of_others_bytes == 10 * GIB


def test_what_we_held_is_remembered_after_the_engine_ended(watched: Watched, card: Card) -> None:
    watched.read()
    card.programs = card.programs[1:]
    card.used = 3 * GIB
    (found,) = watched.read().cards
    assert (found.engine_memory_bytes, found.memory_of_others_bytes) == (6 * GIB, 3 * GIB)


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_computer_without_a_driver_has_no_problem(watched: Watched, nvml: Nvml, error: int) -> None:
    nvml.error = error
    assert watched.read() == Gpus()


def test_without_the_library_there_are_no_cards(tmp_path: Path) -> None:
    assert Watched(None, tmp_path).read() == Gpus()


def test_driver_that_was_updated_under_us_is_a_problem_until_it_answers(watched: Watched, nvml: Nvml) -> None:
    first = watched.read()
    nvml.error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    found = watched.read()
    assert [card.lost for card in found.cards] == [True]
    assert found.problem is not None
    assert "mismatch" in found.problem.lower()
    assert nvml.open == 0
    nvml.error = None
    assert watched.read() == first


def test_card_that_falls_off_the_bus_is_lost(watched: Watched, card: Card) -> None:
    watched.read()
    card.error = pynvml.NVML_ERROR_GPU_IS_LOST
    found = watched.read()
    assert found.cards == (GpuReading(0, "RTX 4090", driver="550.54", lost=True),)
    assert found.problem == "RTX 4090 no longer answers. Restart the computer if it does not come back."
    card.error = None
    assert watched.read().problem is None


def test_card_that_is_lost_between_two_questions_is_lost(watched: Watched, card: Card, nvml: Nvml) -> None:
    watched.read()
    nvml.nvmlDeviceGetHandleByIndex = lambda index: nvml.cards[index]  # type: ignore[method-assign]
    card.error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert watched.read().cards[0].lost


def test_card_that_the_driver_no_longer_counts_is_lost(nvml: Nvml, watched: Watched) -> None:
    other = Card("RTX 3060")
    nvml.cards.append(other)
    assert watched.read().problem is None
    del nvml.cards[0]
    found = watched.read()
    assert [(card.index, card.name, card.lost) for card in found.cards] == [
        (0, "RTX 3060", False),
        (1, "RTX 4090", True),
    ]
    assert found.problem is not None
    assert "RTX 4090" in found.problem
    assert watched.read() == found
    nvml.cards.insert(0, Card())
    assert [card.lost for card in watched.read().cards] == [False, False]


def test_how_often_a_card_is_asked(nvml: Nvml, watched: Watched) -> None:
    watched.read()
    for passed_s, computing, asked in (
        (COMPUTING_PERIOD_S, False, 1),
        (WAITING_PERIOD_S, False, 2),
        (COMPUTING_PERIOD_S, True, 3),
        (COMPUTING_PERIOD_S / 2, True, 3),
    ):
        watched.now += passed_s
        watched.computing = computing
        watched.gpus.read()
        assert nvml.asked == asked
    assert nvml.open == 1


def test_laptops_card_is_let_go_and_not_woken(nvml: Nvml, tmp_path: Path) -> None:
    place = tmp_path / "0000:01:00.0"
    (place / "power").mkdir(parents=True)
    for file, text in (("vendor", "0x10de"), ("class", "0x030200"), ("power/control", "auto")):
        (place / file).write_text(text + "\n")
    status = place / "power" / "runtime_status"
    status.write_text("active\n")
    watched = Watched(nvml, tmp_path)
    assert watched.read().cards[0].watts == 215.5
    assert nvml.open == 0
    status.write_text("suspended\n")
    asleep = watched.read()
    assert nvml.asked == 1
    assert (asleep.cards[0].watts, asleep.cards[0].load, asleep.cards[0].name) == (None, None, "RTX 4090")
    watched.computing = True
    assert watched.read().cards[0].watts == 215.5
    assert nvml.open == 1
    status.write_text("suspended\n")
    another = Watched(nvml, tmp_path)
    assert [card.name for card in another.read().cards] == ["RTX 4090"], "one that nobody has seen is looked for once"
    asked = nvml.asked
    assert another.read().cards[0].watts is None
    assert nvml.asked == asked


@pytest.mark.parametrize(
    ("mask", "left"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        (" 2, 0", [0, 2]),
        ("0,-1,1", [0]),
        ("-1", []),
        ("NoDevFiles", []),
        ("GPU-1a", [1]),
        ("GPU-1abc,0", [0, 1]),
        ("MIG-1abc", []),
    ],
)
def test_cards_that_the_volunteer_has_masked_do_not_exist(mask: str | None, left: list[int], tmp_path: Path) -> None:
    watched = Watched(Nvml(Card(), Card(), Card()), tmp_path, mask)
    for _ in range(2):
        found = watched.read()
        assert ([card.index for card in found.cards], found.problem) == (left, None)


def test_a_lost_card_takes_no_other_of_a_mask_with_it(tmp_path: Path) -> None:
    lost, other = Card(), Card("RTX 3060")
    watched = Watched(Nvml(lost, other), tmp_path, "GPU-0abc,GPU-1abc")
    watched.read()
    lost.error = pynvml.NVML_ERROR_GPU_IS_LOST
    found = watched.read().cards
    assert {card.name: card.lost for card in found} == {"RTX 4090": True, "RTX 3060": False}
    assert len({card.index for card in found}) == 2


def test_a_card_without_a_number_of_its_own_is_not_taken_for_a_masked_one() -> None:
    assert not leaves("GPU-1abc", 1, "")
