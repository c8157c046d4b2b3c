"""A card's power limit: lowered where that is allowed, and put back whatever happens to us."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from legion_client.machine.power_cap import PowerCap

DEFAULT_MW, LEAST_MW = 200_000, 100_000


class Card:
    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.limit_mw = DEFAULT_MW


class Nvml:
    """Two cards; `error`: what setting a limit raises. Errors come as pynvml raises them."""

    def __init__(self) -> None:
        self.cards = [Card("GPU-0"), Card("GPU-1")]
        self.error: int | None = None
        self.open = 0
        self.set = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802
        return next(card for card in self.cards if card.uuid == uuid)

    def nvmlDeviceGetUUID(self, card: Card) -> str:  # noqa: N802
        return card.uuid

    def nvmlDeviceGetPowerManagementLimit(self, card: Card) -> int:  # noqa: N802
        return card.limit_mw

    def nvmlDeviceGetPowerManagementLimitConstraints(self, _card: Card) -> list[int]:  # noqa: N802
        return [LEAST_MW, 250_000]

    def nvmlDeviceSetPowerManagementLimit(self, card: Card, limit_mw: int) -> None:  # noqa: N802
        if self.error is not None:
            raise pynvml.NVMLError(self.error)
        self.set += 1
        card.limit_mw = limit_mw

    @property
    def limits(self) -> list[int]:
        assert self.open == 0, "a library that stays open keeps a laptop's card awake"
        return [card.limit_mw for card in self.cards]


@pytest.fixture
def nvml() -> Nvml:
    return Nvml()


@pytest.fixture
def begun(nvml: Nvml, tmp_path: Path) -> Callable[[], PowerCap]:
    """As many processes, one after the other, as are called for."""
    return lambda: PowerCap(tmp_path / "state" / "power-limit.json", nvml)


def test_it_is_lowered_once_and_put_back(nvml: Nvml, begun: Callable[[], PowerCap], tmp_path: Path) -> None:
    cap = begun()
    assert [cap.hold((1, 0.6)) for _ in range(3)] == [0.6] * 3
    assert (nvml.limits, nvml.set) == ([DEFAULT_MW, 120_000], 1)
    assert cap.hold(None) == 1.0
    assert nvml.limits == [DEFAULT_MW, DEFAULT_MW]
    assert list((tmp_path / "state").iterdir()) == []


def test_another_card_and_another_share(nvml: Nvml, begun: Callable[[], PowerCap]) -> None:
    cap = begun()
    assert [cap.hold((0, 0.9)), cap.hold((0, 0.8)), cap.hold((1, 0.7))] == [0.9, 0.8, 0.7]
    assert nvml.limits == [DEFAULT_MW, 140_000]
    assert cap.hold((1, 1.0)) == 1.0
    assert nvml.limits == [DEFAULT_MW, DEFAULT_MW]


def test_no_less_than_the_card_allows(nvml: Nvml, begun: Callable[[], PowerCap]) -> None:
    assert begun().hold((0, 0.1)) == LEAST_MW / DEFAULT_MW
    assert nvml.limits[0] == LEAST_MW


def test_after_a_kill_the_next_start_puts_it_back(nvml: Nvml, begun: Callable[[], PowerCap]) -> None:
    begun().hold((0, 0.6))
    begun().release()
    assert nvml.limits == [DEFAULT_MW, DEFAULT_MW]


def test_after_a_kill_shares_are_of_what_was_before(nvml: Nvml, begun: Callable[[], PowerCap]) -> None:
    begun().hold((0, 0.6))
    assert begun().hold((0, 0.6)) == 0.6
    assert nvml.limits[0] == 120_000


def test_what_somebody_else_has_set_since_stays(nvml: Nvml, begun: Callable[[], PowerCap]) -> None:
    cap = begun()
    cap.hold((0, 0.6))
    nvml.cards[0].limit_mw = 150_000
    cap.release()
    assert nvml.limits[0] == 150_000


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_SUPPORTED])
def test_where_it_may_not_be_set(nvml: Nvml, begun: Callable[[], PowerCap], tmp_path: Path, error: int) -> None:
    nvml.error = error
    cap = begun()
    assert [cap.hold((0, 0.6)), cap.hold((0, 0.6))] == [1.0, 1.0]
    assert list((tmp_path / "state").iterdir()) == []


def test_a_driver_that_fails_leaves_it_to_the_next_start(nvml: Nvml, begun: Callable[[], PowerCap]) -> None:
    cap = begun()
    cap.hold((0, 0.6))
    nvml.error = pynvml.NVML_ERROR_GPU_IS_LOST
    cap.release()
    nvml.error = None
    cap.release()
    assert nvml.limits[0] == 120_000
    begun().release()
    assert nvml.limits[0] == DEFAULT_MW


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"uuid": 1}'])
def test_a_note_that_cannot_be_read_is_no_note(nvml: Nvml, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(content)
    cap = PowerCap(path, nvml)
    cap.release()
    assert (cap.hold((0, 0.5)), nvml.limits[0]) == (0.5, 100_000)


def test_without_a_driver_nothing_is_lowered(tmp_path: Path) -> None:
    assert PowerCap(tmp_path / "note.json", None).hold((0, 0.5)) == 1.0
