"""A model that is no longer used goes, though what was there before it is not looked at any more."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from legion_client.engine import garbage


class Knot:
    """Refers to itself, as modules, hooks and parameters do to one another."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_made_since_goes() -> None:
    before = Knot()
    kept = weakref.ref(before)
    garbage.set_aside()
    assert gc.get_freeze_count() > 10_000
    since = Knot()
    gone = weakref.ref(since)
    del before, since
    garbage.collect()
    assert gone() is None
    assert kept() is not None, "set aside, and so not found"
