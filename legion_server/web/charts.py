"""Line and bar charts as plain numbers; charts.html draws them as SVG, with a table that says the same.

Invariant: every drawn point lies inside the frame, whatever the values are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640.0, 240.0  # SVG units
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 10.0, 26.0  # margins
MOST_TICKS = 5
SMALLEST_STEP = 1e-300  # below it, floats have too few digits to divide


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y) of one line; those that are not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, in SVG units, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    polyline: str  # for <polyline points>
    dots: tuple[tuple[float, float], ...]  # of short series, where a line alone would not be seen


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    text: str  # what a reader is told of it


@dataclass(frozen=True, slots=True)
class Chart:
    """What charts.html draws. `rows` are the table's, under `columns`."""

    title: str
    description: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def lines(title: str, x_name: str, series: Sequence[Series], *, digits: int = 3, most_rows: int = 24) -> Chart | None:
    """A line for each series. None before there are two points to join."""
    shown = [Series(s.name, [p for p in s.points if math.isfinite(p[0]) and math.isfinite(p[1])]) for s in series]
    points = [point for one in shown for point in one.points]
    if len({x for x, _ in points}) < 2:
        return None
    across = _Axis(min(x for x, _ in points), max(x for x, _ in points), LEFT, WIDTH - RIGHT)
    up = _Axis(min(y for _, y in points), max(y for _, y in points), HEIGHT - BOTTOM, TOP)
    return Chart(
        title=title,
        description="; ".join(_told(one, x_name, digits) for one in shown if one.points),
        x_ticks=tuple(Tick(across(x), _number(x)) for x in ticks(across.low, across.high)),
        y_ticks=tuple(Tick(up(y), _number(y)) for y in ticks(up.low, up.high)),
        lines=tuple(_line(one, across, up) for one in shown),
        bars=(),
        columns=(x_name, *(one.name for one in shown)),
        rows=_rows(shown, digits, most_rows),
    )


def bars(title: str, x_name: str, y_name: str, values: Sequence[tuple[str, float]]) -> Chart | None:
    """A bar for each value, which is none below 0. None without values."""
    if not values:
        return None
    most = max(value for _, value in values) or 1.0
    up = _Axis(0.0, most, HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(values)
    every = max(1, math.ceil(len(values) / 8))
    drawn = [(LEFT + place * step, name, value) for place, (name, value) in enumerate(values)]
    return Chart(
        title=title,
        description=f"{y_name} by {x_name}, {len(values)} bars, the highest {_number(most)}",
        x_ticks=tuple(Tick(x + step / 2, name) for place, (x, name, _) in enumerate(drawn) if place % every == 0),
        y_ticks=tuple(Tick(up(y), _number(y)) for y in ticks(0.0, most)),
        lines=(),
        bars=tuple(
            Bar(
                round(x + step * 0.1, 2),
                round(up(value), 2),
                round(step * 0.8, 2),
                round(HEIGHT - BOTTOM - up(value), 2),
                f"{name}: {_number(value)}",
            )
            for x, name, value in drawn
        ),
        columns=(x_name, y_name),
        rows=tuple((name, f"{value:,.0f}") for name, value in values),
    )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`: 1, 2 or 5 times a power of 10 apart, at most MOST_TICKS + 1 of them."""
    raw = high / MOST_TICKS - low / MOST_TICKS  # never beyond what a float holds
    if not raw > SMALLEST_STEP:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= raw * 0.999999)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axis:
    """Maps [low, high] to SVG units."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self._start, self._end = low, high, start, end

    def __call__(self, value: float) -> float:
        # Halved first: the difference of two large numbers may be beyond what a float holds.
        length = self.high / 2 - self.low / 2
        if not length > 0:
            return (self._start + self._end) / 2
        share = (value / 2 - self.low / 2) / length
        return self._start + min(1.0, max(0.0, share)) * (self._end - self._start)


def _line(series: Series, across: _Axis, up: _Axis) -> Line:
    drawn = tuple((round(across(x), 1), round(up(y), 1)) for x, y in series.points)
    return Line(series.name, " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn), drawn if len(drawn) <= 12 else ())


def _told(series: Series, x_name: str, digits: int) -> str:
    (first_x, first), (last_x, last) = series.points[0], series.points[-1]
    return f"{series.name} {first:.{digits}f} at {x_name} {_number(first_x)}, {last:.{digits}f} at {_number(last_x)}"


def _rows(series: Sequence[Series], digits: int, most: int) -> tuple[tuple[str, ...], ...]:
    """For the table: evenly chosen places, the last among them."""
    values = [dict(one.points) for one in series]
    places = sorted({x for one in values for x in one})
    if len(places) > most:
        places = [places[round(i * (len(places) - 1) / (most - 1))] for i in range(most)]
    return tuple((_number(x), *(f"{one[x]:.{digits}f}" if x in one else "" for one in values)) for x in places)


def _number(value: float) -> str:
    if abs(value) >= 1e6:
        for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {prefix}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
