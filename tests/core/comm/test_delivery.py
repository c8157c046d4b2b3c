"""A part that comes in pieces, over connections that break: every element is added once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion.comm.api import Batches
from legion.comm.mailbox import Mailbox
from legion.comm.waiting import Changes
from legion.errors import PartInvalid

SIZE = 24


@settings(max_examples=200, deadline=None)
@given(cuts=st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=5), data=st.data())
def test_deliveries_that_break_add_up_to_one(cuts: list[list[int]], data: st.DataObject) -> None:
    """Each list is one delivery, cut into pieces of these sizes, that breaks after the last; old ones may go on."""
    mailbox = Mailbox(Changes(), ordered=False)
    out = np.full(SIZE, np.nan, dtype=np.float32)
    mailbox.open(0, 0, 2, out)
    values = np.arange(1, SIZE + 1, dtype=np.float32)
    batches = Batches((1,), 7)
    readers = []
    for sizes in [*cuts, [SIZE]]:
        delivery = mailbox.deliver("ann", 0, 0, batches)
        if delivery is None:
            break
        readers.append((delivery, 0))
        for size in sizes:
            index = data.draw(st.integers(0, len(readers) - 1))
            for turn in {index, len(readers) - 1}:
                reader, at = readers[turn]
                piece = values[at : min(at + size, SIZE)]
                room = reader.room(at, at + piece.size)
                room[:] = piece
                reader.take(at, room)
                readers[turn] = (reader, at + piece.size)
    assert mailbox.deliver("ann", 0, 0, batches) is None
    assert np.array_equal(out, values)


def test_nobody_else_may_send_what_is_on_its_way() -> None:
    mailbox = Mailbox(Changes(), ordered=False)
    mailbox.open(0, 0, 4, np.zeros(SIZE, dtype=np.float32))
    delivery = mailbox.deliver("ann", 0, 0, Batches((0, 1), 7))
    assert delivery is not None
    delivery.take(0, np.ones(5, dtype=np.float32))
    for indices in ((0, 1), (1,), (1, 2)):
        with pytest.raises(PartInvalid, match="bob"):
            mailbox.deliver("bob", 0, 0, Batches(indices, 7))
    assert mailbox.deliver("bob", 0, 0, Batches((2, 3), 7)) is not None
