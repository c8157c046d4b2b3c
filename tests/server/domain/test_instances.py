"""Two programs with one key: the older stays, the newer is turned away; restarts are no doubles."""

from hypothesis import given
from hypothesis import strategies as st

from legion_server.domain.instances import MOST_TURNED_AWAY, TOLD_S, Heard, Instances, Program, heard, newcomer_of


def beats(*instances: str) -> list[Heard]:
    known: Instances | None = None
    found: list[Heard] = []
    for at, instance in enumerate(instances):
        found.append(heard(known, Program(instance, f"host of {instance}"), float(at)))
        known = found[-1].instances
    return found


def test_the_older_of_two_stays_and_hears_of_the_newer() -> None:
    *before, back, again, away, stays = beats("a", "a", "b", "a", "a", "b", "a")
    assert not any(one.doubled or one.refused for one in before)
    assert (back.doubled, back.refused) == (True, False)
    assert (away.refused, away.doubled) == (True, False)
    assert not any(one.doubled or one.refused for one in (again, stays))
    newcomer = newcomer_of(stays.instances, 7.0)
    assert newcomer == Program("b", "host of b")
    assert newcomer_of(stays.instances, 6.0 + TOLD_S) is None


@given(st.lists(st.integers(1, 4), max_size=20))
def test_one_after_the_other_is_no_double(each: list[int]) -> None:
    found = beats(*(str(number) for number, count in enumerate(each) for _ in range(count)))
    assert not any(one.doubled or one.refused for one in found)


@given(st.lists(st.sampled_from("abcd"), max_size=60))
def test_whatever_is_heard_one_is_taken_and_a_double_is_found_once(instances: list[str]) -> None:
    found = beats(*instances)
    for instance, one in zip(instances, found, strict=True):
        away = [other.instance for other in one.instances.turned_away]
        assert one.instances.now.instance not in away
        assert one.refused == (instance in away)
        assert one.refused or one.instances.now.instance == instance
        assert len(away) == len(set(away)) <= MOST_TURNED_AWAY
    assert sum(one.doubled for one in found) <= len(set(instances))
