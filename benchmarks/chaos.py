"""What a run bears: workers killed one by one and by halves, a coordinator that is away, workers that come and go.

Real processes on this machine (a server, clients with an engine each, 133,000 parameters), and for many rounds of
coming and going the simulator, which runs the production code on a virtual clock; a smaller real run stands beside it.

solo     kill -9 of a cluster of one in the middle of a round: its round commits on time
reducer  kill -9 of a reducer: the round is late by one timeout at most
half     kill -9 of four of eight clusters of one: training goes on within 30 s
adjacent kill -9 of two neighbours in each of two clusters of four: training goes on within 30 s
member   a member of a cluster of three lost in a step, three ways: the others' next step within 1 s of detection
random   kill -9 of one of four clusters of one every 15 s, with restarts: who else stalls, and for how long
random-clusters   the same of two clusters of three
memory   what restore points cost an engine in memory
outage   the server killed for two minutes: nobody starts anew, no token of credit is lost, up to 2H steps are made
churn    20 % of the workers leave and return in every round: the loss at equal tokens, and equal anchors (simulated)
churn-real   the same with real processes, whose memory, descriptors and tasks are looked at, and a run without churn

python benchmarks/chaos.py [--only solo reducer ...] [--seconds S] [--away S] [--rounds N] [--real-rounds N]
    [--folder FOLDER] [--json FILE]
"""

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from chaos import churn, kills, members, outage, random_kills
from rows import Row, parser, show, status_of

PARTS: dict[str, Callable[[Path, Namespace], list[Row]]] = {
    "solo": lambda folder, _: kills.solo(folder),
    "reducer": lambda folder, _: kills.reducer(folder),
    "half": lambda folder, _: kills.half(folder),
    "adjacent": lambda folder, _: kills.adjacent(folder),
    "member": lambda folder, _: members.lost(folder),
    "random": lambda folder, options: random_kills.solo(folder, options.seconds),
    "random-clusters": lambda folder, options: random_kills.clusters(folder, options.seconds),
    "memory": lambda folder, _: members.memory(folder),
    "outage": lambda folder, options: outage.outage(folder, options.away),
    "churn": lambda folder, options: churn.simulated(folder, options.rounds),
    "churn-real": lambda folder, options: churn.real(folder, options.real_rounds),
}


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    made.add_argument("--seconds", type=float, default=600.0, metavar="S", help="of random kills")
    made.add_argument("--away", type=float, default=120.0, metavar="S", help="how long the server is gone")
    made.add_argument("--rounds", type=int, default=30, help="of coming and going, simulated")
    made.add_argument("--real-rounds", type=int, default=36, help="of coming and going, real")
    made.add_argument("--folder", type=Path, help="for logs and data, which then stay; default: a temporary one")
    options = made.parse_args()
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            found += PARTS[name]((options.folder or Path(temporary)) / name, options)
            found.append(Row(f"{name}: load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"))
    return show("Chaos", found, options.json)


if __name__ == "__main__":
    sys.exit(status_of(main))
