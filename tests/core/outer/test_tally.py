"""What is counted beside the reports of spans."""

import threading

from legion.ids import ClusterId
from legion.outer.tally import Tally
from legion.rounds import RootReport

ROOT = RootReport(round=3, cluster=ClusterId("c1"), rank=0, root="0" * 64)


def test_all_is_told_once() -> None:
    tally = Tally()
    assert tally.told_with(ROOT) == ROOT
    for reason in ("late", "early", "late"):
        tally.refused(reason)
    tally.damaged()
    told = tally.told_with(ROOT)
    assert told == ROOT.model_copy(update={"refused": {"early": 1, "late": 2}, "damaged": 1})
    assert tally.told_with(ROOT) == ROOT


def test_threads_count_side_by_side() -> None:
    tally, told = Tally(), 0
    threads = [threading.Thread(target=lambda: [tally.refused("late") for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        told += tally.told_with(ROOT).refused.get("late", 0)
    told += tally.told_with(ROOT).refused.get("late", 0)
    assert told == 4 * 2000
