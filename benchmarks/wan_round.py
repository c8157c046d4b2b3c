"""Four workers on home links average 10M values: Legion's rounds and hivemind's averager, against the wire's bound.

Four processes in network namespaces, joined by a user-space hub that delays every packet; each uplink is shaped by
`tc tbf` (there is no netem in every kernel). Legion's are the production member, courier, reducer and network over
mutual TLS, with this process as the coordinator half a round trip away; a round takes from the moment all are told to
contribute until the last one has the new anchor. hivemind runs in a virtual environment of its own and is timed from
the trigger of a group that has formed.

Nobody can be faster than the *bound*: with N workers, each sends the values of N - 1 spans and serves its own span's
update to N - 1 others, (N - 1)/N of its bytes each; both contenders' algorithms are the same in this.

Needs root, and says so otherwise; there is nothing here that could run without it, so CI leaves it out. Namespaces,
devices and queues belong to no file and end with the processes that are in them, however those end.

    sudo python benchmarks/wan_round.py [--rounds 6] [--values 10000000] [--rate 100] [--rtt 50] [--codecs int8 none]
        [--without-hivemind] [--hivemind FOLDER] [--json FILE]
"""

import os
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rows import Row, parser, show
from wan import hivemind_rounds, legion_rounds
from wan.network import Site, joined, measured_rtt_ms, missing
from wan.peers import PeerFailed, Took

from legion.codec.api import bits_per_value
from legion.codec.registry import by_name
from legion.layout import CHUNK

WORKERS = 4
BARS = {"int8": "<= 1.3", "none": "<= 1.25"}  # of the bound, at 100 Mbit/s and 50 ms
HIVEMIND = {"none": ("none", 32.0), "int8": ("uniform8", 8.0)}  # its codec of the same size, bits per value


def bound_s(values: int, bits: float, rate_mbit: float) -> float:
    """Bytes that a worker must send, over its rate: its contribution but its own span, and its update N - 1 times."""
    return 2 * (WORKERS - 1) / WORKERS * values * bits / (rate_mbit * 1e6)


def rows_of(name: str, took: Sequence[Took], bound: float, rate_mbit: float, bar: str) -> list[Row]:
    """The first round opens the connections and is told apart."""
    later = took[1:] or took
    seconds = [one.seconds for one in later]
    phases = ", ".join(f"{key[:-2]} {statistics.median(t.phases[key] for t in later):.2f}" for key in later[0].phases)
    sent_mb = max(max(one.sent_bytes) for one in later) / 1e6
    unlike = sum(one.results != 1 for one in took)
    failures = sorted({one.failure for one in took if one.failure})
    return [
        Row(f"{name}: median / bound", statistics.median(seconds) / bound, "", bar, f"bound {bound:.2f} s"),
        Row(f"{name}: least / bound", min(seconds) / bound, ""),
        Row(f"{name}: median round", statistics.median(seconds), "s", "", phases and f"{phases} s"),
        Row(f"{name}: first round", took[0].seconds, "s"),
        Row(
            f"{name}: sent by a worker",
            sent_mb,
            "MB",
            "",
            f"{sent_mb * 8 / rate_mbit:.2f} s of the wire, headers and all",
        ),
        Row(f"{name}: error of the mean", max(one.error for one in took), ""),
        Row(f"{name}: rounds with unlike peers", unlike, f"of {len(took)}", "<= 0" if bar else "", "; ".join(failures)),
    ]


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--rounds", type=int, default=6, help="of each contender; the first opens connections")
    made.add_argument("--values", type=int, default=10_000_000)
    made.add_argument("--rate", type=float, default=100.0, help="Mbit/s, of each uplink")
    made.add_argument("--rtt", type=float, default=50.0, help="ms")
    made.add_argument("--codecs", nargs="+", default=["int8", "none"], help="of contributions and updates")
    made.add_argument("--without-hivemind", action="store_true")
    made.add_argument(
        "--hivemind",
        type=Path,
        default=Path(tempfile.gettempdir()) / "legion-hivemind",
        help="its environment's folder",
    )
    given = made.parse_args()
    if given.rounds < 1 or given.values < WORKERS * CHUNK:
        made.error(f"it takes a round and {WORKERS * CHUNK} values at least")
    reason = missing()
    if reason:
        print(f"wan_round.py cannot run here: {reason}.")
        return 2
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    without = "" if given.without_hivemind else hivemind_rounds.environment(given.hivemind)
    if without:
        print(f"Without hivemind: {without}.")
    rows: list[Row] = []
    with joined(WORKERS, given.rate, given.rtt) as sites, tempfile.TemporaryDirectory() as folder:
        rows.append(Row("round trip", measured_rtt_ms(sites[0], sites[1]), "ms", "", f"{given.rate:g} Mbit/s up"))
        for codec in given.codecs:
            rows += legion(given, codec, sites, Path(folder) / codec)
            if not given.without_hivemind and not without and codec in HIVEMIND:
                rows += hivemind(given, codec, sites)
    rows.append(Row("load", os.getloadavg()[0], "", "", f"{os.cpu_count()} cores"))
    return show("averaging over home links", rows, given.json)


def legion(given: Namespace, codec: str, sites: Sequence[Site], folder: Path) -> list[Row]:
    standard = (given.values, given.rate, given.rtt) == (10_000_000, 100.0, 50.0)
    took = legion_rounds.measure(sites, folder, codec=codec, values=given.values, rounds=given.rounds, rtt_ms=given.rtt)
    bound = bound_s(given.values, bits_per_value(by_name(codec)), given.rate)
    return rows_of(f"Legion {codec}", took, bound, given.rate, BARS.get(codec, "") if standard else "")


def hivemind(given: Namespace, codec: str, sites: Sequence[Site]) -> list[Row]:
    theirs, bits = HIVEMIND[codec]
    try:
        took = hivemind_rounds.measure(sites, given.hivemind, codec=theirs, values=given.values, rounds=given.rounds)
    except PeerFailed as error:
        print(f"hivemind {theirs}: {error}")
        return []
    return rows_of(f"hivemind {theirs}", took, bound_s(given.values, bits, given.rate), given.rate, "")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # by now everything has ended
