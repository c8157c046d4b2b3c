"""Limits that the volunteer has set, on their way to the line, to the disk and to the server."""

import json
import sys
from pathlib import Path

import psutil

from legion_client.agent import life
from legion_client.machine.policy import Pause
from legion_client.machine.reasons import Reason
from legion_client.machine.rules import GB
from legion_client.paths import Home
from legion_client.settings import change
from tests.client.agent.hosting import RunningServer, hosted, reaches, seen
from tests.client.agent.test_host_trouble import QUIET, SCRIPT
from tests.client.agent.test_supervisor import SHAPE

SET = {
    "network.upload_kb_per_s": 1600,
    "network.download_kb_per_s": 3200,
    "disk.most_gb": 2.0,
    "disk.most_percent": 100,
    "disk.least_free_gb": 0.0,
    "memory.in_use_percent": 50,
    "memory.idle_percent": 50,
    "programs.pause_full_screen": False,
    "power.pause_on_battery": False,
    "network.pause_when_metered": False,
}


async def test_settings_reach_the_line_the_disk_and_the_server(server: RunningServer, tmp_path: Path) -> None:
    change(Home(tmp_path / "home").settings, SET)
    async with hosted(server, tmp_path / "home", polite=True, engine_command=QUIET) as (host, desk):
        await seen(desk, lambda status: status.run is not None)
        assert host.agent is not None
        for direction, kb_per_s in ((host.traffic.upload, 1600), (host.traffic.download, 3200)):
            engines = direction.engines or 0.0
            agents = 1e6 / direction.valve.least_s(1_000_000)
            assert round(agents + engines) == kb_per_s * 1000
        assert host.room.most_bytes == 2 * GB
        assert host.room.spare_bytes is not None
        assert host.agent.offer.ram_bytes == psutil.virtual_memory().total * 50 // 100
        sent, received = host.volume.this_month.sent_bytes, host.volume.this_month.received_bytes
        host.traffic.settle()
        assert host.volume.this_month.sent_bytes > sent
        assert host.volume.this_month.received_bytes > received


async def test_the_months_volume_ends_what_agent_and_engine_move_together(
    server: RunningServer, tmp_path: Path
) -> None:
    """Neither of the two has used it up alone; when it is there again, training goes on."""
    home = Home(tmp_path / "home")
    change(home.settings, SET | {"network.month_gb": 0.05, "network.upload_kb_per_s": 0})
    (tmp_path / "script.json").write_text(json.dumps({"steps": 1, "moved": 48_000_000, "hang": True}))
    (tmp_path / "shape.json").write_text(SHAPE.model_dump_json())
    command = (sys.executable, str(SCRIPT), str(tmp_path / "script.json"))
    async with hosted(server, home.root, polite=True, engine_command=command) as (host, _desk):
        host.traffic.line.upload.count(1_000_000)
        await reaches(host, life.Phase.TRAINING)
        assert host.agent is not None
        host.traffic.line.download.count(2_000_000)
        await reaches(host, life.Phase.PAUSED)
        assert isinstance(host.decision, Pause)
        assert not host.decision.network
        assert Reason.VOLUME_USED in {active.reason for active in host.decision.reasons}
        assert host.engine_pid is None
        assert host.volume.this_month.total_bytes >= 0.05 * GB
        change(home.settings, {"network.month_gb": 0.0})
        host.look_again()
        await reaches(host, life.Phase.READY, life.Phase.TRAINING)
