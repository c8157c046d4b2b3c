"""Every codec on one core: encode and decode against a copy of the same values, what is lost, and bits per value.

10M float32 values, out of cache. A repeat copies, encodes and decodes one after the other, in CPU time of the one
thread, so that other programs on the machine count little; ratios are taken within a repeat, and bars hold for the
median. Relative error is |decoded - values| / |values|, on normal values and on heavy tails (Student's t, 3 degrees of
freedom). For `topk`, most of it is what waits in the sender's feedback.

`--device cuda` encodes on the card instead, upload and download included, in wall time; bars are the CPU's.

    python benchmarks/codecs.py [--repeats 15] [--only NAME ...] [--device cuda] [--json FILE]
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rows import Row, interval, parser, show

from legion.codec.api import AnyCodec, Floats
from legion.codec.on_device import OnDevice
from legion.codec.registry import ALL, SPARSE
from legion.layout import CHUNK
from legion.train.device import describe

NUMEL = 10_000_000 // CHUNK * CHUNK
SIZE_MB = NUMEL * 4 / 1e6
ENCODE_BARS = {"int8": 0.15, "int4": 0.08, "onebit": 0.3, "topk256": 0.08, "topk64": 0.08, "topk240x4": 0.08}
BITS_BARS = {"int8": 8.125, "int4": 4.25, "int2": 2.13, "onebit": 1.07, "topk64": 0.16, "topk240x4": 0.6}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    started = clock()
    work()
    return clock() - started


def relative_error(codec: AnyCodec, values: Floats, out: Floats) -> float:
    codec.decode(memoryview(codec.encode(values)), out)
    return float(np.linalg.norm(np.subtract(out, values, out=out)) / np.linalg.norm(values))


def measured(codec: AnyCodec, normal: Floats, heavy: Floats, repeats: int) -> list[Row]:
    out = np.zeros_like(normal)
    data = bytes(codec.encode(normal))
    copies, encodes, decodes = [], [], []
    for _ in range(repeats):
        copies.append(seconds(lambda: np.copyto(out, normal)))
        encodes.append(seconds(lambda: codec.encode(normal)))
        decodes.append(seconds(lambda: codec.decode(memoryview(data), out)))
    rows = []
    for what, taken in (("encode", encodes), ("decode", decodes)):
        low, ratio, high = interval([copy / s for copy, s in zip(copies, taken, strict=True)])
        bar = f">= {ENCODE_BARS[codec.name]}" if what == "encode" and codec.name in ENCODE_BARS else ""
        rows.append(Row(f"{codec.name}: {what}", SIZE_MB / statistics.median(taken), "MB/s"))
        rows.append(Row(f"{codec.name}: {what} / copy", ratio, "", bar, f"quartiles {low:.3g} to {high:.3g}"))
    if codec.lossy:
        faster = statistics.median(e / d for e, d in zip(encodes, decodes, strict=True))
        rows.append(Row(f"{codec.name}: decode / encode", faster, "", ">= 1"))
    rows.append(Row(f"{codec.name}: error, normal", relative_error(codec, normal, out), "relative"))
    rows.append(Row(f"{codec.name}: error, heavy tails", relative_error(codec, heavy, out), "relative"))
    bits_bar = f"<= {BITS_BARS[codec.name]}" if codec.name in BITS_BARS else ""
    rows.append(Row(f"{codec.name}: bits", len(data) * 8 / NUMEL, "bit/value", bits_bar))
    return rows


def on_card(codec: AnyCodec, device: torch.device, normal: Floats, repeats: int) -> list[Row]:
    """Ends with the bytes in host memory, so nothing on the card is left to wait for."""
    there = OnDevice(codec, device)
    there.encode(normal)
    ratios, encodes = [], []
    for _ in range(repeats):
        encodes.append(seconds(lambda: there.encode(normal), time.perf_counter))
        ratios.append(seconds(lambda: codec.encode(normal), time.perf_counter) / encodes[-1])
    low, ratio, high = interval(ratios)
    other_bytes = bytes(there.encode(normal)) != bytes(codec.encode(normal))
    return [
        Row(f"{codec.name}: encode on {device}", SIZE_MB / statistics.median(encodes), "MB/s"),
        Row(f"{codec.name}: on {device} / one core", ratio, "", "", f"quartiles {low:.3g} to {high:.3g}"),
        Row(f"{codec.name}: other bytes", float(other_bytes), "", "<= 0"),
    ]


def show_side_by_side(found: dict[str, list[Row]]) -> None:
    columns = ("encode", "encode / copy", "decode", "decode / copy", "error, normal", "error, heavy tails", "bits")
    table = Table("codec", *columns, title="MB/s and ratios, relative errors, bits per value")
    for name, rows in found.items():
        by_column = {row.name.removeprefix(f"{name}: "): row.value for row in rows}
        table.add_row(name, *(f"{by_column[column]:,.4g}" for column in columns))
    Console(width=150).print(table)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=15)
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="these codecs alone")
    arguments.add_argument("--device", help="encode there; without: on one core")
    chosen = arguments.parse_args()
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(NUMEL, dtype=np.float32)
    heavy = rng.standard_t(3, NUMEL).astype(np.float32)
    codecs = [codec for codec in (*ALL, *SPARSE) if not chosen.only or codec.name in chosen.only]
    if chosen.device:
        device = torch.device(chosen.device)
        there = [row for codec in codecs if codec.lossy for row in on_card(codec, device, normal, chosen.repeats)]
        return show(f"Codecs on {describe(device).name}", there, chosen.json)
    found = {codec.name: measured(codec, normal, heavy, chosen.repeats) for codec in codecs}
    show_side_by_side(found)
    return show("Codecs, one core", [row for rows in found.values() for row in rows], chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
