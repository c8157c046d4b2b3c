"""Charts stay inside their frame whatever is drawn, and their tables say the same."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from legion_server.web import charts
from legion_server.web.charts import HEIGHT, LEFT, WIDTH, Series

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(st.integers(1, 10**6), FLOATS), unique_by=lambda point: point[0]))
def test_a_line_stays_inside_its_frame(points: list[tuple[int, float]]) -> None:
    chart = charts.lines("Loss", "step", [Series("loss", sorted((float(x), y) for x, y in points))])
    if chart is None:
        return
    drawn = [tuple(map(float, point.split(","))) for point in chart.lines[0].polyline.split()]
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn)
    assert all(a[0] <= b[0] for a, b in pairwise(drawn))
    assert all(0 <= tick.at <= WIDTH for tick in (*chart.x_ticks, *chart.y_ticks))


def test_one_point_is_no_line() -> None:
    assert charts.lines("Loss", "step", []) is None
    assert charts.lines("Loss", "step", [Series("loss", [(1.0, 2.0)])]) is None
    assert charts.lines("Loss", "step", [Series("loss", [(1.0, 2.0), (2.0, float("nan"))])]) is None


def test_the_table_has_every_series_and_the_last_point() -> None:
    many = [(float(x), 1.0 / x) for x in range(1, 1001)]
    chart = charts.lines("Loss", "step", [Series("a", many), Series("b", [(1000.0, 5.0)])], most_rows=7)
    assert chart is not None
    assert chart.columns == ("step", "a", "b")
    assert len(chart.rows) == 7
    assert chart.rows[0] == ("1", "1.000", "")
    assert chart.rows[-1] == ("1,000", "0.001", "5.000")


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(0, 1e300))))
def test_bars_stay_inside_their_frame(values: list[tuple[str, float]]) -> None:
    chart = charts.bars("Tokens", "day", "tokens", values)
    if chart is None:
        assert values == []
        return
    assert len(chart.bars) == len(chart.rows) == len(values)
    for bar in chart.bars:
        assert LEFT <= bar.x <= bar.x + bar.width <= WIDTH
        assert 0 <= bar.y <= bar.y + bar.height <= HEIGHT + 0.01


def test_ticks_are_round_numbers() -> None:
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert charts.ticks(3, 3) == [3]
    assert len(charts.ticks(0.0013, 977.2)) <= charts.MOST_TICKS + 1
