"""What the doctor says of graphics cards: the driver is played, torch is the real one."""

import pytest

from legion_client.commands import checks
from tests.client.machine.test_gpu import Card, Nvml


async def test_a_card_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "pynvml", Nvml(Card("GeForce GTX 680")))
    driver = checks._driver()
    assert (driver.state, "GeForce GTX 680" in driver.found) == ("ok", True)
    found = await checks._graphics(driver)
    if found.state == "ok":
        pytest.skip("torch computes on a card here")
    assert found.state == "problem"
    assert "GeForce GTX 680: training cannot use it: " in found.found
    assert "Update the driver" in found.advice


async def test_without_a_card_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "pynvml", Nvml())
    monkeypatch.setattr(checks, "DEVICES", ("no-such-program",))
    driver = checks._driver()
    assert await checks._graphics(driver) is driver
