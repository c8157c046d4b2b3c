"""Limits that the volunteer has set, on their way to the line, to the disk and to the server."""

from pathlib import Path

import psutil

from legion_client.machine.rules import GB
from legion_client.paths import Home
from legion_client.settings import change
from tests.client.agent.hosting import RunningServer, hosted, seen
from tests.client.agent.test_host_trouble import QUIET

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
