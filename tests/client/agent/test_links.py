"""Workers that cannot hold the model alone measure their link and share it: a real server, real engines."""

import asyncio
import contextlib
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import pytest

from legion.config import RunConfig, merge
from legion.links import NEAR_RTT_S, ClusterReason, ClustersView, LinkSample, LinksReport, NetworkView
from legion.model.build import blueprint
from legion_client.agent.host import Host
from legion_client.agent.joining import join
from legion_client.agent.life import Phase
from legion_client.machine.probe import hardware
from legion_client.paths import Home
from legion_client.settings import Settings
from legion_server.domain.cost import Job, member_bytes
from legion_server.domain.links import KEPT
from tests.client.agent.hosting import WAIT_S, reaches

RunningServer = Any  # see conftest
ROUNDS = 2
GOOD = {"rtt_s": 0.001, "up_bytes_per_s": 1e8, "down_bytes_per_s": 1e8}
NEXT_DOOR = {"rtt_s": 0.000_01, "up_bytes_per_s": 1e10, "down_bytes_per_s": 1e10}

# Enough tokens a step that exchanging the little model takes less than computing does, as hardware suggests.
AUTO: dict[str, Any] = {
    "cluster": {"policy": "auto"},
    "rounds": {"steps": 1, "codec": "int4"},
    "batch": {"micro_batch_blocks": 32, "micro_batches": 4},
    "data": {"seq_len": 64},
    "steps": ROUNDS,
    "evaluation": {"sample_tokens": 0},
    "start": {"workers": 2},
}


def needed_bytes(server: RunningServer) -> int:
    """Of a worker that would hold the model alone."""
    config = merge(RunConfig(), server.call("GET", "/training/config"))
    shape = blueprint(config, 257).shape
    job = Job(config, shape.sizes)
    return member_bytes(job, job.total)


async def joined(server: RunningServer, folder: Path, *names: str, **described_as: int) -> dict[str, Host]:
    """Hosts that do not run yet, by name; each has memory for three quarters of the model."""
    memory_bytes = needed_bytes(server) * 3 // 4
    described = hardware(folder).model_copy(update={"memory_bytes": memory_bytes, **described_as})
    invite, hosts = server.invite(uses=len(names)), dict[str, Host]()
    for name in names:
        home = Home(folder / name)
        await join(home.identity, invite, name, lambda: described)
        host = hosts[name] = Host(home, Settings(name=name), polite=False)
        await host.enrol(None)
    return hosts


@pytest.mark.timeout(240)
async def test_two_that_cannot_hold_the_model_alone_share_it(server: RunningServer, tmp_path: Path) -> None:
    server.configure(**AUTO)
    hosts = await joined(server, tmp_path, "attic", "cellar")
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(host.run() for host in hosts.values()))  # to the end of the run
    health, network, clusters = await asyncio.to_thread(
        lambda: [server.call("GET", path) for path in ("/health", "/network", "/network/clusters")]
    )
    assert health["phase"] in ("finishing", "complete")
    assert server.call("GET", "/training/global_version")["anchor"] == ROUNDS
    view = NetworkView.model_validate(network)
    (link,) = view.links
    assert link.state == "measured"
    assert link.rtt_s is not None
    assert link.rtt_s <= NEAR_RTT_S
    assert min(link.samples) >= 3
    assert all(place.server_up_bytes_per_s and place.server_rtt_s for place in view.places)
    told = ClustersView.model_validate(clusters).workers
    assert {(one.kind, one.cluster, len(one.with_workers)) for one in told} == {("together", "c1", 1)}
    assert "shares the model with cellar" in next(one.sentence for one in told if one.name == "attic")


@pytest.mark.timeout(500)
async def test_a_third_joins_the_cluster_of_two_near_it_between_two_rounds(
    server: RunningServer, tmp_path: Path
) -> None:
    small = {"batch": {"micro_batch_blocks": 2, "micro_batches": 4}, "steps": 1000}
    server.configure(**AUTO | {"cluster": {"policy": "auto", "restore_every": 1}} | small)
    hosts = await joined(server, tmp_path, "attic", "cellar", "garden")
    for one, peer in permutations(hosts.values(), 2):
        await asyncio.to_thread(tell, server, one, peer, **NEXT_DOOR)
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts.values():
            stack.push_async_callback(ended, host, asyncio.create_task(host.run(stays=True)))
        async with asyncio.timeout(450):
            training = [asyncio.create_task(reaches(host, Phase.TRAINING)) for host in hosts.values()]
            await asyncio.wait(training, return_when=asyncio.FIRST_COMPLETED)
            before = await asyncio.to_thread(told_of, server)
            await asyncio.gather(*training)
            after = await asyncio.to_thread(told_of, server)
    assert sorted(one.kind for one in before.values() if one.cluster) == ["together", "together"]
    assert {one.cluster for one in after.values()} == {"c1"}, "its name stays"
    counters = server.call("GET", "/metrics")["rounds"]["counters"]
    assert counters["clusters_regrouped"] >= 1


def tell(server: RunningServer, host: Host, peer: Host, **figures: float) -> None:
    """As if it had measured its link to the other anew, some times."""
    assert host.enrolment is not None
    assert peer.enrolment is not None
    samples = (LinkSample(peer=peer.enrolment.worker_id, **figures),) * KEPT
    with httpx.Client(base_url=f"http://{server.host}:{server.port}", trust_env=False) as http:
        body = LinksReport(samples=samples).model_dump_json()
        headers = {"Authorization": f"Bearer {host.enrolment.token}", "Content-Type": "application/json"}
        assert http.post("/network/links", content=body, headers=headers).status_code == 204


def told_of(server: RunningServer) -> dict[str, ClusterReason]:
    view = ClustersView.model_validate(server.call("GET", "/network/clusters"))
    return {one.name: one for one in view.workers}


@pytest.mark.timeout(400)
async def test_who_waits_takes_the_place_of_one_whose_link_became_poor(server: RunningServer, tmp_path: Path) -> None:
    server.configure(**AUTO | {"steps": 1000, "start": {"workers": 3}})
    # Only their links are told to be poor: the speed that is measured stays, and others must promise far more.
    hosts = await joined(server, tmp_path, "attic", "cellar", "garden", cpu_count=1000)
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts.values():
            stack.push_async_callback(ended, host, asyncio.create_task(host.run(stays=True)))
        async with asyncio.timeout(300):
            training = [asyncio.create_task(reaches(host, Phase.TRAINING)) for host in hosts.values()]
            await asyncio.wait(training, return_when=asyncio.FIRST_COMPLETED)
            before = await asyncio.to_thread(told_of, server)
            (waiting,) = [name for name, one in before.items() if one.cluster is None]
            stays, leaves = sorted(hosts.keys() - {waiting})
            poor, good = {"rtt_s": 0.03, "up_bytes_per_s": 1e4, "down_bytes_per_s": 1e4}, GOOD
            for one, other, figures in ((stays, leaves, poor), (waiting, leaves, poor), (stays, waiting, good)):
                await asyncio.to_thread(tell, server, hosts[one], hosts[other], **figures)
                await asyncio.to_thread(tell, server, hosts[other], hosts[one], **figures)
            await reaches(hosts[waiting], Phase.TRAINING)
            after = await asyncio.to_thread(told_of, server)
    assert after[waiting].cluster == after[stays].cluster is not None
    assert after[leaves].cluster is None
    assert server.call("GET", "/health")["phase"] == "training"


async def ended(host: Host, run: asyncio.Task[None]) -> None:
    host.quit("the test is over")
    await run
