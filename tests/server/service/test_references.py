"""Roots of slices follow from the leaves of the whole."""

from pathlib import Path

import numpy as np
import pytest

from legion import digest
from legion.ids import Rank, UnitId
from legion.layout import CHUNK, Layout
from legion_server.service.references import KEPT, References

UNITS = (5000, 1, 4096, 70_000)


@pytest.mark.parametrize("shares", [(1,), (1, 1), (5, 1, 2), (1, 1, 1, 1, 1, 1, 1)])
def test_a_members_root_is_that_of_its_slice(tmp_path: Path, shares: tuple[int, ...]) -> None:
    layout = Layout(UNITS, shares)
    theta = np.random.default_rng(1).normal(size=layout.total).astype(np.float32)
    references = References(tmp_path / "new")
    references.write(3, digest.leaves(theta))
    for rank in layout.ranks:
        parts = []
        for unit, offset in enumerate(layout.offsets):
            bounds = layout.bounds(UnitId(unit), rank)
            parts.append(theta[offset + bounds.start : offset + bounds.stop])
        assert references.root(3, layout, rank) == digest.root(digest.leaves(np.concatenate(parts)))
    assert references.root(4, layout, Rank(0)) is None
    assert references.root(3, Layout((CHUNK,), (1,)), Rank(0)) is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    references = References(tmp_path)
    for anchor in range(KEPT + 3):
        references.write(anchor, [b"0" * 32])
    assert len(list(tmp_path.iterdir())) == KEPT
    assert references.root(2, Layout((1,), (1,)), Rank(0)) is None
    assert references.root(3, Layout((1,), (1,)), Rank(0)) is not None
