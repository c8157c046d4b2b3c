"""What strangers see beside the run's figures: who trains as numbers, checkpoints, how to join, how the server is."""

import html
import re
from typing import Any

from legion.identity import Invite
from legion.messages import Device, Hardware
from legion_server.web.join import qr_code
from legion_server.web.pages import STATES, by_device
from legion_server.web.render import count, fixed, short, size, span, when

HARDWARE = {"os": "x", "cpu_count": 1, "memory_bytes": 1, "free_disk_bytes": 1, "legion_version": "0"}


async def test_the_run_page_shows_people_as_numbers(house: Any) -> None:
    empty = (await house.http.get("/parts/people")).text
    assert "Nobody is here now" in empty
    members = await house.start(3, cluster={"policy": "solo"}, rounds={"steps": 2})
    for member in members:
        await member.beat("training", epoch=house.backend.coordinator.run.plan_of(member.worker_id).epoch)
    text = (await house.http.get("/parts/people")).text
    assert '<th scope="row">Processor</th><td class="number">3</td>' in text
    assert text.count('class="trains"') == 3
    assert "3 workers" in text
    for member in members:
        assert member.worker_id[:8] not in text
    assert "127.0.0.1" not in text
    assert "10.0.0" not in text


def test_devices_are_counted_by_state(make_worker: Any) -> None:
    cuda = Hardware.model_validate(HARDWARE | {"devices": [Device(kind="cuda", name="x", memory_bytes=1)]})
    workers = [make_worker("a", hardware=cuda, state="training"), make_worker("b"), make_worker("c", state="paused")]
    rows = by_device(workers)
    assert [name for name, _ in rows] == ["NVIDIA GPU", "Processor", "All"]
    assert dict(zip(STATES, rows[2][1], strict=True)) == {
        "training": 1,
        "ready": 1,
        "preparing": 0,
        "joining": 0,
        "paused": 1,
        "leaving": 0,
    }
    assert by_device([]) == []


async def test_the_join_page_shows_the_public_invite_while_there_is_one(house: Any) -> None:
    text = (await house.http.get("/join")).text
    assert "The operator of this server gives you one" in text
    assert "token=" not in text
    made = await house.backend.invites.make(5, 60.0, public=True)
    await house.backend.invites.make(5, 60.0)  # not for everybody
    page = (await house.http.get("/join")).text
    links = re.findall(r'href="(legion://[^"]+)"', page)
    assert [html.unescape(link) for link in links] == [made.text]
    assert Invite.parse(html.unescape(links[0])).port == 8000
    assert "<svg" in page
    assert "style=" not in page
    house.clock.now += 61
    assert "legion://" not in re.sub(r"<code>.*?</code>", "", (await house.http.get("/join")).text)


async def test_an_invite_for_relays_is_never_public(house: Any) -> None:
    await house.backend.invites.make(5, 60.0, relay=True, public=True)
    assert await house.backend.invites.public() is None


def test_the_qr_code_is_plain_svg() -> None:
    svg = qr_code("legion://server:8000/?token=<script>&ca=00")
    assert svg.startswith("<svg")
    assert "script" not in svg
    assert "style" not in svg


async def test_the_status_page_tells_how_the_parts_are(house: Any) -> None:
    text = (await house.http.get("/status")).text
    assert "Answers" in text
    assert "Prepared when" in text
    assert house.backend.coordinator.state.dataset is None  # a reader makes the server prepare nothing
    assert not house.backend.datasets._wanted.is_set()
    await house.start(1, cluster={"policy": "solo"}, rounds={"steps": 2})
    house.clock.now += 3700
    text = (await house.http.get("/parts/status")).text
    assert "1 h 1 min" in text
    assert "Nothing so far" in text
    async with house.backend.coordinator.deciding() as draft:
        counters = draft.rounds.counters.model_copy(update={"refused": {"wrong_plan": 3}, "clusters_lost": 2})
        from dataclasses import replace

        draft.rounds = replace(draft.rounds, counters=counters)
    text = (await house.http.get("/parts/status")).text
    assert '<td>wrong_plan</td><td class="number">3</td>' in text
    assert '<td>clusters lost</td><td class="number">2</td>' in text


async def test_checkpoints_may_be_downloaded_unless_the_operator_keeps_them(
    house: Any, settings: Any, clock: Any, open_house: Any, tmp_path: Any
) -> None:
    reply = await house.http.get("/checkpoints/1/files/config.json")
    assert reply.status_code == 404
    kept = settings.model_copy(update={"public_checkpoints": False, "data_dir": tmp_path / "other"})
    other, close = await open_house(kept, clock)
    assert (await other.http.get("/checkpoints/1/files/config.json")).status_code == 401
    assert (await other.admin.get("/checkpoints/1/files/config.json")).status_code == 404
    await close()


def test_how_values_are_shown() -> None:
    assert [short(v) for v in (0, 2.7e-5, 0.0123, 7, 999, 999.6, 1000, 12_345, 999_499, 1_000_000, 1.5e9)] == [
        "0",
        "< 0.001",
        "0.0123",
        "7",
        "999",
        "1.00 k",
        "1.00 k",
        "12.3 k",
        "999 k",
        "1.00 M",
        "1.50 G",
    ]
    assert [size(v) for v in (0, 1023, 1024, 5 * 2**30, 2**60)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB", "1024.0 PiB"]
    assert [span(v) for v in (-1, 0, 59.6, 3600, 90_061)] == ["0 s", "0 s", "1 min", "1 h", "1 d 1 h"]
    assert fixed(None) == fixed(float("nan")) == "\N{EN DASH}"
    assert count(1234567.4) == "1,234,567"
    assert when(0) == "1970-01-01 00:00:00 UTC"
