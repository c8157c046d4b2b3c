"""Room for the run's data: what the rules leave, and the reason to wait where that is too little."""

import pytest

from legion_client.agent.room import Need, Room
from legion_client.machine.readings import Readings
from legion_client.machine.reasons import Reason, why
from legion_client.machine.rules import GB
from legion_client.settings import Settings

SETTINGS = Settings.model_validate({"disk": {"most_gb": 20.0, "least_free_gb": 5.0, "most_percent": 50}})


@pytest.mark.parametrize(
    ("readings", "most", "spare"),
    [
        (Readings(), 20, None),
        (Readings(disk_bytes=30 * GB, free_disk_bytes=12 * GB), 15, 7),
        (Readings(disk_bytes=100 * GB, free_disk_bytes=3 * GB), 20, 0),
    ],
)
def test_what_the_rules_leave(readings: Readings, most: int, spare: int | None) -> None:
    room = Room()
    room.measure(SETTINGS, readings)
    assert (room.most_bytes, room.spare_bytes) == (most * GB, None if spare is None else spare * GB)


@pytest.mark.parametrize(
    ("need", "setting", "may_be_used"),
    [
        (None, None, None),
        (Need(20 * GB, 7 * GB), None, None),
        (Need(21 * GB, 1), "disk.most_gb", "20.0"),
        (Need(20 * GB, 8 * GB), "disk.least_free_gb", "19.0"),
    ],
)
def test_the_reason_to_wait_names_its_setting(need: Need | None, setting: str | None, may_be_used: str | None) -> None:
    room = Room(most_bytes=20 * GB, spare_bytes=7 * GB, need=need)
    reason = room.lacking()
    if reason is None:
        assert setting is None
        return
    told = why(reason)
    assert (told.slug, told.setting) == (Reason.DISK_NEEDED, setting)
    assert f"and {may_be_used} GB may be used" in told.sentence


def test_who_looks_after_the_rules_hears_of_a_need_once() -> None:
    heard: list[Need | None] = []
    room = Room()
    room.on_change = lambda: heard.append(room.need)
    for need in (None, Need(2, 1), Need(2, 1), None):
        room.needs(need)
    assert heard == [Need(2, 1), None]
