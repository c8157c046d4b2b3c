"""The leaves of the reference's newest anchors, from which the root of any member's slice follows."""

from collections.abc import Sequence
from pathlib import Path

from legion.checkpoint.storage import new_file, storing
from legion.ids import Rank, UnitId
from legion.layout import CHUNK, Layout

LEAF_BYTES = 32  # of SHA-256, for each chunk
KEPT = 8  # anchors; a worker further behind is not checked


class References:
    """Files `leaves-ROUND` in `folder`. Calls read and write them: for threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, anchor: int, leaves: Sequence[bytes]) -> None:
        """StorageFailed. Older ones go."""
        with storing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with new_file(self._path(anchor)) as sink:
            sink.write(b"".join(leaves))
        with storing(self._folder):
            for old in sorted(self._folder.glob("leaves-*"))[:-KEPT]:
                old.unlink(missing_ok=True)

    def root(self, anchor: int, layout: Layout, rank: Rank) -> str | None:
        """The root over the slice of this rank; None where the anchor is not known, or not any more."""
        from legion import digest  # noqa: PLC0415  brings numpy: not for the start

        try:
            data = self._path(anchor).read_bytes()
        except FileNotFoundError:
            return None
        if len(data) != layout.total // CHUNK * LEAF_BYTES:
            return None
        found: list[bytes] = []
        for unit, offset in enumerate(layout.offsets):
            bounds = layout.bounds(UnitId(unit), rank)
            first, last = (offset + bounds.start) // CHUNK, (offset + bounds.stop) // CHUNK
            found += [data[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES] for leaf in range(first, last)]
        return digest.root(found) if found else None

    def _path(self, anchor: int) -> Path:
        return self._folder / f"leaves-{anchor:08d}"
