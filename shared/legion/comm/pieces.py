"""One vector in several arrays that follow each other: gradients travel as autograd left them, not copied together."""

from collections.abc import Sequence

import numpy as np

from legion.codec.api import Floats


def cut(pieces: Sequence[Floats], start: int, stop: int) -> list[Floats]:
    """Elements [start, stop), as views."""
    found, before = [], 0
    for piece in pieces:
        part = piece[max(0, start - before) : max(0, stop - before)]
        if part.size:
            found.append(part)
        before += piece.size
    return found


def joined(pieces: Sequence[Floats]) -> Floats:
    """One array; a copy if there are several."""
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def size_of(pieces: Sequence[Floats]) -> int:
    return sum(piece.size for piece in pieces)
