"""The log's arithmetic: theta_{round+1} = apply(theta_round, updates), the same bits on every machine.

An update is one blob per span, named by its SHA-256: a header, then the values as a codec wrote them. Everything that
is done to an anchor is numpy float32 with one ufunc per rounding, over whichever part of the flat space is at hand: a
member applies a round to its own slice, the assembler to the whole.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from legion.codec.api import AnyCodec, Floats
from legion.codec.registry import any_by_wire_id
from legion.errors import PartInvalid
from legion.layout import CHUNK, Bounds, Fragment
from legion.rounds import RoundRecord

MAGIC: Final = b"LGU1"
HEADER: Final = struct.Struct("<4sIQ")  # magic, wire id of the codec, elements
PIECE: Final = 64 * CHUNK  # elements at work at a time: 1 MiB

ReadBlob = Callable[[str], "bytes | memoryview"]  # by digest
Holds = Callable[[Bounds], Sequence[Fragment]]  # what of a span lies in the anchor at hand


@dataclass(frozen=True, slots=True)
class OuterStep:
    """theta - lr * (U + momentum * m), with m = momentum * m + U before it: Nesterov's, as in DiLoCo (2311.08105)."""

    lr: float = 1.0
    momentum: float = 0.0


@dataclass(frozen=True, slots=True)
class Anchor:
    """theta_round, or the part of it that somebody holds; `momentum` is of the same size where the run has one."""

    values: Floats
    momentum: Floats | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """A span's blob, checked."""

    codec: AnyCodec
    payload: memoryview
    numel: int

    def values(self, start: int, stop: int) -> Floats:
        """Elements [start, stop) of the span, both whole chunks. PartInvalid when they cannot be decoded or are NaN."""
        out = np.empty(stop - start, np.float32)
        self.codec.decode_range(self.payload, self.numel, start, out)
        if not np.isfinite(out).all():
            raise PartInvalid(f"an update holds NaN or infinity in elements {start} to {stop}")
        return out


def blob_of(codec: AnyCodec, values: Floats) -> bytes:
    """The update of a span: `values` is a whole number of chunks."""
    return HEADER.pack(MAGIC, codec.wire_id, values.size) + bytes(codec.encode(values))


def update_of(blob: bytes | memoryview, numel: int) -> Update:
    """PartInvalid unless this is an update of a span of `numel` elements."""
    view = memoryview(blob)
    if view.nbytes < HEADER.size:
        raise PartInvalid(f"an update of {view.nbytes} bytes has no header")
    magic, wire_id, found = HEADER.unpack_from(view)
    if magic != MAGIC or found != numel:
        raise PartInvalid(f"this is no update of a span of {numel} elements")
    codec, payload = any_by_wire_id(wire_id), view[HEADER.size :]
    if payload.nbytes > codec.most_bytes(numel):
        raise PartInvalid(f"an update of {numel} elements in {payload.nbytes} bytes of {codec.name}")
    return Update(codec, payload, numel)


def values_of(blob: bytes | memoryview, numel: int) -> Floats:
    """The whole update of a span."""
    return update_of(blob, numel).values(0, numel)


def apply(
    anchor: Anchor,
    record: RoundRecord,
    holds: Holds,
    read_blob: ReadBlob,
    outer: OuterStep,
    local: Floats | None = None,
) -> None:
    """Makes theta_{round+1} of theta_round, in place. PartInvalid leaves the anchor of no use: load it anew.

    `holds` says which fragments of a span the anchor has (`Layout.fragments` of its owner); blobs of spans that it has
    nothing of are not read. `local`: weights of the anchor's size that move by as much as the anchor does.
    """
    for (start, stop), span in zip(record.bounds, record.spans, strict=True):
        bounds = Bounds(start, stop)
        fragments = holds(bounds)
        if not fragments:
            continue
        update = update_of(read_blob(span.digest), len(bounds))
        for fragment in fragments:
            for at in range(0, len(fragment.flat), PIECE):
                size = min(PIECE, len(fragment.flat) - at)
                values = update.values(fragment.span_offset + at, fragment.span_offset + at + size)
                start = fragment.slice_offset + at
                _outer_step(anchor, start, values, outer)
                for moved in (anchor.values,) if local is None else (anchor.values, local):
                    np.subtract(moved[start : start + size], values, out=moved[start : start + size])


def _outer_step(anchor: Anchor, start: int, update: Floats, outer: OuterStep) -> None:
    """Makes of an update, in place, what is subtracted."""
    if anchor.momentum is not None:
        momentum = anchor.momentum[start : start + update.size]
        np.multiply(momentum, np.float32(outer.momentum), out=momentum)
        np.add(momentum, update, out=momentum)
        np.add(update, np.multiply(momentum, np.float32(outer.momentum)), out=update)
    if outer.lr != 1.0:
        np.multiply(update, np.float32(outer.lr), out=update)
