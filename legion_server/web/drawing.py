"""Who trains with whom, as a drawing without names: workers are dots, clusters circles around them, regions hulls.

Invariant: circles that do not belong together do not overlap, and all lies inside the frame. Pure and deterministic:
the same workers give the same picture.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from legion.ids import WorkerId

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
DOT, STEP, PAD, GAP = 5.0, 13.0, 8.0, 12.0  # SVG units: a dot's radius, between dots, around them, between circles
SUNFLOWER = STEP * 0.72  # so that neighbours are STEP apart
RING = 6  # dots
MOST_DOTS = 400  # beyond, a dot stands for several workers
MOST_GROUPS = 200  # beyond, clusters are not told apart
STRETCH = 1.8  # wider than high, as screens are


@dataclass(frozen=True, slots=True)
class Group:
    """Workers that train one model together, or one that is alone. `region` None: not known."""

    region: int | None
    workers: int
    trains: bool
    together: bool = True


@dataclass(frozen=True, slots=True)
class Circle:
    x: float
    y: float
    r: float
    kind: str  # a class of the stylesheet


@dataclass(frozen=True, slots=True)
class Hull:
    """A convex polygon around a region's clusters, for <polygon points>; its stroke is 2 PAD wide and round."""

    points: str


@dataclass(frozen=True, slots=True)
class Drawing:
    width: float
    height: float
    hulls: tuple[Hull, ...]
    circles: tuple[Circle, ...]
    dots: tuple[Circle, ...]
    per_dot: int  # workers
    description: str


def groups(
    clusters: Sequence[Sequence[WorkerId]], here: Mapping[WorkerId, bool], regions: Mapping[WorkerId, int]
) -> list[Group]:
    """`here`: workers that are there, and whether they train. Those in no cluster stand alone."""
    placed: set[WorkerId] = set()
    found = []
    for cluster in clusters:
        members = [worker for worker in cluster if worker in here]
        placed |= set(members)
        if members:
            numbers = [regions[worker] for worker in members if worker in regions]
            found.append(Group(min(numbers, default=None), len(members), any(here[worker] for worker in members)))
    return found + [Group(regions.get(worker), 1, here[worker]) for worker in sorted(here) if worker not in placed]


def draw(found: Sequence[Group]) -> Drawing | None:
    """None without workers."""
    total = sum(group.workers for group in found)
    if not total:
        return None
    per_dot = max(1, math.ceil(total / MOST_DOTS))
    kept = _fewer(found) if len(found) > MOST_GROUPS else list(found)
    named = sorted({group.region for group in kept if group.region is not None})
    places = [[group for group in kept if group.region == region] for region in named]
    # Whose region nobody knows is not drawn as if it were one.
    islands = [_island(members, per_dot) for members in places]
    islands += [_island([group], per_dot) for group in kept if group.region is None]
    circles, dots, hulls = [], [], []
    centres = _packed([radius for _, radius in islands])
    for place, ((members, _), (x, y)) in enumerate(zip(islands, centres, strict=True)):
        moved = [(group, Circle(x + c.x, y + c.y, c.r, c.kind)) for group, c in members]
        circles += [circle for _, circle in moved]
        dots += [dot for group, circle in moved for dot in _dots(group, circle, per_dot)]
        if place < len(named):
            hulls.append([circle for _, circle in moved])
    return _framed(circles, dots, hulls, per_dot, _told(found, total, len(named)))


def _fewer(found: Sequence[Group]) -> list[Group]:
    """Too many to tell apart: all of a region together, those that train and those that wait."""
    joined: dict[tuple[int | None, bool], int] = {}
    for group in found:
        place = group.region, group.trains
        joined[place] = joined.get(place, 0) + group.workers
    return [Group(region, count, trains, together=False) for (region, trains), count in joined.items()]


def _radius(group: Group, per_dot: int) -> float:
    return max((math.hypot(x, y) for x, y in _seeds(math.ceil(group.workers / per_dot))), default=0.0) + DOT + PAD


def _island(members: Sequence[Group], per_dot: int) -> tuple[list[tuple[Group, Circle]], float]:
    """A region's clusters around its middle, and the radius of all."""
    radii = [_radius(group, per_dot) for group in members]
    placed = [
        (group, Circle(x, y, r, "cluster" if group.workers > 1 and group.together else "single"))
        for group, r, (x, y) in zip(members, radii, _packed(radii), strict=True)
    ]
    return placed, max(math.hypot(c.x, c.y) + c.r for _, c in placed)


def _packed(radii: Sequence[float]) -> list[tuple[float, float]]:
    """Centres of circles that do not overlap: in rows, the largest first, around the middle."""
    order = sorted(range(len(radii)), key=lambda place: (-radii[place], place))
    across = math.sqrt(STRETCH * sum((2 * radius + GAP) ** 2 for radius in radii))
    rows: list[list[int]] = [[]]
    for place in order:
        used = sum(2 * radii[other] + GAP for other in rows[-1])
        if rows[-1] and used + 2 * radii[place] > max(across, 2 * max(radii)):
            rows.append([])
        rows[-1].append(place)
    height = sum(2 * radii[row[0]] + GAP for row in rows) - GAP
    centres, y = {}, -height / 2
    for row in rows:
        x = -(sum(2 * radii[place] + GAP for place in row) - GAP) / 2
        for place in row:
            centres[place] = x + radii[place], y + radii[row[0]]
            x += 2 * radii[place] + GAP
        y += 2 * radii[row[0]] + GAP
    return [centres[place] for place in range(len(radii))]


def _seeds(dots: int) -> list[tuple[float, float]]:
    """Places for dots around a middle, STEP or more apart: a ring of few, a sunflower's seeds of many."""
    if dots == 1:
        return [(0.0, 0.0)]
    if dots <= RING:
        reach, turn = STEP / (2 * math.sin(math.pi / dots)), 2 * math.pi / dots
        return [(reach * math.sin(turn * seed), -reach * math.cos(turn * seed)) for seed in range(dots)]
    reaches = [SUNFLOWER * math.sqrt(seed + 0.5) for seed in range(dots)]
    return [(r * math.cos(n * GOLDEN_ANGLE), r * math.sin(n * GOLDEN_ANGLE)) for n, r in enumerate(reaches)]


def _dots(group: Group, circle: Circle, per_dot: int) -> list[Circle]:
    kind = "trains" if group.trains else "waits"
    return [Circle(circle.x + x, circle.y + y, DOT, kind) for x, y in _seeds(math.ceil(group.workers / per_dot))]


def _framed(
    circles: Sequence[Circle], dots: Sequence[Circle], regions: Sequence[Sequence[Circle]], per_dot: int, told: str
) -> Drawing:
    """All of it moved to where coordinates are positive."""
    margin = 2 * PAD + 2
    left = min(c.x - c.r for c in circles) - margin
    top = min(c.y - c.r for c in circles) - margin

    def at(circle: Circle) -> Circle:
        return Circle(round(circle.x - left, 1), round(circle.y - top, 1), round(circle.r, 1), circle.kind)

    return Drawing(
        width=round(max(c.x + c.r for c in circles) + margin - left, 1),
        height=round(max(c.y + c.r for c in circles) + margin - top, 1),
        hulls=tuple(Hull(_hull([at(circle) for circle in region])) for region in regions),
        circles=tuple(at(circle) for circle in circles if circle.kind == "cluster"),
        dots=tuple(at(dot) for dot in dots),
        per_dot=per_dot,
        description=told,
    )


def _hull(circles: Sequence[Circle]) -> str:
    """Of points on the circles (Andrew's monotone chain)."""
    turns = [step * math.pi / 8 for step in range(16)]
    points = sorted(
        {(round(c.x + c.r * math.cos(t), 1), round(c.y + c.r * math.sin(t), 1)) for c in circles for t in turns}
    )

    def chain(ordered: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for point in ordered:
            while len(kept) > 1 and _turn(kept[-2], kept[-1], point) <= 0:
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return " ".join(f"{x},{y}" for x, y in chain(points) + chain(points[::-1]))


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _told(found: Sequence[Group], total: int, regions: int) -> str:
    clusters = [group.workers for group in found if group.workers > 1]
    parts = [f"{total} {'worker' if total == 1 else 'workers'}"]
    if clusters:
        sizes = f"of {min(clusters)}" if min(clusters) == max(clusters) else f"of {min(clusters)} to {max(clusters)}"
        parts.append(f"{len(clusters)} {'cluster' if len(clusters) == 1 else 'clusters'} {sizes} workers")
    if regions:
        parts.append(f"{regions} {'region' if regions == 1 else 'regions'}")
    return ", ".join(parts)
