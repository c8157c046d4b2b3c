"""The wizard's hardware and the tray's switch with a real agent; only the driver is played."""

import functools
from collections.abc import Awaitable, Callable

import pynvml
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QLabel
from pytestqt.qtbot import QtBot

from legion.train.processor import processor_name
from legion_client.control.messages import ChangeSettings, DeviceNow, Status
from legion_client.machine import sensors
from legion_client.machine.gpu import NvidiaGpus
from legion_client.settings import Settings, change, read
from legion_client.ui import near
from legion_client.ui.desktop import Desktop
from legion_client.ui.wizard import HardwareStep, Wizard
from tests.client.machine.test_gpu import Card, Nvml
from tests.client.ui.conftest import Stage, until
from tests.client.ui.memory_desk import NEW, MemoryDesk

LOST = pynvml.NVML_ERROR_GPU_IS_LOST

RealPlay = Callable[[Desktop], Awaitable[None]]


def with_an_agent(stage: Stage, play: RealPlay, *, wizard_done: bool = True) -> None:
    seat = functools.partial(near.hosted, stage.home, Settings, lambda _: None, lambda: None)
    stage.attend(seat, play, wizard_done=wizard_done)


def play_nvml(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
    monkeypatch.setattr(sensors, "NvidiaGpus", functools.partial(NvidiaGpus, nvml=Nvml(*cards)))


def ticks(page: HardwareStep) -> dict[str, bool]:
    """By the first word of each device's text."""
    return {tick.text().split("  ·  ")[0]: tick.isChecked() for tick in page.findChildren(QCheckBox)}


def texts(page: HardwareStep) -> list[str]:
    return [found.text() for found in page.findChildren(QLabel)]


async def second_page(desktop: Desktop, qtbot: QtBot) -> tuple[Wizard, HardwareStep]:
    desktop.raise_window()
    await until(lambda: isinstance(desktop.dialog, Wizard))
    wizard = desktop.dialog
    assert isinstance(wizard, Wizard)
    qtbot.mouseClick(wizard._next, Qt.MouseButton.LeftButton)
    page = wizard._stack.currentWidget()
    assert isinstance(page, HardwareStep)
    return wizard, page


def test_the_first_start_ticks_what_this_computer_has(
    stage: Stage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One card is masked and one is lost, so that places in the list are no numbers of the driver's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2,3")
    broken = Card("RTX 3060")
    play_nvml(monkeypatch, Card("masked"), broken, Card("RTX 4090"), Card("GTX 1080"))
    broken.error = LOST

    async def play(desktop: Desktop) -> None:
        wizard, page = await second_page(desktop, qtbot)
        await until(lambda: ticks(page) == {"RTX 4090": True, "GTX 1080": True, processor_name(): True})
        assert "Graphics card 1 (NVIDIA GPU 1) no longer answers." in texts(page)
        last = next(tick for tick in page.findChildren(QCheckBox) if tick.text().startswith("GTX 1080"))
        assert last.text() == "GTX 1080  ·  24 GB  ·  graphics card 3"
        qtbot.keyClick(last, Qt.Key.Key_Space)
        assert not last.isChecked()
        for _ in range(3):
            qtbot.mouseClick(wizard._next, Qt.MouseButton.LeftButton)
        await until(lambda: read(stage.home.settings).chosen)
        chosen = read(stage.home.settings).settings
        assert (chosen.graphics.enabled, chosen.graphics.excluded) == (True, (3,))
        assert chosen.processor.enabled

    with_an_agent(stage, play, wizard_done=False)


def test_a_computer_without_a_card_has_its_processor(
    stage: Stage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_nvml(monkeypatch)

    async def play(desktop: Desktop) -> None:
        wizard, page = await second_page(desktop, qtbot)
        await until(lambda: ticks(page) == {processor_name(): True})
        assert "No graphics card that can train was found, so the processor does it." in texts(page)
        assert "graphics.excluded" not in wizard.outcome.values
        assert any("no graphics card." in text for text in texts(page)), "what to expect is of this computer"

    with_an_agent(stage, play, wizard_done=False)


def test_a_torch_for_amds_cards_is_said_where_a_card_is_missed(
    stage: Stage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.8.0+rocm6.4")
    play_nvml(monkeypatch)

    async def play(desktop: Desktop) -> None:
        _, page = await second_page(desktop, qtbot)
        await until(lambda: any("(ROCm)" in text for text in texts(page)))
        assert "No graphics card that can train was found, so the processor does it." not in texts(page)

    with_an_agent(stage, play, wizard_done=False)


def test_the_trays_switch_is_there_without_an_engine_and_after_it_was_used(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_nvml(monkeypatch, Card())

    async def play(desktop: Desktop) -> None:
        entry = desktop.actions.of["gpu"]
        await until(entry.isVisible)
        assert entry.isChecked()
        desktop.conversation.send(ChangeSettings(values={"modes.gpu": "never"}))
        await until(lambda: not entry.isChecked())
        status = desktop.conversation.status
        await until(lambda: states(desktop.conversation.status)[:1] == ["off"])
        assert status is not None
        assert entry.isVisible()
        desktop.conversation.send(ChangeSettings(values={"modes.gpu": "auto"}))
        await until(entry.isChecked)

    with_an_agent(stage, play)


def test_a_card_that_is_lost_is_nothing_to_switch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Card()
    broken.error = LOST
    play_nvml(monkeypatch, broken)

    async def play(desktop: Desktop) -> None:
        await until(lambda: states(desktop.conversation.status)[:1] == ["unusable"])
        assert not desktop.actions.of["gpu"].isVisible()

    with_an_agent(stage, play)


def states(status: Status | None) -> list[str]:
    return [device.state for device in status.devices] if status is not None else []


def test_what_was_ticked_by_hand_stays_when_more_is_found(stage: Stage, qtbot: QtBot) -> None:
    first, second = (DeviceNow(kind="cuda", name=f"RTX 30{index}0", index=index) for index in (6, 7))

    async def play(desktop: Desktop, desk: MemoryDesk) -> None:
        desktop.set_up(None)
        wizard = desktop.dialog
        assert isinstance(wizard, Wizard)
        page = wizard._hardware
        assert "Looking for what this computer has…" in texts(page)
        desk.tell(devices=(first,))
        await until(lambda: ticks(page) == {"RTX 3060": True})
        page.findChildren(QCheckBox)[0].click()
        desk.tell(devices=(first, second))
        await until(lambda: ticks(page) == {"RTX 3060": False, "RTX 3070": True})
        assert page.values()["graphics.excluded"] == [6]
        desk.tell(devices=(first.model_copy(update={"state": "unusable"}), second))
        await until(lambda: ticks(page) == {"RTX 3070": True})
        assert page.values()["graphics.excluded"] == []

    stage.run(play, MemoryDesk(NEW))


def test_a_card_that_was_excluded_stays_so_unless_it_is_ticked(
    stage: Stage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.home.settings.parent.mkdir(parents=True, exist_ok=True)
    change(stage.home.settings, {"graphics.excluded": [0, 1]})
    broken = Card("RTX 3060")
    broken.error = LOST
    play_nvml(monkeypatch, broken, Card(), Card("GTX 1080"))

    async def play(desktop: Desktop) -> None:
        desktop.raise_window()
        desktop.set_up(None)
        wizard = desktop.dialog
        assert isinstance(wizard, Wizard)
        page = wizard._hardware
        await until(lambda: ticks(page) == {"RTX 4090": False, "GTX 1080": True, processor_name(): True})
        assert page.values()["graphics.excluded"] == [0, 1]

    with_an_agent(stage, play)
