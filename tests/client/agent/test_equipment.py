"""What an agent says of this computer's hardware before any engine: the driver is played, all else is real."""

import functools
from pathlib import Path

import pynvml
import pytest

from legion.train.processor import processor_name
from legion_client.control.messages import DeviceNow, Status
from legion_client.machine import sensors
from legion_client.machine.gpu import NvidiaGpus
from legion_client.machine.probe import physical_cores
from legion_client.settings import change
from tests.client.agent.hosting import seen, without_a_run
from tests.client.machine.test_gpu import GIB, Card, Nvml


def play(monkeypatch: pytest.MonkeyPatch, nvml: Nvml) -> None:
    monkeypatch.setattr(sensors, "NvidiaGpus", functools.partial(NvidiaGpus, nvml=nvml))


def card(status: Status, index: int) -> DeviceNow | None:
    return next((device for device in status.devices if device.index == index), None)


@pytest.mark.parametrize("polite", [True, False])
async def test_the_processor_is_there_without_an_invite(tmp_path: Path, polite: bool) -> None:
    async with without_a_run(tmp_path, polite=polite) as (_, desk):
        status = await seen(desk, lambda status: status.devices)
        processor = status.devices[-1]
        assert (processor.kind, processor.name, processor.index) == ("cpu", processor_name(), None)
        assert (processor.cores, processor.state, processor.reasons) == (physical_cores(), "ready", ())
        assert processor.memory_bytes is not None
        assert processor.memory_bytes > 2**28


async def test_every_card_has_its_drivers_number_and_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2,3")
    lost = Card("RTX 3060")
    play(monkeypatch, Nvml(Card("masked"), Card(), lost, Card("GTX 1080")))
    async with without_a_run(tmp_path) as (host, desk):
        change(host.home.settings, {"graphics.excluded": [3], "graphics.in_use": True})
        host.look_again()
        status = await seen(desk, lambda status: card(status, 3) and card(status, 3).reasons)
        assert [device.index for device in status.devices] == [1, 2, 3, None]
        first, excluded = card(status, 1), card(status, 3)
        assert first is not None
        assert (first.name, first.memory_bytes, first.state, first.reasons) == ("RTX 4090", 24 * GIB, "ready", ())
        assert excluded is not None
        assert (excluded.state, excluded.reasons[0].sentence) == ("off", "You excluded graphics card 3.")
        assert excluded.reasons[0].setting == "graphics.excluded"

        lost.error = pynvml.NVML_ERROR_GPU_IS_LOST
        monkeypatch.setattr(NvidiaGpus, "_due", lambda _: True)
        status = await seen(desk, lambda status: any(device.state == "unusable" for device in status.devices))
        gone = next(device for device in status.devices if device.state == "unusable")
        assert gone.reasons[0].sentence == "Graphics card 2 (RTX 3060) no longer answers."
        assert [device.name for device in status.devices[:3]] == ["RTX 4090", "RTX 3060", "GTX 1080"]


async def test_a_card_that_comes_later_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    play(monkeypatch, nvml)
    monkeypatch.setattr(NvidiaGpus, "_due", lambda _: True)
    async with without_a_run(tmp_path) as (host, desk):
        change(host.home.settings, {"graphics.in_use": True})
        await seen(desk, lambda status: [device.kind for device in status.devices] == ["cpu"])
        nvml.cards.append(Card())
        host.look_again()
        await seen(desk, lambda status: [device.kind for device in status.devices] == ["cuda", "cpu"])


async def test_where_no_rules_hold_cards_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(Card())
    play(monkeypatch, nvml)
    async with without_a_run(tmp_path, polite=False) as (_, desk):
        status = await seen(desk, lambda status: status.devices)
        assert [(device.index, device.state) for device in status.devices] == [(0, "ready"), (None, "ready")]
        assert (nvml.asked, nvml.open) == (1, 0)


async def test_a_card_that_was_switched_off_stays_in_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, Nvml(Card()))
    async with without_a_run(tmp_path) as (_, desk):
        await desk.change({"graphics.in_use": True})
        for mode, state in (("never", "off"), ("auto", "ready")):
            await desk.mode("gpu", mode, None)
            status = await seen(desk, lambda status: status.devices and status.devices[0].state == state)  # noqa: B023
            assert status.modes["gpu"].mode == mode


async def test_a_torch_for_amds_cards_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.8.0+rocm6.4")
    play(monkeypatch, Nvml())
    async with without_a_run(tmp_path) as (_, desk):
        status = await seen(desk, lambda status: any(why.slug == "graphics-problem" for why in status.reasons))
        [why] = [why for why in status.reasons if why.slug == "graphics-problem"]
        assert why.sentence.startswith("Graphics cards: torch is a build for AMD's cards (ROCm)")
