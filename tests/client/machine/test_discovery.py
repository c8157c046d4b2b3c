"""A router is looked for as in a house: by SSDP and NAT-PMP at their own ports, in a network of the test's own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from legion_client.machine.mapping import LEASE_S
from tests.client.machine.played_router import ADDRESS

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
ROOT = Path(__file__).parents[3]


def may_make_one() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def found(*arguments: str) -> Any:
    command = [*NAMESPACE, sys.executable, "-m", "tests.client.machine.router_in_a_network", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not may_make_one(), reason="no network namespaces for this user")
def test_a_router_is_found_by_ssdp_and_opens_and_closes_a_port() -> None:
    said = found()
    assert said["port"] == 7000
    assert ADDRESS in said["state"]
    assert said["state"].startswith("UPnP opened")
    assert said["mappings"] == {"7000": ["192.168.1.1", 7000, LEASE_S]}
    assert said["searches"] >= 1
    assert said["left"] == {}


@pytest.mark.skipif(not may_make_one(), reason="no network namespaces for this user")
def test_nat_pmp_goes_first() -> None:
    said = found("natpmp")
    assert (said["port"], said["mappings"], said["searches"]) == (7001, {}, 0)
    assert "NAT-PMP opened port 7001 of 203.0.113.7" in said["state"] or "NAT-PMP opened a port" in said["state"]
