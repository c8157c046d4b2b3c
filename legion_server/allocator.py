"""glibc's allocator, told before threads start to give back what was freed.

By default every thread that asks for memory while another does gets an arena of its own, and large blocks that were
freed once raise the size from which blocks are returned to the system. A server reads and writes parts of models in
its threads: after hours it would hold twice what it uses. Other C libraries have no such call, and nothing is done.
"""

import contextlib
import ctypes
import sys
from typing import Final

ARENAS: Final = 2
OWN_PAGES_BYTES: Final = 256 << 10  # from this size on a block has pages of its own, returned when it is freed
SPARE_BYTES: Final = 1 << 20  # free at the top of an arena before that is returned

# malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def give_back() -> bool:
    """Whether there is something to tell that to."""
    if sys.platform != "linux":
        return False
    with contextlib.suppress(AttributeError):  # musl
        mallopt = ctypes.CDLL(None).mallopt
        told = ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, OWN_PAGES_BYTES), (_M_TRIM_THRESHOLD, SPARE_BYTES))
        return [mallopt(parameter, value) for parameter, value in told] == [1, 1, 1]
    return False
