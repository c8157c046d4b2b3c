"""The allocator, told before the engine starts how to ask the system for memory and when to give it back.

torch takes large tensors in huge pages where the kernel grants them on demand: the activations of a step come and go,
and fetching them page by page took 2 to 4 % of its time, without adding to the peak.

glibc keeps what was freed for the next allocation of that size. For a small model that is right: its tensors are small,
and fetching their pages again for every operation halves its speed. For a large model it is not: freed units would
stay with the process, and giving pages back costs little beside what is computed with them. Other C libraries ignore
all this.
"""

from collections.abc import Mapping

from legion.config import ModelConfig
from legion.model import presets

LARGE_WIDTH = 512  # of the residual stream; units have about 12 times its square elements
_GIVE_BACK_BYTES = str(32 << 10)


def variables(model: ModelConfig) -> Mapping[str, str]:
    """For the engine's environment; torch's c10/core/impl/alloc_cpu.cpp and mallopt(3) explain them."""
    huge_pages = {"THP_MEM_ALLOC_ENABLE": "1"}
    if presets.width(model) < LARGE_WIDTH:
        return huge_pages
    return huge_pages | {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": _GIVE_BACK_BYTES,
        "MALLOC_TRIM_THRESHOLD_": _GIVE_BACK_BYTES,
    }
