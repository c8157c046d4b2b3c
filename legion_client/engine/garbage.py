"""Cycles that Python's collector finds, in a process whose imports alone are hundreds of thousands of objects."""

import gc


def set_aside() -> None:
    """What is here now is not looked at again. Later collections take milliseconds, not 0.2 s of a processor."""
    gc.collect()
    gc.freeze()


def collect() -> None:
    """What is no longer used of what was made since."""
    gc.collect()
