"""Whose fault a stall is, and how much of it passed before anybody knew."""

from pathlib import Path
from typing import Any

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from chaos.stalls import Kill, Stall, p95, stalls, undisturbed, usual

KILL = Kill(10.0, 10.1, "one", "id-one")


def steps(*moments: float) -> list[dict[str, Any]]:
    return [{"at": at, "step": number} for number, at in enumerate(moments)]


def only(found: list[Stall]) -> tuple[float, str, float]:
    [stall] = found
    return stall.seconds, stall.name, stall.detected_s


def test_a_stall_is_the_time_between_two_steps_beyond_the_usual() -> None:
    notes = {"one": steps(8, 9), "two": [*steps(8, 9, 13, 14), {"at": 12.0, "broken": True}]}
    found = stalls([KILL], notes, {"one": 1.0, "two": 1.0}, 15.0)
    assert only(found) == (3.0, "two", 2.0)
    assert found[0].beyond_s == 1.0


def test_who_was_killed_stalls_by_itself() -> None:
    back = {"one": steps(8, 10.05, 30, 31), "two": steps(*range(8, 31))}
    assert only(stalls([KILL], back, {"one": 1.0, "two": 1.0}, 31.0))[0] == 0.0


def test_who_has_not_gone_on_by_the_end_stalls_until_then() -> None:
    assert only(stalls([KILL], {"two": steps(8, 9)}, {"two": 1.0}, 60.0)) == (50.0, "two", 50.0)


def test_a_stall_belongs_to_the_kill_that_it_began_with_or_after() -> None:
    later = Kill(20.0, 20.1, "three", "id-three")
    notes = {"two": steps(8, 9, 14, 15, 19, 19.5, 22, 25)}
    first, second = stalls([KILL, later], notes, {"two": 1.0}, 26.0)
    assert (first.seconds, second.seconds) == (4.0, 2.0)


@pytest.mark.parametrize(
    "news",
    [
        {"gone": ["c1"]},
        {"round": 3, "reducers": ["id-two"], "clusters": {"id-one": "c1", "id-two": "c2"}},
        {"round": 4, "reducers": ["id-two"], "clusters": {"id-two": "c2"}},
    ],
)
def test_of_a_cluster_of_one_the_server_tells(news: dict[str, Any]) -> None:
    plan = {"at": 5.0, "round": 3, "reducers": ["id-one"], "clusters": {"id-one": "c1", "id-two": "c2"}}
    repeated = plan | {"at": 10.5}
    notes = {"two": [plan, *steps(8, 9), repeated, {"at": 12.0} | news, *steps(14)]}
    assert only(stalls([KILL], notes, {"two": 1.0}, 14.5)) == (4.0, "two", 2.0)


def test_what_is_usual_and_what_a_busy_machine_does() -> None:
    notes = {"two": steps(0, 1, 2, 5, 6, 7, 8)}
    assert usual(notes, 0.0, 8.0) == {"two": 1.0}
    assert undisturbed(notes, {"two": 1.0}, 0.0, 8.0, 4.0) == [2.0, 0.0]


def test_the_percentile() -> None:
    assert p95(range(1, 101)) == 95
    assert p95([7.0]) == 7.0
