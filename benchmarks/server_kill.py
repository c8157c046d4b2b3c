"""kill -9 of the server under load, again and again: what it acknowledged, and how soon it is back.

python benchmarks/server_kill.py [--kills 20] [--volunteers 100000] [--lines 20] [--workers 10000] [--json FILE]

The load enrols workers and changes the configuration as fast as the server answers. Its database has as many volunteers
with a device and lines of credit each, and as many enrolled workers, as the options say. Credit is compared with the
ledger at the end (`legion-server check`); the load itself earns none.
"""

import os
import random
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from rows import Row, parser, show

from legion.keys import new_key, signing_request
from legion_server.domain.standing import EPOCH_S, day_of, recent_of

HARDWARE = {"os": "x", "cpu_count": 1, "memory_bytes": 2**30, "free_disk_bytes": 1, "legion_version": "0"}
ENVIRONMENT = os.environ | {"LEGION_ADDRESS_REQUESTS_PER_S": "0", "LEGION_TOKEN_REQUESTS_PER_S": "0"}
MFLOP, TOKENS, RUN = 1000, 10, "r" * 32


@dataclass
class Acknowledged:
    """What the server said it had done."""

    workers: set[str] = field(default_factory=set)
    steps: int = 0
    steps_asked: int = 0


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client, float]]:
    started = time.perf_counter()
    options = ["serve", "--data-dir", str(folder), "--host", "127.0.0.1", "--port", "0", "--log-level", "error"]
    command = [sys.executable, "-m", "legion_server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT) as it:
        try:
            assert it.stdout is not None
            port = int(it.stdout.readline().split()[2])
            token = {"Authorization": f"Bearer {(folder / 'admin-token').read_text()}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=token, trust_env=False, timeout=30) as http:
                http.get("/health").raise_for_status()
                yield it, http, time.perf_counter() - started
        finally:
            it.kill()


def enrol(http: httpx.Client, acknowledged: Acknowledged) -> None:
    invite = http.post("/invites", json={"uses": 10**4}).json()["invite"]
    while True:
        body = {"protocol": 1, "token": httpx.URL(invite).params["token"], "csr_pem": signing_request(new_key())}
        reply = http.post("/workers", json=body | {"name": "pc", "hardware": HARDWARE}).raise_for_status()
        acknowledged.workers.add(reply.json()["worker_id"])


def configure(http: httpx.Client, acknowledged: Acknowledged) -> None:
    while True:
        acknowledged.steps_asked += 1
        http.put("/training/config", json={"steps": acknowledged.steps_asked}).raise_for_status()
        acknowledged.steps = acknowledged.steps_asked


def until_killed(
    load: Callable[[httpx.Client, Acknowledged], None], http: httpx.Client, acknowledged: Acknowledged
) -> None:
    with suppress(httpx.TransportError):
        load(http, acknowledged)


def lost(http: httpx.Client, acknowledged: Acknowledged) -> int:
    known = {view["worker_id"] for view in http.get("/workers").json()}
    steps = http.get("/training/config").json()["steps"]
    kept = acknowledged.steps == 0 or acknowledged.steps <= steps <= acknowledged.steps_asked
    return len(acknowledged.workers - known) + (not kept)


def fill(path: Path, volunteers: int, lines: int, workers: int) -> None:
    with closing(sqlite3.connect(path)) as database:
        document = database.execute("SELECT worker_id, document FROM workers").fetchone()
        people = range(volunteers)
        database.executemany(
            "INSERT INTO volunteers (volunteer_id, nickname, nickname_key, listed, exported, created_at) "
            "VALUES (?, ?, ?, 1, 0, 0)",
            ((f"v{n:031}", f"volunteer-{n}", f"volunteer-{n}") for n in people),
        )
        database.executemany("INSERT INTO devices (worker_id) VALUES (?)", ((f"{n:032x}",) for n in people))
        database.executemany(
            "INSERT INTO device_links (worker_id, since, volunteer_id, at) VALUES (?, 0, ?, 0)",
            ((f"{n:032x}", f"v{n:031}") for n in people),
        )
        database.executemany(
            "INSERT INTO credit_lines (run_id, round, worker_id, tokens, mflop, at, moment) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((RUN, line, f"{n:032x}", TOKENS, MFLOP, EPOCH_S, line + 1) for line in range(lines) for n in people),
        )
        recent = lines * recent_of(MFLOP, EPOCH_S)
        both = [("devices", "{:032x}"), ("volunteers", "v{:031}")]
        database.executemany(
            "INSERT INTO standings (board, scope, account, tokens, mflop, recent, shown) VALUES (?, ?, ?, ?, ?, ?, 1)",
            (
                (board, scope, form.format(n), lines * TOKENS, lines * MFLOP, recent)
                for board, form in both
                for scope in ("", RUN)
                for n in people
            ),
        )
        database.executemany(
            "INSERT INTO credit_days (board, account, day, mflop) VALUES (?, ?, ?, ?)",
            ((board, form.format(n), day_of(EPOCH_S), lines * MFLOP) for board, form in both for n in people),
        )
        copies = ((f"{n:032x}", document[1].replace(document[0], f"{n:032x}")) for n in range(workers))
        database.executemany("INSERT INTO workers (worker_id, document) VALUES (?, ?)", copies)
        database.commit()


def first(folder: Path, acknowledged: Acknowledged) -> None:
    """Makes the database, with one worker for the others to be copies of."""
    with server(folder) as (process, http, _):
        load = threading.Thread(target=until_killed, args=(enrol, http, acknowledged))
        load.start()
        while not acknowledged.workers:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        load.join()


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--volunteers", type=int, default=100_000)
    arguments.add_argument("--lines", type=int, default=20, help="of credit, a volunteer")
    arguments.add_argument("--workers", type=int, default=10_000, help="enrolled before")
    options = arguments.parse_args()
    acknowledged, starts, computing, missing = Acknowledged(), [], [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        first(folder, acknowledged)
        fill(folder / "legion.db", options.volunteers, options.lines, options.workers)
        size_bytes = (folder / "legion.db").stat().st_size
        for _ in range(options.kills):
            with server(folder) as (process, http, start_s):
                starts.append(start_s)
                spent = psutil.Process(process.pid).cpu_times()
                computing.append(spent.user + spent.system)
                missing += lost(http, acknowledged)
                loads = [
                    threading.Thread(target=until_killed, args=(load, http, acknowledged))
                    for load in (enrol, configure)
                ]
                for load in loads:
                    load.start()
                time.sleep(random.uniform(0.2, 1.5))
                process.send_signal(signal.SIGKILL)
                for load in loads:
                    load.join()
        check = [sys.executable, "-m", "legion_server", "check", "--data-dir", str(folder)]
        checked = subprocess.run(check, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        print(checked.stdout, checked.stderr, sep="")
    wrong = sum(map(int, re.findall(r"^\w+: (\d+) wrong$", checked.stdout, re.MULTILINE)))
    held = (
        f"{options.volunteers:,} volunteers, {options.volunteers * options.lines:,} lines, {options.workers:,} workers"
    )
    rows = [
        Row("kills", len(starts), ""),
        Row("enrolments acknowledged", len(acknowledged.workers), ""),
        Row("changes of the configuration acknowledged", acknowledged.steps, ""),
        Row("acknowledged and lost", missing, "", "<= 0"),
        Row("wrong by legion-server check", wrong if checked.returncode in (0, 42) else 1, "", "<= 0"),
        Row("start, slowest", max(starts), "s", "<= 3", f"{held}, {size_bytes / 2**20:.0f} MiB"),
        Row("start, median", statistics.median(starts), "s", "", "by the clock; what else the machine did is in it"),
        Row("start, median of CPU time", statistics.median(computing), "s"),
    ]
    return show("kill -9 of the server under load", rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
