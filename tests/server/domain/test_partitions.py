"""Who of a broken cluster goes on, by what its members say of one another: every set of words is one call away."""

from hypothesis import given
from hypothesis import strategies as st

from legion.ids import WorkerId
from legion_server.domain.partitions import Word, Words, may_live, together

NAMES = [WorkerId(name) for name in "abcdef"]
names = st.sampled_from(NAMES)


@st.composite
def spoken(draw: st.DrawFn) -> Words:
    """Anybody may say anything, but of itself."""
    found = {}
    for worker in draw(st.sets(names, min_size=1)):
        others = st.none() | names.filter(lambda other, worker=worker: other != worker)
        lost = draw(others)
        found[worker] = Word(lost, None if lost is not None else draw(others))
    return found


def reach(words: Words, one: WorkerId, other: WorkerId) -> bool:
    return words[one].lost != other or words[other].lost is None


@given(words=spoken())
def test_nobody_goes_on_with_one_that_it_does_not_reach_and_somebody_goes_on(words: Words) -> None:
    left = together(words, NAMES)
    assert left
    assert set(left) <= set(words)
    assert all(reach(words, one, other) for one in left for other in left if one != other)
    out = set(words) - set(left)
    for worker in out:  # nobody is left out for nothing
        assert any(not reach(words, worker, one) or not reach(words, one, worker) for one in words if one != worker)


@given(words=spoken(), order=st.permutations(NAMES))
def test_how_many_go_on_does_not_hang_on_who_spoke_first(words: Words, order: list[WorkerId]) -> None:
    again = {worker: words[worker] for worker in order if worker in words}
    assert together(again, NAMES) == together(words, NAMES)


@given(cut_off=names, named=names)
def test_one_that_is_cut_off_from_all_others_is_the_one_that_leaves(cut_off: WorkerId, named: WorkerId) -> None:
    lost = named if named != cut_off else next(name for name in NAMES if name != cut_off)
    words = {name: Word(cut_off) for name in NAMES if name != cut_off} | {cut_off: Word(lost)}
    assert set(together(words, NAMES)) == set(NAMES) - {cut_off}
    first = {cut_off: Word(lost)}
    assert all(may_live(name, first) for name in NAMES if name not in (cut_off, lost))


def test_who_was_stopped_and_came_back_goes_on_with_the_others() -> None:
    a, b, c = NAMES[:3]
    words = {a: Word(c), b: Word(told_by=a), c: Word(told_by=a)}
    assert together(words, NAMES) == (a, b, c)
    assert not may_live(c, {a: Word(c), b: Word(told_by=a)}), "nobody waits for one that is stopped"
