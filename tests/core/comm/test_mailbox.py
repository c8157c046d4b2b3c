"""The mailbox against a plain model: parts in any order, from anyone, again, too early, too late, and wrong."""

import asyncio
import dataclasses
import enum
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from legion.comm.api import Batches
from legion.comm.mailbox import Mailbox, Shelf
from legion.comm.waiting import Changes
from legion.errors import NotFinite, PartInvalid, PeerLost

SENDERS = ("ann", "bob", "cyd")
UNITS = (0, 1)
COUNT = 5  # micro-batches of a step
SIZE = 8


class State(enum.Enum):
    WAITING = "waiting for its turn"
    READING = "admitted, its frames under way"
    ADDED = "added"
    IGNORED = "a repeated delivery"
    INVALID = "refused"
    NOT_FINITE = "refused for its values"


@dataclasses.dataclass(eq=False)
class Delivery:
    """One part on its way, in the model and, as a task, in the real mailbox."""

    sender: str
    step: int
    unit: int
    indices: tuple[int, ...]
    finite: bool
    state: State = State.WAITING
    task: "asyncio.Task[State] | None" = None
    arrived: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    admitted: bool = False

    @property
    def values(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Small whole numbers: their sum is the same in every order."""
        seed = SENDERS.index(self.sender) + sum(1 << (3 * i) for i in self.indices)
        array = (np.arange(SIZE, dtype=np.float32) + 1) * np.float32(seed % 1009)
        if not self.finite:
            array[SIZE // 2] = np.nan
        return array

    async def deliver(self, mailbox: Mailbox) -> State:
        """As the server does: admission, then the frames, then the sum."""
        batches = Batches(self.indices, 7 * len(self.indices))
        try:
            if not await mailbox.admit(self.sender, self.step, self.unit, batches):
                return State.IGNORED
            self.admitted = True
            await self.arrived.wait()
            added = mailbox.add(self.sender, self.step, self.unit, batches, self.values)
        except PartInvalid:
            return State.INVALID
        except NotFinite:
            return State.NOT_FINITE
        return State.ADDED if added else State.IGNORED


class MailboxMachine(RuleBasedStateMachine):
    """The model is the plain dictionaries below; `Mailbox` must agree with them after every rule."""

    ordered = False

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.changes = Changes()
        self.mailbox = Mailbox(self.changes, ordered=self.ordered)
        self.step = -1
        self.covered: dict[int, dict[int, str]] = {}  # unit -> micro-batch -> sender
        self.sums: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        self.outs: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        self.deliveries: list[Delivery] = []
        self.completes: list[tuple[int, int, asyncio.Task[None]]] = []

    @rule(unit=st.sampled_from(UNITS), later=st.integers(0, 1))
    def open(self, unit: int, later: int) -> None:
        """Room for a unit's parts, of this step or the next."""
        step = max(0, self.step + later)
        if step == self.step and unit in self.covered:
            return
        if step != self.step:
            self.step, self.covered, self.sums, self.outs = step, {}, {}, {}
        self.covered[unit], self.sums[unit] = {}, np.zeros(SIZE, dtype=np.float32)
        self.outs[unit] = np.full(SIZE, np.nan, dtype=np.float32)
        self.mailbox.open(step, unit, COUNT, self.outs[unit])
        self.completes.append((step, unit, self._start(self.mailbox.complete(step, unit))))

    @rule(
        sender=st.sampled_from(SENDERS),
        ahead=st.integers(-1, 1),
        unit=st.sampled_from(UNITS),
        indices=st.lists(st.integers(0, COUNT), max_size=3).map(tuple),
        finite=st.sampled_from((True, True, True, False)),
    )
    def send(self, sender: str, ahead: int, unit: int, indices: tuple[int, ...], finite: bool) -> None:
        """Anything, well-formed or not."""
        self._send(Delivery(sender, max(0, self.step + ahead), unit, indices, finite))

    @rule(index=st.integers(0, COUNT - 1), unit=st.sampled_from(UNITS))
    def send_as_agreed(self, index: int, unit: int) -> None:
        """What a good member sends: micro-batch i is of member i mod 3."""
        self._send(Delivery(SENDERS[index % 3], max(0, self.step), unit, (index,), True))

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.deliveries))
        self._send(Delivery(old.sender, old.step, old.unit, old.indices, old.finite))

    @precondition(lambda self: any(d.state is State.READING for d in self.deliveries))
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """All frames of one admitted part are here."""
        delivery = data.draw(st.sampled_from([d for d in self.deliveries if d.state is State.READING]))
        delivery.state = self._outcome(delivery)
        if delivery.state is State.ADDED:
            self.covered[delivery.unit].update(dict.fromkeys(delivery.indices, delivery.sender))
            self.sums[delivery.unit] += delivery.values
        delivery.arrived.set()

    @precondition(lambda self: any(d.state in (State.WAITING, State.READING) for d in self.deliveries))
    @rule(data=st.data())
    def connection_breaks(self, data: st.DataObject) -> None:
        """The server drops the call; nothing of the part remains."""
        live = [d for d in self.deliveries if d.state in (State.WAITING, State.READING)]
        delivery = data.draw(st.sampled_from(live))
        self.deliveries.remove(delivery)
        assert delivery.task is not None
        delivery.task.cancel()

    @invariant()
    def the_mailbox_agrees(self) -> None:
        self._settle()
        for delivery in self.deliveries:
            if delivery.state is State.WAITING:
                delivery.state = self._admission(delivery)
        for delivery in self.deliveries:
            assert delivery.task is not None
            if delivery.task.done():
                assert delivery.task.result() is delivery.state, delivery
            else:
                assert delivery.state is (State.READING if delivery.admitted else State.WAITING), delivery
        for unit, out in self.outs.items():
            if self.covered[unit]:
                assert np.array_equal(out, self.sums[unit])
        for step, unit, task in self.completes:
            over = step != self.step
            assert task.done() == (over or len(self.covered[unit]) == COUNT)
            if task.done() and task.exception() is not None:
                assert over
                assert isinstance(task.exception(), PartInvalid)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        tasks = [task for delivery in self.deliveries if (task := delivery.task)] + [t for _, _, t in self.completes]
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()

    def _admission(self, delivery: Delivery) -> State:
        """What must have become of a part that waits."""
        indices, covered = delivery.indices, self.covered.get(delivery.unit)
        if not indices or sorted(set(indices)) != list(indices) or delivery.step < self.step:
            return State.INVALID
        if delivery.step > self.step or covered is None:
            return State.WAITING
        owners = {covered.get(index) for index in indices}
        if indices[-1] >= COUNT or owners not in ({delivery.sender}, {None}):
            return State.INVALID
        if owners == {delivery.sender}:
            return State.IGNORED
        first_gap = next(i for i in range(COUNT + 1) if i not in covered)
        waits = self.ordered and indices[0] > 1 and first_gap < indices[0]  # the first two parts commute
        return State.WAITING if waits else State.READING

    def _outcome(self, delivery: Delivery) -> State:
        """What must become of an admitted part when it is here as a whole."""
        if delivery.step != self.step:
            return State.INVALID
        if not delivery.finite:
            return State.NOT_FINITE
        owners = {self.covered[delivery.unit].get(index) for index in delivery.indices}
        if owners == {delivery.sender}:
            return State.IGNORED
        return State.ADDED if owners == {None} else State.INVALID

    def _send(self, delivery: Delivery) -> None:
        delivery.task = self._start(delivery.deliver(self.mailbox))
        self.deliveries.append(delivery)

    def _start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        return self.loop.create_task(work)

    def _settle(self) -> None:
        """Until nothing moves by itself."""

        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())


class OrderedMailboxMachine(MailboxMachine):
    ordered = True


MailboxMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
OrderedMailboxMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestMailbox = MailboxMachine.TestCase
TestOrderedMailbox = OrderedMailboxMachine.TestCase


async def send(mailbox: Mailbox, sender: str, indices: tuple[int, ...], value: float) -> None:
    batches = Batches(indices, 1)
    if await mailbox.admit(sender, 0, 0, batches):
        mailbox.add(sender, 0, 0, batches, np.full(4, value, dtype=np.float32))


async def test_ordered_parts_are_added_in_the_order_of_micro_batches() -> None:
    """Values whose float32 sum depends on the order, sent backwards."""
    values = [np.float32(1e8), np.float32(3.3), np.float32(-1e8), np.float32(0.7)]
    mailbox, out = Mailbox(Changes(), ordered=True), np.full(4, np.nan, dtype=np.float32)
    mailbox.open(0, 0, 4, out)
    async with asyncio.TaskGroup() as tasks:
        for index in (3, 1, 2, 0):
            tasks.create_task(send(mailbox, SENDERS[index % 3], (index,), float(values[index])))
    await mailbox.complete(0, 0)
    in_order = ((values[0] + values[1]) + values[2]) + values[3]
    backwards = ((values[3] + values[1]) + values[2]) + values[0]
    assert in_order != backwards
    assert (out == in_order).all()


async def test_sums_of_several_micro_batches_keep_their_order_too() -> None:
    """reduce_every: step sends {0, 2} and {1, 3}: first by the first of them."""
    mailbox, out = Mailbox(Changes(), ordered=True), np.empty(4, dtype=np.float32)
    mailbox.open(0, 0, 4, out)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send(mailbox, "bob", (1, 3), 2.0))
        tasks.create_task(send(mailbox, "ann", (0, 2), 1.0))
    await mailbox.complete(0, 0)
    assert (out == 3.0).all()


@pytest.mark.parametrize("first", [0, 1])
async def test_the_first_two_parts_commute_to_the_last_bit(first: int) -> None:
    mailbox, out = Mailbox(Changes(), ordered=True), np.full(2, np.nan, dtype=np.float32)
    mailbox.open(0, 0, 3, out)
    parts = [np.array(pair, dtype=np.float32) for pair in ((0.1, 1e8), (0.2, -1e8), (0.3, 1.0))]
    last = asyncio.ensure_future(mailbox.admit("cat", 0, 0, Batches((2,), 1)))
    for index in (first, 1 - first):
        batches = Batches((index,), 1)
        assert await mailbox.admit("ann", 0, 0, batches)
        assert not last.done()
        assert mailbox.add("ann", 0, 0, batches, parts[index])
    assert await last
    mailbox.add("cat", 0, 0, Batches((2,), 1), parts[2])
    assert np.array_equal(out, parts[0] + parts[1] + parts[2])


async def test_a_part_again_while_its_first_delivery_is_read() -> None:
    """A broken connection can leave two deliveries of one part admitted: one counts, the other is no fault."""
    mailbox, out = Mailbox(Changes(), ordered=True), np.empty(4, dtype=np.float32)
    mailbox.open(0, 0, 2, out)
    batches, ones = Batches((0,), 1), np.ones(4, dtype=np.float32)
    assert await mailbox.admit("ann", 0, 0, batches)
    assert await mailbox.admit("ann", 0, 0, batches)
    assert mailbox.add("ann", 0, 0, batches, ones)
    assert not mailbox.add("ann", 0, 0, batches, ones)
    await send(mailbox, "bob", (1,), 1.0)
    await mailbox.complete(0, 0)
    assert (out == 2.0).all()


async def test_the_sum_ignores_what_the_memory_held() -> None:
    mailbox, out = Mailbox(Changes(), ordered=False), np.full(4, np.nan, dtype=np.float32)
    mailbox.open(0, 0, 1, out)
    await send(mailbox, "ann", (0,), 5.0)
    assert (out == 5.0).all()


async def test_refusals_name_the_sender_and_what_is_wrong() -> None:
    mailbox = Mailbox(Changes(), ordered=False)
    mailbox.open(0, 0, 2, np.empty(4, dtype=np.float32))
    with pytest.raises(PartInvalid, match="bob: micro-batch 2 of 2"):
        await mailbox.admit("bob", 0, 0, Batches((2,), 1))
    with pytest.raises(PartInvalid, match=r"bob: .* not a sorted set"):
        await mailbox.admit("bob", 0, 0, Batches((1, 0), 1))
    await send(mailbox, "ann", (0,), 1.0)
    with pytest.raises(PartInvalid, match=r"bob: micro-batches .* overlap"):
        await mailbox.admit("bob", 0, 0, Batches((0,), 1))
    with pytest.raises(NotFinite, match="unit 0 from bob"):
        await send(mailbox, "bob", (1,), float("inf"))


async def test_a_failure_ends_the_wait_for_a_turn() -> None:
    changes = Changes()
    mailbox = Mailbox(changes, ordered=True)
    mailbox.open(0, 0, 3, np.empty(4, dtype=np.float32))
    waiting = asyncio.ensure_future(mailbox.admit("bob", 0, 0, Batches((2,), 1)))
    early = asyncio.ensure_future(mailbox.admit("bob", 1, 0, Batches((0,), 1)))
    await asyncio.sleep(0)
    changes.fail(PeerLost("ann is gone"))
    for task in (waiting, early):
        with pytest.raises(PeerLost, match="ann"):
            await task


async def test_a_shelf_gives_the_version_asked_for() -> None:
    shelf = Shelf(Changes())
    first, second = np.zeros(4, dtype=np.float32), np.ones(4, dtype=np.float32)
    early = asyncio.ensure_future(shelf.get(0, 7))
    other_unit = asyncio.ensure_future(shelf.get(0, 8))
    next_step = asyncio.ensure_future(shelf.get(1, 7))
    await asyncio.sleep(0)
    shelf.put(0, 7, first)
    assert await early is first
    assert await shelf.get(0, 7) is first
    assert not next_step.done()
    shelf.put(1, 7, second)
    assert await next_step is second
    with pytest.raises(PartInvalid, match="step 0 were asked for, the unit is at step 1"):
        await shelf.get(0, 7)
    assert not other_unit.done()
    other_unit.cancel()
