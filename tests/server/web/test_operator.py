"""The operator's pages: each acts only with a form of its own, and leaves a line in the audit log."""

import html
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from legion.identity import Invite
from legion_server.web.log_ring import LONGEST, LogRing, redacted
from legion_server.web.operator.records import sizes

ADMIN_TOKEN = "an-admin-token-for-tests"
PAGES = ("/admin", "/admin/rounds", "/admin/config", "/admin/invites", "/admin/logs", "/admin/storage", "/admin/audit")


@pytest.fixture
async def http(house: Any) -> httpx.AsyncClient:
    """A browser in which the operator has signed in."""
    reply = await house.http.post("/sign-in", data={"token": ADMIN_TOKEN})
    assert reply.status_code == 303
    browser: httpx.AsyncClient = house.http
    return browser


async def send(
    http: httpx.AsyncClient, path: str, fields: Mapping[str, str] = {}, *, page: str = "/admin/invites"
) -> Any:
    csrf = re.search(r'name="csrf" value="(\w+)"', (await http.get(page)).text)
    assert csrf
    return await http.post(path, data={"csrf": csrf[1], **(fields or {})})


async def actions(house: Any) -> list[tuple[str, str]]:
    return [(entry.action, entry.detail) for entry in (await house.backend.audit.page())[0]]


@pytest.mark.parametrize("path", PAGES)
async def test_strangers_are_sent_to_sign_in_and_then_come_back(house: Any, path: str) -> None:
    reply = await house.http.get(path)
    assert reply.status_code == 303
    assert reply.headers["location"] == f"/sign-in?next={path}"


async def test_every_page_opens_in_every_kind_of_run(house: Any, http: Any) -> None:
    for path in PAGES:
        assert (await http.get(path)).status_code == 200, path
    members = await house.start(3, cluster={"policy": "solo"}, rounds={"steps": 2})
    for path in (*PAGES, f"/admin/workers/{members[0].worker_id}"):
        reply = await http.get(path)
        assert reply.status_code == 200, path
        assert "style=" not in reply.text
    text = (await http.get("/admin/rounds")).text
    assert "Round 0" in text
    assert text.count("awaited") == len(house.backend.coordinator.state.rounds.bounds)


@pytest.mark.parametrize(
    "path",
    [
        "/admin/run/pause",
        "/admin/config",
        "/admin/config/check",
        "/admin/invites",
        f"/admin/invites/{'c' * 64}/withdraw",
        f"/admin/workers/{'a' * 32}/revoke",
    ],
)
async def test_without_the_forms_token_nothing_happens(house: Any, http: Any, path: str) -> None:
    before = await actions(house)
    for fields in ({"other": "1"}, {"csrf": ""}, {"csrf": "0" * 64}):
        assert (await http.post(path, data=fields)).status_code == 403
    assert (await http.post(path, json={})).status_code == 422
    assert await actions(house) == before


async def test_workers_are_listed_found_and_revoked(house: Any, http: Any) -> None:
    members = await house.start(3, cluster={"policy": "solo"}, rounds={"steps": 2})
    text = (await http.get("/admin")).text
    for member in members:
        assert f"/admin/workers/{member.worker_id}" in text
    chosen = members[1].worker_id
    text = (await http.get(f"/parts/admin/workers?q={chosen[:12]}")).text
    assert chosen in text
    assert members[0].worker_id not in text
    assert "No worker fits" in (await http.get("/parts/admin/workers?state=paused")).text
    reply = await send(http, f"/admin/workers/{chosen}/revoke")
    assert reply.status_code == 303
    assert house.backend.coordinator.state.workers[chosen].state == "revoked"
    assert "revoked" in (await http.get(f"/admin/workers/{chosen}")).text
    assert (await actions(house))[0][0] == "worker.revoke"
    assert (await http.get(f"/admin/workers/{'z' * 32}")).status_code == 404


async def test_many_workers_come_in_pages(house: Any, http: Any, make_worker: Any) -> None:
    ids = sorted(f"{a}{b}" + "a" * 30 for a in "abcdefgh" for b in "abcdefgh")[:60]
    async with house.backend.coordinator.deciding() as draft:
        from dataclasses import replace

        for worker_id in ids:
            draft.put(replace(make_worker("a"), worker_id=worker_id, state="offline", name=f"pc-{worker_id[:2]}"))
    first = (await http.get("/admin")).text
    assert ids[49] in first
    assert ids[50] not in first
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = (await http.get(html.unescape(following[1]))).text
    assert ids[50] in second
    assert f"/admin/workers/{ids[49]}" not in second
    assert 'rel="next"' not in second


async def test_a_run_is_paused_resumed_and_stopped(house: Any, http: Any) -> None:
    await house.start(1, cluster={"policy": "solo"}, rounds={"steps": 2})
    for action in ("pause", "resume", "stop"):
        assert (await send(http, f"/admin/run/{action}")).status_code == 303
    assert [action for action, _ in await actions(house)][:3] == ["run.stop", "run.resume", "run.pause"]
    assert (await send(http, "/admin/run/explode")).status_code == 422


async def test_a_configuration_is_shown_as_a_difference_before_it_is_accepted(house: Any, http: Any) -> None:
    await house.configure()
    reply = await send(http, "/admin/config/check", {"config": '{"steps": 9, "optimizer": {"lr": 0.5}}'})
    text = html.unescape(reply.text)
    assert "<del>8</del>" in text
    assert "<ins>9</ins>" in text
    assert "optimizer.lr" in text
    assert house.backend.coordinator.run.config.steps == 8
    wrong = await send(http, "/admin/config/check", {"config": '{"steps": -1, "nonsense": 1}'})
    assert wrong.status_code == 422
    assert "<code>steps</code>" in wrong.text
    assert "<code>nonsense</code>" in wrong.text
    for text in ("{", "[1]", ""):
        assert (await send(http, "/admin/config/check", {"config": text})).status_code == 422
    accepted = await send(http, "/admin/config", {"config": '{"steps": 9}'})
    assert accepted.status_code == 303
    assert house.backend.coordinator.run.config.steps == 9
    assert ("run.configure", "steps: 8 -> 9") in await actions(house)


async def test_a_run_that_has_started_keeps_its_configuration(house: Any, http: Any) -> None:
    await house.start(1)
    text = (await http.get("/admin/config")).text
    assert "can no longer change" in text
    assert "readonly" in text
    assert (await send(http, "/admin/config", {"config": '{"steps": 9}'})).status_code == 409


async def test_invites_are_made_listed_and_withdrawn(house: Any, http: Any) -> None:
    wish = {"uses": "5", "days": "2", "purpose": "worker", "note": "for the <club>"}
    made = await send(http, "/admin/invites", wish)
    found = re.search(r"<pre id=\"made\">(.+?)</pre>", made.text)
    assert found
    token = Invite.parse(html.unescape(found[1])).token
    listed = (await http.get("/admin/invites")).text
    assert "for the &lt;club&gt;" in listed
    assert "5 of 5" in listed
    assert token not in listed
    assert (await house.enrol(token=token)).status_code == 201
    assert "4 of 5" in (await http.get("/admin/invites")).text
    withdrawing = re.search(r"/admin/invites/(\w{64})/withdraw", listed)
    assert withdrawing
    assert (await send(http, withdrawing[0])).status_code == 303
    assert (await house.enrol(token=token)).status_code == 403
    assert (await send(http, "/admin/invites", {"uses": "0"})).status_code == 422
    names = [action for action, _ in await actions(house)]
    assert names[:2] == ["invite.withdraw", "invite.make"]
    assert token not in str(await actions(house))


async def test_what_programs_do_is_in_the_audit_log_too(house: Any, http: Any) -> None:
    member = await house.join()
    await house.admin.put("/training/config", json={"seed": 4})
    await house.admin.delete(f"/workers/{member.worker_id}")
    names = [action for action, _ in await actions(house)]
    assert "worker.revoke" in names
    assert "invite.make" in names
    text = (await http.get("/admin/audit")).text
    assert member.worker_id in text


async def test_the_log_is_shown_by_level(house: Any, http: Any) -> None:
    logging.getLogger("legion_server.test").warning("something odd worker=%s", "<b>x</b>")
    text = (await http.get("/admin/logs?level=warning")).text
    assert "something odd worker=&lt;b&gt;x&lt;/b&gt;" in text
    assert "something odd" not in (await http.get("/admin/logs?level=error")).text
    assert (await http.get("/admin/logs?level=all")).status_code == 422


def test_the_log_ring_is_bounded_and_keeps_no_secrets() -> None:
    ring = LogRing(kept=3)
    logger = logging.Logger("x")
    logger.addHandler(ring)
    for number in range(5):
        logger.warning("record %d", number)
    assert [one.text for one in ring.newest()] == ["record 4", "record 3", "record 2"]
    logger.error("y" * 2 * LONGEST)
    assert len(ring.newest()[0].text) == LONGEST
    for text in ("legion://h:1/?token=SECRET&ca=00", "Authorization: Bearer SECRET", "postgresql://me:SECRET@host/db"):
        assert "SECRET" not in redacted(text)
    assert redacted("round=3 committed") == "round=3 committed"


def test_sizes_of_a_folder(tmp_path: Any) -> None:
    (tmp_path / "blobs" / "deep").mkdir(parents=True)
    (tmp_path / "blobs" / "deep" / "a").write_bytes(b"x" * 100)
    (tmp_path / "legion.db").write_bytes(b"x" * 10)
    assert [(p.name, p.size_bytes, p.files) for p in sizes(tmp_path)] == [("blobs", 100, 1), ("legion.db", 10, 1)]


async def test_the_configuration_page_shows_all_of_it(house: Any, http: Any) -> None:
    text = re.search(r"<textarea[^>]*>(.*?)</textarea>", (await http.get("/admin/config")).text, re.DOTALL)
    assert text
    assert json.loads(html.unescape(text[1])) == house.backend.coordinator.run.config.model_dump(mode="json")
