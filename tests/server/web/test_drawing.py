"""The drawing of who trains with whom: everybody is in it, nothing overlaps, nobody is named."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion.ids import WorkerId
from legion_server.web import drawing
from legion_server.web.drawing import Group

GROUPS = st.lists(
    st.builds(Group, region=st.none() | st.integers(0, 3), workers=st.integers(1, 12), trains=st.booleans()),
    min_size=1,
    max_size=20,
)


@given(GROUPS)
def test_everybody_is_drawn_and_nothing_overlaps(groups: list[Group]) -> None:
    drawn = drawing.draw(groups)
    assert drawn is not None
    assert len(drawn.dots) == sum(group.workers for group in groups)
    for a, b in combinations(drawn.circles, 2):
        assert math.hypot(a.x - b.x, a.y - b.y) >= a.r + b.r
    for a, b in combinations(drawn.dots, 2):
        assert math.hypot(a.x - b.x, a.y - b.y) >= a.r + b.r
    for circle in (*drawn.circles, *drawn.dots):
        assert circle.r <= circle.x <= drawn.width - circle.r
        assert circle.r <= circle.y <= drawn.height - circle.r
    assert len(drawn.hulls) == len({group.region for group in groups} - {None})
    assert len(drawn.circles) == sum(group.workers > 1 for group in groups)


@pytest.mark.parametrize(("clusters", "size"), [(1, 1), (7, 1), (400, 1), (401, 1), (2500, 4), (3, 5000)])
def test_any_number_of_workers_makes_a_small_picture(clusters: int, size: int) -> None:
    drawn = drawing.draw([Group(place % 5, size, True) for place in range(clusters)])
    assert drawn is not None
    assert len(drawn.dots) <= drawing.MOST_DOTS + drawing.MOST_GROUPS
    assert len(drawn.dots) * drawn.per_dot >= clusters * size
    assert drawn.description.startswith(f"{clusters * size} worker")


def test_no_workers_are_no_picture() -> None:
    assert drawing.draw([]) is None


def test_groups_are_clusters_and_those_who_are_alone() -> None:
    a, b, c, d = (WorkerId(letter * 32) for letter in "abcd")
    here = {a: True, b: True, c: False}
    found = drawing.groups([[a, b], [d]], here, {a: 1, b: 0})
    assert found == [Group(0, 2, True), Group(None, 1, False)]
