"""Rounds of hivemind's averager, and the environment that it needs: its 8-bit codecs fail with today's numpy."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wan.network import Site
from wan.peers import Peers, Took

PROGRAM = Path(__file__).with_name("hivemind_peer.py")
PATIENCE_S = 300.0
INSTALL_S = 1800.0
SOCKETS = Path("/tmp")
# Every process of a peer, its daemon too, ends with it: they are in a PID namespace whose first process it is.
CONFINED = ("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")


def environment(folder: Path) -> str:
    """What keeps hivemind from running in the environment in `folder`, made if it is not there; empty: nothing."""
    if not shutil.which(CONFINED[0]):
        return f"the command {CONFINED[0]} is missing: install util-linux"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # Our own torch first: others may bring gigabytes for GPUs.
        failed = ""
        for torch in (f"torch=={version('torch')}", "torch"):
            failed = _failure(python, "-m", "pip", "install", "--quiet", "hivemind==1.1.12", "numpy<2.3", torch)
            if not failed:
                break
        if failed:
            shutil.rmtree(folder)
            return f"it cannot be installed: {failed}"
    failed = _failure(python, "-c", "import hivemind")
    return f"it cannot be imported (remove {folder} to install it anew): {failed}" if failed else ""


def _failure(*command: str | Path) -> str:
    """What the command says last when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        return f"it took more than {INSTALL_S:.0f} s"
    return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1] if done.returncode else ""


def measure(sites: Sequence[Site], folder: Path, *, codec: str, values: int, rounds: int) -> list[Took]:
    """As `legion_rounds.measure`; what failed has a text in `failure`."""
    commands = [
        [str(PROGRAM), site.address, str(place), str(values), codec, str(rounds)] for place, site in enumerate(sites)
    ]
    with _without_sockets(), Peers(sites, commands, [*CONFINED, str(folder / "bin" / "python")]) as peers:
        peers.await_all("ready_for", PATIENCE_S)
        peers.tell(0, [])
        first = peers.await_one("address", 0, PATIENCE_S)
        for place in range(1, len(sites)):
            peers.tell(place, first)
            peers.await_one("address", place, PATIENCE_S)
        peers.tell_all("all are here")
        return [_round(peers, sites) for _ in range(rounds)]


@contextlib.contextmanager
def _without_sockets() -> Iterator[None]:
    """hivemind's daemons leave their sockets behind when they are ended."""
    before = set(SOCKETS.glob("hivemind-p2p*.sock"))
    try:
        yield
    finally:
        for path in set(SOCKETS.glob("hivemind-p2p*.sock")) - before:
            path.unlink(missing_ok=True)


def _round(peers: Peers, sites: Sequence[Site]) -> Took:
    peers.await_all("ready", PATIENCE_S)
    sent = [site.sent_bytes() for site in sites]
    started_s = time.monotonic()
    peers.tell_all("go")
    moved: list[dict[str, Any]] = []
    while len(moved) < len(sites):
        said = peers.hear(PATIENCE_S)
        if "moved" in said:
            moved.append(said)
        else:
            peers.keep(said)
    failures = sorted(
        {m["failure"] or f"group of {m['group']}" for m in moved if m["failure"] or m["group"] < len(sites)}
    )
    return Took(
        max(m["done_s"] for m in moved) - started_s,
        len({m["root"] for m in moved}),
        max(m["error"] for m in moved),
        sent_bytes=[site.sent_bytes() - before for site, before in zip(sites, sent, strict=True)],
        failure="; ".join(failures),
    )
