"""What the runs say: losses, gap closed, and paired differences with their intervals."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rows import Row

from convergence.arms import DENSE, ENDS, LR_SCALES, SEEDS, Arm, Results, Run, best_scale

# 97.5 % quantiles of Student's t by degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and half the width of its 95 % t-interval; None with one seed."""

    mean: float
    half: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.half is None else f" ± {self.half:.3f}")


def interval(values: Sequence[float]) -> Interval | None:
    """None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Interval(values[0], None, 1)
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(statistics.fmean(values), half, len(values))


def losses(arm: Arm, results: Results) -> dict[int, float]:
    """Reported loss by seed, at the best rate of the trials that are there."""
    scale = best_scale(arm, results, all_trials=False)
    rows = {} if scale is None else {seed: results.get(Run(arm, scale, seed).key) for seed in SEEDS}
    return {seed: row["loss"] for seed, row in rows.items() if row is not None and "loss" in row}


def gaps_closed(arm: Arm, results: Results) -> dict[int, float]:
    """By seed: (solo - arm) / (solo - synchronous), all three with that seed."""
    solo, synchronous = (losses(end, results) for end in ends_of(arm))
    return {
        seed: (solo[seed] - loss) / (solo[seed] - synchronous[seed])
        for seed, loss in losses(arm, results).items()
        if seed in solo and seed in synchronous
    }


def behind(arm: Arm, reference: Arm, results: Results) -> Interval | None:
    """How much less of the gap `arm` closes than `reference`, paired by seeds."""
    ours, theirs = gaps_closed(arm, results), gaps_closed(reference, results)
    return interval([theirs[seed] - gap for seed, gap in ours.items() if seed in theirs])


def fp32_of(arm: Arm) -> Arm:
    """What the codecs are compared with, in the arm's own setting."""
    return _of_setting(arm, DENSE[0])


def ends_of(arm: Arm) -> tuple[Arm, Arm]:
    """Solo and synchronous of the arm's setting."""
    return _of_setting(arm, ENDS[0]), _of_setting(arm, ENDS[1])


def _of_setting(arm: Arm, other: Arm) -> Arm:
    return other.variant(optimizer=arm.optimizer, clusters=arm.clusters, steps=arm.steps, all_steps=arm.all_steps)


def tables(arms: Iterable[Arm], results: Results) -> list[Table]:
    """One for each setting that has results."""
    made: dict[str, Table] = {}
    for arm in arms:
        found = losses(arm, results)
        if not found:
            continue
        if arm.setting not in made:
            made[arm.setting] = Table(*COLUMNS, title=arm.setting)
        made[arm.setting].add_row(*_cells(arm, found, results))
    return list(made.values())


COLUMNS = ("arm", "seeds", "lr x", "loss", "G", "G(fp32) - G", "up, bits", "down, bits", "before last flush")


def _cells(arm: Arm, found: dict[int, float], results: Results) -> list[str]:
    scale = best_scale(arm, results, all_trials=False)
    assert scale is not None
    rows = [results[Run(arm, scale, seed).key] for seed in found]
    tried = sum(Run(arm, other, SEEDS[0]).key in results for other in LR_SCALES)
    lost = behind(arm, fp32_of(arm), results) if arm.kind == "rounds" else None
    before = [row["before_flush"] for row in rows if row.get("before_flush") is not None]
    gaps = interval(list(gaps_closed(arm, results).values()))
    return [
        arm.name,
        str(len(found)),
        f"{scale:g}" + ("" if tried == len(LR_SCALES) else " (only)"),
        str(interval(list(found.values()))),
        "" if gaps is None else str(gaps),
        "" if lost is None or arm == fp32_of(arm) else str(lost),
        f"{rows[0]['up_bits']:.3f}" if "up_bits" in rows[0] else "",
        f"{rows[0]['down_bits']:.3f}" if "down_bits" in rows[0] else "",
        f"{statistics.fmean(before):.3f}" if before else "",
    ]


def figures(results: Results) -> list[Row]:
    """What has a bar: int8 and int4 close as much of the gap as fp32, within 0.03."""
    rows = []
    for optimizer in ("muon", "adamw"):
        for arm in (dense.variant(optimizer=optimizer) for dense in DENSE[1:]):
            lost = behind(arm, fp32_of(arm), results)
            if lost is not None:
                bar = "<= 0.03" if lost.count == len(SEEDS) else ""
                rows.append(
                    Row(f"{optimizer}, {arm.name}: G(fp32) - G", lost.mean, "", bar, f"{lost}, {lost.count} seeds")
                )
    return rows
