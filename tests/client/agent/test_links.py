"""Workers that cannot hold the model alone measure their link and share it: a real server, real engines."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from legion.config import RunConfig, merge
from legion.links import NEAR_RTT_S, ClustersView, NetworkView
from legion.model.build import blueprint
from legion_client.agent.enrolment import join
from legion_client.agent.host import Host
from legion_client.machine.probe import hardware
from legion_client.paths import Home
from legion_client.settings import Settings
from legion_server.domain.cost import Job, member_bytes
from tests.client.agent.hosting import WAIT_S

RunningServer = Any  # see conftest
ROUNDS = 2

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


@pytest.mark.timeout(240)
async def test_two_that_cannot_hold_the_model_alone_share_it(server: RunningServer, tmp_path: Path) -> None:
    server.configure(**AUTO)
    memory_bytes = needed_bytes(server) * 3 // 4
    described = hardware(tmp_path).model_copy(update={"memory_bytes": memory_bytes})
    invite, hosts = server.invite(uses=2), []
    for name in ("attic", "cellar"):
        home = Home(tmp_path / name)
        await join(home.identity, invite, name, lambda: described)
        hosts.append(Host(home, Settings(name=name), polite=False))
        await hosts[-1].enrol(None)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(host.run() for host in hosts))  # to the end of the run
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
