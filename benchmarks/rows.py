"""What every benchmark prints: a table, and with --json FILE the same rows for machines."""

import argparse
import json
import operator
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from legion.errors import LegionError

_HOLDS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `bar`, for example "<= 1.95", is what it should be; `ok` whether it is."""

    name: str
    value: float
    unit: str
    bar: str = ""
    note: str = ""

    @property
    def ok(self) -> bool | None:
        if not self.bar:
            return None
        sign, bound = self.bar.split()
        return _HOLDS[sign](self.value, float(bound))


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    return made


def show(title: str, rows: Sequence[Row], json_file: Path | None) -> int:
    """Print the table, write the JSON; 1 if a bar is missed, else 0."""
    table = Table("figure", "value", "unit", "bar", "", "note", title=title)
    for row in rows:
        verdict = {None: "", True: "ok", False: "MISSED"}[row.ok]
        table.add_row(row.name, f"{row.value:,.4g}", row.unit, row.bar, verdict, row.note)
    Console(width=150).print(table)
    if json_file is not None:
        lines = [asdict(row) | {"ok": row.ok} for row in rows]
        json_file.write_text(json.dumps(lines, indent=1) + "\n")
    return int(any(row.ok is False for row in rows))


def status_of(main: Callable[[], int]) -> int:
    """What the program exits with: what `main` returns, or that of a LegionError, which is said in a sentence."""
    try:
        return main()
    except LegionError as error:
        print(f"{Path(sys.argv[0]).name}: {error}. {error.hint}", file=sys.stderr)
        return error.exit_code


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
