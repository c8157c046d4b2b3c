"""Configuration and data belong together: prepared before accepted, and found again after a restart."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from legion.config import RunConfig

Eventually = Callable[..., Awaitable[None]]


def on_disk(house: Any) -> list[Path]:
    return sorted(house.backend.settings.blobs_dir.iterdir())


async def test_a_restart_prepares_nothing(settings: Any, clock: Any, open_house: Any, monkeypatch: Any) -> None:
    house, close = await open_house(settings, clock)
    config = RunConfig.model_validate((await house.configure()).json())
    await close()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr("legion.data.prepare.prepare", never)
    house, close = await open_house(settings, clock)
    member = await house.join()
    manifest = (await house.http.get("/data/manifest", headers=member.headers)).json()
    assert manifest["fingerprint"] == config.data.fingerprint
    await close()


async def test_lost_files_are_prepared_again(
    settings: Any, clock: Any, open_house: Any, eventually: Eventually
) -> None:
    house, close = await open_house(settings, clock)
    await house.configure()
    files = on_disk(house)
    await close()
    for path in files:
        path.unlink()
    house, close = await open_house(settings, clock)
    await eventually(lambda: on_disk(house) == files)
    await close()


async def test_changed_data_under_a_run_is_a_mismatch_not_a_new_run(
    settings: Any, clock: Any, open_house: Any, eventually: Eventually
) -> None:
    house, close = await open_house(settings, clock)
    await house.configure()
    files = on_disk(house)
    await close()
    for path in files:
        path.unlink()
    (settings.data_dir / "text.txt").write_text("Something is rotten in the state of Denmark.\n" * 60)
    house, close = await open_house(settings, clock)
    member = await house.join()

    async def slug() -> str:
        reply = await house.http.get("/data/manifest", headers=member.headers)
        return "" if reply.is_success else str(reply.json()["slug"])

    await eventually(lambda: house.backend.datasets.failure is not None)
    assert await slug() == "fingerprint-mismatch"
    await close()


async def test_workers_are_told_why_there_is_no_data(house: Any, eventually: Eventually) -> None:
    run = house.backend.coordinator.run
    data = run.config.data.model_copy(update={"source": "text", "paths": ("/nowhere/at/all",)})
    await house.backend.coordinator.configure(run.config.model_copy(update={"data": data}), None)
    member = await house.join()
    first = await house.http.get("/data/manifest", headers=member.headers)
    assert (first.status_code, first.json()["slug"]) == (503, "unavailable")
    await eventually(lambda: house.backend.datasets.failure is not None)
    later = await house.http.get("/training/config", headers=member.headers)
    assert (later.status_code, later.json()["slug"]) == (422, "dataset-missing")
    # The admin repairs it.
    await house.configure()
    assert (await house.http.get("/data/manifest", headers=member.headers)).status_code == 200


async def test_a_fingerprint_that_the_admin_gives_is_checked(house: Any) -> None:
    before = (await house.configure()).json()
    same = before["data"]
    other = house.backend.settings.data_dir / "other.txt"
    other.write_text("A horse, a horse, my kingdom for a horse!\n" * 40)
    change = {"data": {"paths": [str(other)], "fingerprint": same["fingerprint"]}}
    reply = await house.admin.put("/training/config", json=change)
    assert (reply.status_code, reply.json()["slug"]) == (422, "fingerprint-mismatch")
    assert (await house.http.get("/training/config")).json() == before
