"""What the peers average: the same for every contender, and known to whoever checks the result.

Standard library and numpy only: the peers of other projects import it too.
"""

import numpy as np
from numpy.typing import NDArray

CHECKED = 1 << 16  # values, from the start, that are compared with the true mean


def learned(values: int, peer: int, round_number: int) -> NDArray[np.float32]:
    """Normal with deviation 1e-3, as weights move in some steps; fewer values are the first of more."""
    noise = np.random.Generator(np.random.SFC64([peer, round_number])).standard_normal(values, np.float32)
    return np.multiply(noise, np.float32(1e-3), out=noise)


def error_of_mean(found: NDArray[np.float32], peers: int, round_number: int) -> float:
    """The distance of `found` from the mean of what the peers learned, over the length of that mean."""
    count = min(CHECKED, found.size)
    true = np.mean([learned(count, peer, round_number) for peer in range(peers)], axis=0, dtype=np.float64)
    return float(np.linalg.norm(found[:count] - true) / np.linalg.norm(true))
