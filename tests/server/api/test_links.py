"""Links over REST: who is asked to measure, what is believed of what comes back, and who is shown what of it."""

from typing import Any

import pytest

from legion.links import SERVER, ClustersView, LinkSample, LinksReport, NetworkView
from legion.messages import PROBE_BYTES, HeartbeatReply
from legion_server.cluster_list import lines
from legion_server.domain.links import ASK_AGAIN_S, AWAKE_S, MOST_AGE_S
from tests.server.api.test_workers import refusal

GOOD = {"rtt_s": 0.001, "up_bytes_per_s": 1e8, "down_bytes_per_s": 1e8}
AUTO: dict[str, Any] = {"cluster": {"policy": "auto"}, "start": {"workers": 3}}


async def beat(member: Any, state: str = "ready") -> HeartbeatReply:
    return HeartbeatReply.model_validate_json((await member.beat(state)).content)


async def tell(member: Any, *samples: LinkSample) -> Any:
    body = LinksReport(samples=samples).model_dump_json()
    headers = member.headers | {"Content-Type": "application/json"}
    return await member.http.post("/network/links", content=body, headers=headers)


async def three(house: Any) -> list[Any]:
    """Ready, two of them, and one that is still preparing."""
    await house.configure(**AUTO)
    members = [await house.join() for _ in range(3)]
    for member, state in zip(members, ("ready", "ready", "preparing"), strict=True):
        await member.beat(state)
    return members


async def test_who_is_ready_is_asked_to_measure_those_that_are(house: Any) -> None:
    first, second, third = await three(house)
    reply = await beat(first)
    assert [peer.worker_id for peer in reply.measure] == [second.worker_id]
    assert (await beat(third, "preparing")).measure == ()
    again = await beat(first)
    assert (again.measure, again.measure_server) == ((), False), "it was asked a moment ago"
    house.clock.now += ASK_AGAIN_S
    assert (await beat(first)).measure_server
    await tell(first, *[LinkSample(peer=second.worker_id, **GOOD)] * 3, *[LinkSample(peer=SERVER, **GOOD)] * 3)
    house.clock.now += ASK_AGAIN_S
    await beat(second)
    reply = await beat(first)
    assert (reply.measure, reply.measure_server) == ((), False), "it has told"


@pytest.mark.parametrize("policy", [{"policy": "one"}, {"policy": "solo"}, {"policy": "fixed", "size": 2}])
async def test_links_are_measured_whatever_makes_clusters(house: Any, policy: dict[str, Any]) -> None:
    """But nobody is sent to who is ready for so long that its engine may have ended."""
    await house.configure(cluster=policy, start={"workers": 3})
    first, second = [await house.join() for _ in range(2)]
    await beat(second)
    reply = await beat(first)
    assert [peer.worker_id for peer in reply.measure] == [second.worker_id]
    assert reply.measure_server
    house.clock.now += AWAKE_S
    await beat(second)
    assert (await beat(first)).measure == ()


async def test_a_worker_that_goes_behind_a_relay_is_measured_anew(house: Any) -> None:
    first, second, _ = await three(house)
    for member, peer in ((first, second), (second, first)):
        await tell(member, *[LinkSample(peer=peer.worker_id, **GOOD)] * 3)
    await tell(first, *[LinkSample(peer=SERVER, **GOOD)] * 3)
    await second.beat("ready", endpoint={"host": "127.0.0.1", "port": 9, "relayed": True})
    assert list(house.backend.coordinator.state.links) == [(first.worker_id, SERVER)]
    house.clock.now += ASK_AGAIN_S
    assert [peer.endpoint.relayed for peer in (await beat(first)).measure] == [True]


async def test_sums_are_for_everybody_and_names_for_admins(house: Any) -> None:
    first, second, _ = await three(house)
    await tell(first, *[LinkSample(peer=second.worker_id, **GOOD)] * 3, *[LinkSample(peer=SERVER, **GOOD)] * 2)
    public = NetworkView.model_validate_json((await house.http.get("/network")).content)
    assert (public.workers, public.pairs, public.near_pairs) == (2, {"one_sided": 1}, 0)
    await tell(second, *[LinkSample(peer=first.worker_id, **GOOD | {"rtt_s": 0.002})] * 3)
    text = (await house.http.get("/network")).text
    public = NetworkView.model_validate_json(text)
    assert (public.pairs, public.near_pairs, public.regions) == ({"measured": 1}, 1, 1)
    assert (public.median_rtt_s, public.links, public.places) == (0.002, (), ())
    assert first.worker_id not in text
    private = NetworkView.model_validate_json((await house.admin.get("/network")).content)
    assert private.links[0].samples == (3, 3)
    assert {place.worker_id: place.server_up_bytes_per_s for place in private.places}[first.worker_id] == 1e8
    house.clock.now += MOST_AGE_S + 1
    for member in (first, second):
        await member.beat("ready")
    aged = NetworkView.model_validate_json((await house.http.get("/network")).content)
    assert aged.pairs == {"unmeasured": 1}


async def test_a_link_that_is_dead_for_bulk_is_named(house: Any) -> None:
    first, second, _ = await three(house)
    for member, peer in ((first, second), (second, first)):
        await tell(member, *[LinkSample(peer=peer.worker_id, outcome="no_bulk", rtt_s=0.001)] * 2)
    private = NetworkView.model_validate_json((await house.admin.get("/network")).content)
    assert (private.pairs, private.links[0].state) == ({"no_bulk": 1}, "no_bulk")


async def test_what_is_told_outlives_the_server(house: Any) -> None:
    first, second, _ = await three(house)
    await tell(first, *[LinkSample(peer=second.worker_id, **GOOD)] * 2)
    stored = (await house.backend.store.load()).links
    assert list(stored) == [(first.worker_id, second.worker_id)]
    assert stored == house.backend.coordinator.state.links


async def test_what_is_not_believed_at_all(house: Any) -> None:
    first, *_ = await three(house)
    reply = await tell(first, LinkSample(peer="x" * 32))
    await refusal(reply, 404, "not-found")
    headers = first.headers
    for wrong in ({"rtt_s": 0}, {"rtt_s": -1}, {"rtt_s": 1e9}, {"up_bytes_per_s": 1e300}, {"outcome": "great"}):
        body = {"samples": [{"peer": SERVER} | wrong]}
        assert (await first.http.post("/network/links", json=body, headers=headers)).status_code == 422
    many = {"samples": [{"peer": SERVER}] * 65}
    assert (await first.http.post("/network/links", json=many, headers=headers)).status_code == 422
    assert (await house.http.post("/network/links", json={"samples": []})).status_code == 401
    assert house.backend.coordinator.state.links == {}


async def test_a_burst_comes_down(house: Any) -> None:
    first, *_ = await three(house)
    reply = await first.http.get("/network/probe?size_bytes=70001", headers=first.headers)
    assert (reply.status_code, len(reply.content)) == (200, 70_001)
    reply = await first.http.get(f"/network/probe?size_bytes={PROBE_BYTES + 1}", headers=first.headers)
    assert reply.status_code == 422
    assert (await house.http.get("/network/probe")).status_code == 401
    for _ in range(4):
        await house.backend.probes.acquire()
    reply = await first.http.get("/network/probe", headers=first.headers)
    await refusal(reply, 503, "unavailable")


# Why each worker is where it is.


async def told(house: Any) -> ClustersView:
    return ClustersView.model_validate_json((await house.admin.get("/network/clusters")).content)


async def test_everybody_is_explained_to_the_admin_alone(house: Any) -> None:
    first, _, third = await three(house)
    view = await told(house)
    by_id = {one.worker_id: one for one in view.workers}
    assert by_id[first.worker_id].kind == "alone"
    assert (by_id[third.worker_id].kind, by_id[third.worker_id].sentence) == (
        "away",
        "is preparing: only who is ready enters a cluster",
    )
    assert (await house.http.get("/network/clusters")).status_code == 401
    assert (await first.http.get("/network/clusters", headers=first.headers)).status_code == 403
    text = "\n".join(lines(view, explain=True))
    assert "in no cluster\n" in text
    assert "ready: holds the model alone: it takes" in text
    assert "holds" not in "\n".join(lines(view, explain=False))


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"policy": "one"}, "all that were ready when the run began share the model"),
        ({"policy": "solo"}, "every worker trains by itself"),
        ({"policy": "fixed", "size": 2}, "clusters of cluster.size workers"),
    ],
)
async def test_other_policies_are_explained_too(house: Any, cluster: dict[str, Any], words: str) -> None:
    await house.start(2, cluster=cluster)
    view = await told(house)
    assert view.policy == cluster["policy"]
    assert all(words in one.sentence and one.kind == "policy" for one in view.workers)
    assert all(one.cluster == "c1" for one in view.workers) is (cluster["policy"] != "solo")
