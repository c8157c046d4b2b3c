"""Pages in a real headless Chromium over a real socket: live, without errors, and good for everybody's eyes."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from chromium import PROGRAM, Tab, chromium
from round_workers import Bench

from legion_server.transport import listen
from tests.server.api.test_accounts import call, claim

AXE_FILE = os.environ.get("LEGION_TEST_AXE")  # axe.min.js of the npm package axe-core
AXE = Path(AXE_FILE).read_text(encoding="utf-8") if AXE_FILE else None
SHOTS = os.environ.get("LEGION_TEST_SCREENSHOTS")  # a folder
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")
ADMIN_TOKEN = "an-admin-token-for-tests"
PUBLIC = ("/", "/join", "/status", "/sign-in", "/leaderboard", "/teams", "/nowhere")
OPERATORS = (
    "/admin",
    "/admin/rounds",
    "/admin/config",
    "/admin/invites",
    "/admin/logs",
    "/admin/storage",
    "/admin/audit",
)
VIEWS = ((1280, False), (1280, True), (375, False), (375, True))
LIVE_S = 1.5  # a page follows within a second; this machine may be busy


@pytest.fixture
async def members(house: Any) -> list[Any]:
    """Of a run that trains."""
    members: list[Any] = await house.start(6, cluster={"policy": "solo"}, rounds={"steps": 2}, steps=400)
    for number, member in enumerate(members[:5]):
        epoch = house.backend.coordinator.run.plan_of(member.worker_id).epoch
        await member.beat("training", epoch=epoch)
        await report(house, member, epoch, number)
    return members


@pytest.fixture
async def site(house: Any, members: list[Any]) -> AsyncIterator[str]:
    """The server's pages on a port of loopback, with a run that has people in it."""
    await house.backend.invites.make(5, 60.0, public=True)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(house.app, lifespan="off", log_level="error", ws="websockets-sansio")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    await running


async def report(house: Any, member: Any, epoch: int, number: int, steps: int = 40) -> None:
    counts = ("step_tokens", "tokens", "micro_batches", "sent_bytes", "received_bytes", "peak_rss_bytes", "state_bytes")
    times = {"grad_norm": 1.0, "lr": 0.1, "step_s": 1.0, "compute_s": 0.9, "waiting_s": 0.1}
    records = [
        {"step": s, "loss": 6.0 / (1 + s / 20) + number / 50} | times | dict.fromkeys(counts, 512)
        for s in range(1, steps + 1)
    ]
    evaluations = [{"step": s, "loss": 6.2 / (1 + s / 20), "tokens": 100} for s in range(10, steps + 1, 10)]
    samples = [{"step": steps, "text": "To be, or not to be, that is\nthe question of the run."}]
    body = {"epoch": epoch, "steps": records, "evaluations": evaluations, "samples": samples}
    assert (await house.http.post("/metrics", json=body, headers=member.headers)).status_code == 204


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with chromium(tmp_path / "profile") as tab:
        yield tab


async def sign_in(tab: Tab, site: str) -> None:
    await tab.open(f"{site}/sign-in")
    tab._loaded.clear()
    await tab.evaluate(f"document.getElementById('token').value = '{ADMIN_TOKEN}'")
    await tab.evaluate("document.querySelector('form[action=\"/sign-in\"] button').click()")
    await tab._loaded.wait()
    assert await tab.evaluate("location.pathname") == "/admin"


async def seen(tab: Tab, condition: str, within_s: float) -> float:
    """How long until it is true of the page, in s."""
    begun = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await tab.evaluate(condition):
            pass
    return time.monotonic() - begun


async def test_a_page_follows_a_committed_round(house: Any, members: list[Any], site: str, tab: Tab) -> None:
    await tab.open(site)
    await tab.evaluate("document.querySelector('.numbers summary').click()")
    await tab.evaluate("document.querySelector('.numbers summary').focus()")
    assert await tab.evaluate("document.body.textContent.includes('0 of 200')")
    await Bench(house, members).play()
    await seen(tab, "document.body.textContent.includes('1 of 200')", LIVE_S)
    # Whoever reads with a keyboard loses neither place nor what they opened.
    assert await tab.evaluate("document.activeElement.localName") == "summary"
    assert await tab.evaluate("document.querySelector('.numbers').open")
    assert tab.errors == []


async def test_a_board_follows_a_committed_round(house: Any, members: list[Any], site: str, tab: Tab) -> None:
    await tab.open(f"{site}/leaderboard?board=devices")
    assert await tab.evaluate("document.body.textContent.includes('Nobody is here yet')")
    await Bench(house, members).play()
    await seen(tab, "document.querySelectorAll('tbody tr').length >= 5", LIVE_S)
    assert tab.errors == []


async def test_a_page_says_that_the_server_is_away(site: str, tab: Tab) -> None:
    await tab.open(site)
    assert await tab.evaluate("document.getElementById('lost').hidden")
    await tab.offline(True)
    await tab.evaluate("refresh(parts[0])")
    await seen(tab, "!document.getElementById('lost').hidden", 5)
    await tab.offline(False)
    await tab.evaluate("refresh(parts[0])")
    await seen(tab, "document.getElementById('lost').hidden", 5)


async def test_no_page_has_errors_or_breaks_a_rule_of_accessibility(house: Any, site: str, tab: Tab) -> None:
    assert house.backend.coordinator.run.phase == "training"
    broken: list[str] = []
    for path in PUBLIC:
        broken += await looked_at(tab, site, path)
    await sign_in(tab, site)
    worker = next(iter(house.backend.coordinator.state.workers))
    for path in (*OPERATORS, f"/admin/workers/{worker}"):
        broken += await looked_at(tab, site, path)
    assert broken == []
    assert [error for error in tab.errors if "/nowhere" not in error] == []


async def test_pages_of_volunteers_and_teams(house: Any, members: list[Any], site: str, tab: Tab) -> None:
    for member, name in zip(members, ("Ada", "Grace", "Ürsula", "Edsger"), strict=False):
        await claim(house, member, name)
    team = (await call(house, members[0], "POST", "/teams", 201, name="Attic 7", about="Warm, quiet, mostly idle."))[
        "team_id"
    ]
    await call(house, members[1], "POST", f"/teams/{team}/requests")
    await call(house, members[0], "PUT", f"/teams/{team}/members/Grace")
    await call(house, members[2], "POST", f"/teams/{team}/requests")
    bench = Bench(house, members)
    for _ in range(3):
        await bench.play()
    broken = []
    for path in ("/leaderboard", "/leaderboard?board=devices", "/volunteers/ada", f"/teams/{team}"):
        broken += await looked_at(tab, site, path)
    link = (await call(house, members[0], "POST", "/account/sign-in", 201))["url"]
    await tab.open(site + link.removeprefix("http://localhost"))
    tab._loaded.clear()
    await tab.evaluate("document.querySelector('main form button').click()")
    await tab._loaded.wait()
    broken += await looked_at(tab, site, "/me")
    broken += await looked_at(tab, site, "/leaderboard")
    assert await tab.evaluate("document.body.textContent.includes('Your place')")
    assert broken == []
    assert tab.errors == []


async def looked_at(tab: Tab, site: str, path: str) -> list[str]:
    """What axe, and a look at the width, find wrong with a page in every view."""
    found = []
    for width, dark in VIEWS:
        await tab.view(width, dark=dark)
        await tab.open(site + path)
        place = f"{path} at {width} px, {'dark' if dark else 'light'}"
        if await tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{place}: wider than the window")
        if AXE is not None:
            await tab.evaluate(f"{AXE}\n;0")
            result = await tab.evaluate(
                "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.target).join(' | ')))"
            )
            found += [f"{place}: {one}" for one in result]
        if SHOTS:
            name = "-".join(part for part in path.split("/") if part)[:20] or "run"
            await tab.screenshot(Path(SHOTS) / f"web-{name}-{width}{'-dark' if dark else ''}.png")
    return found
