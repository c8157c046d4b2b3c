"""The loop's side of rounds: parts leave until their round is committed, updates come from whoever has them."""

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from legion.codec.registry import by_name
from legion.comm.api import Usage
from legion.comm.bridge import Bridge
from legion.config import RoundsConfig
from legion.errors import (
    LegionError,
    NotFinite,
    NotFound,
    PartInvalid,
    PartRefused,
    PeerLost,
    PeerRefused,
    RunError,
    StorageFailed,
    Unavailable,
)
from legion.ids import ClusterId, Rank, WorkerId
from legion.layout import Layout
from legion.messages import Member
from legion.outer.blobs import BlobFolder
from legion.outer.courier import RETRY_S, SERVED_ROUNDS, Courier
from legion.outer.member import Outgoing, Place
from legion.outer.reducing import EARLY_S
from legion.rounds import PartKey, RootReport, RoundPlan, RoundRecord, SpanReport
from tests.core.outer.small_rounds import RUN, SHARES, UNITS, fragments_of, part_key, plan_of, record_of, worker_of
from tests.core.outer.virtual_time import in_virtual_time, settled

A, B, C = sorted(SHARES)
FIRST, SECOND, THIRD = worker_of(C, 0), worker_of(B, 0), worker_of(A, 0)  # reducers of every span, by term
ROUNDS = 9
LONG_S = 500.0
Test = Callable[["Post"], Awaitable[None]]


@dataclass
class MemoryLinks:
    """See `courier.Links`. What is asked of a worker is answered from its lists, in order; the last answer stays."""

    sent: list[tuple[float, WorkerId, PartKey, bytes]] = field(default_factory=list)
    fetched: list[tuple[WorkerId, str]] = field(default_factory=list)
    of_parts: dict[WorkerId, list[Exception | None]] = field(default_factory=dict)
    of_blobs: dict[WorkerId, list[Exception | bytes]] = field(default_factory=dict)
    hanging: set[WorkerId] = field(default_factory=set)
    given_up: list[WorkerId] = field(default_factory=list)

    async def send_part(self, member: Member, key: PartKey, data: bytes) -> None:
        worker = member.worker_id
        self.sent.append((asyncio.get_running_loop().time(), worker, key, data))
        if worker in self.hanging:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.given_up.append(worker)
        answer = _next(self.of_parts.get(worker, [None]))
        if answer is not None:
            raise answer

    async def fetch_blob(self, member: Member, sha256: str, size_bytes: int) -> bytes:
        self.fetched.append((member.worker_id, sha256))
        answer = _next(self.of_blobs.get(member.worker_id, [NotFound("no update is here")]))
        if isinstance(answer, Exception):
            raise answer
        return answer


def _next(answers: list[Any]) -> Any:
    return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class MemoryControl:
    """See `courier.Control`."""

    reports: list[SpanReport] = field(default_factory=list)
    roots: list[RootReport] = field(default_factory=list)
    storage: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)

    async def reduced(self, report: SpanReport, blobs: BlobFolder) -> None:
        assert blobs.has(report.digest)
        self.reports.append(report)

    def applied(self, report: RootReport) -> None:
        self.roots.append(report)

    async def download(self, sha256: str, size_bytes: int) -> bytes:
        self.asked.append((asyncio.get_running_loop().time(), sha256))
        if sha256 not in self.storage:
            raise Unavailable(f"update {sha256[:12]} is not in storage")
        return self.storage[sha256]


@dataclass
class Post:
    """A courier of rank 0 of a cluster, and everything around it."""

    courier: Courier
    links: MemoryLinks
    control: MemoryControl
    folder: Path
    cluster: ClusterId

    def send(self, plan: RoundPlan, span: int = 0) -> PartKey:
        """A part of our slice; as the compute thread would."""
        size = sum(len(f.flat) for f in fragments_of(plan, span, self.cluster, 0))
        data = bytes(by_name("int8").encode(np.linspace(-1, 1, size, dtype=np.float32)))
        key = part_key(plan, span, self.cluster, 0, by_name("int8"), data)
        self.courier.send([Outgoing(key, data)])
        return key

    @property
    def sent_to(self) -> list[WorkerId]:
        return [worker for _, worker, _, _ in self.links.sent]

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    async def moved(self, anchor: int) -> None:
        """The compute thread has applied everything up to this anchor."""
        self.courier.applied(RootReport(round=anchor, cluster=self.cluster, rank=0, root="0" * 64))
        await settled()


@contextlib.asynccontextmanager
async def post_office(
    folder: Path, cluster: ClusterId = A, anchor: int = 0, layout: Layout | None = None, **config: Any
) -> AsyncIterator[Post]:
    links, control = MemoryLinks(), MemoryControl()
    layout = layout or Layout(UNITS, SHARES[cluster])
    place = Place(RUN, cluster, Rank(0), layout, ROUNDS)
    settings = RoundsConfig.model_validate({"update_codec": "none"} | config)
    bridge = Bridge(asyncio.get_running_loop(), Usage())
    courier = Courier(worker_of(cluster, 0), settings, place, anchor, links, control, BlobFolder(folder), bridge)
    async with courier.working():
        yield Post(courier, links, control, folder, cluster)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks are left"


def with_post(tmp_path: Path, test: Test, **options: Any) -> None:
    async def run() -> None:
        async with post_office(tmp_path / "updates", **options) as post:
            await test(post)

    in_virtual_time(run())


async def later(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)
    await settled()


def blob(number: int, span: int) -> bytes:
    return f"update of span {span} of round {number}".encode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record(number: int, *, reducer_term: int = 0, same: bool = False) -> RoundRecord:
    """Of a round whose updates are `blob`; `same`: in every round the same ones."""
    plan = plan_of(number)
    reports = [
        SpanReport(round=number, span=span, term=reducer_term, digest=sha(data), size_bytes=len(data), included=())
        for span in range(len(plan.spans))
        for data in [blob(0 if same else number, span)]
    ]
    return record_of(plan, reports)


def store(post: Post, *records: RoundRecord) -> None:
    """Their updates are in storage."""
    for number, span in itertools.product(range(ROUNDS), range(2)):
        data = blob(number, span)
        if any(span.digest == sha(data) for record in records for span in record.spans):
            post.control.storage[sha(data)] = data


def raised(plan: RoundPlan, *terms: int) -> RoundPlan:
    return plan.model_copy(update={"terms": terms, "revision": plan.revision + 1})


# Parts on their way.


def test_a_part_is_handed_over_once_and_kept_until_its_round_is_committed(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(plan := plan_of(0))
        key = post.send(plan)
        await later(LONG_S)
        [(_, worker, sent, data)] = post.links.sent
        assert (worker, sent) == (FIRST, key)
        assert sha(data) == key.sha256
        post.courier.plan_arrived(raised(plan, 1, 0))
        await settled()
        assert post.sent_to == [FIRST, SECOND]
        store(post, record(0))
        post.courier.record_arrived(record(0))
        post.courier.plan_arrived(raised(raised(plan, 1, 0), 2, 0))
        await later(LONG_S)
        assert post.sent_to == [FIRST, SECOND]
        assert post.control.reports == []  # the span is ours now, but the round is over

    with_post(tmp_path, test)


def test_a_reducer_that_cannot_be_reached_is_tried_again_and_again(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.links.of_parts[FIRST] = [PeerLost("gone"), PeerRefused("not a worker of this round"), Unavailable("later")]
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await later(20)
        times = [at for at, *_ in post.links.sent]
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert pauses == pytest.approx([*RETRY_S, *([RETRY_S[-1]] * (len(pauses) - len(RETRY_S)))])
        post.links.of_parts[FIRST] = [None]
        await later(LONG_S)
        assert len(post.links.sent) == len(times) + 1

    with_post(tmp_path, test)


@pytest.mark.parametrize(
    "refusal", [PartRefused("closed", reason="late"), PartInvalid("9 bytes"), NotFinite("it holds NaN")]
)
def test_a_refused_part_is_not_repeated_in_the_same_term(
    tmp_path: Path, refusal: LegionError, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(post: Post) -> None:
        post.links.of_parts[FIRST] = [refusal]
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await later(LONG_S)
        assert post.sent_to == [FIRST]
        assert f"part refused round=0 span=0 why={refusal}" in caplog.text
        post.courier.plan_arrived(raised(plan, 0, 1))  # of another span
        await later(LONG_S)
        assert post.sent_to == [FIRST]
        post.courier.plan_arrived(raised(raised(plan, 0, 1), 1, 1))
        await later(LONG_S)
        assert post.sent_to == [FIRST, SECOND]

    with_post(tmp_path, test)


@pytest.mark.parametrize("how", ["hangs", "cannot be reached"])
def test_the_backup_is_sent_to_at_once_whatever_the_reducer_does(tmp_path: Path, how: str) -> None:
    async def test(post: Post) -> None:
        if how == "hangs":
            post.links.hanging.add(FIRST)
        post.links.of_parts[FIRST] = [PeerLost("gone")]
        post.courier.plan_arrived(plan := plan_of(0))
        keys = [post.send(plan, span) for span in range(2)]
        await later(30)
        before = asyncio.get_running_loop().time()
        assert set(post.sent_to) == {FIRST}
        post.courier.plan_arrived(raised(plan, 1, 1))
        await settled()
        to_backup = [(at, key) for at, worker, key, _ in post.links.sent if worker == SECOND]
        assert to_backup == [(before, key) for key in keys]
        assert post.links.given_up == ([FIRST, FIRST] if how == "hangs" else [])

    with_post(tmp_path, test)


def test_a_call_that_hangs_ends_with_its_round(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.links.hanging.add(FIRST)
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await later(1)
        store(post, *map(record, range(ROUNDS)))
        for number in range(SERVED_ROUNDS + 3):  # so far on that nothing of round 0 is kept
            post.courier.record_arrived(record(number))
            post.courier.plan_arrived(plan_of(number + 1))
            if number == 0:
                await settled()
                assert post.links.given_up == [FIRST]
        await settled()
        await post.moved(SERVED_ROUNDS + 3)
        await later(LONG_S)
        assert post.sent_to == [FIRST]

    with_post(tmp_path, test)


def test_a_part_of_a_round_long_over_is_not_sent(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, *map(record, range(ROUNDS)))
        post.courier.plan_arrived(plan_of(0))
        for number in range(SERVED_ROUNDS + 2):
            post.courier.record_arrived(record(number))
            post.courier.plan_arrived(plan_of(number + 1))
        await settled()
        await post.moved(SERVED_ROUNDS + 2)
        for number in (0, 1, SERVED_ROUNDS + 1):
            post.send(plan_of(number))
        await later(LONG_S)
        assert post.sent_to == []

    with_post(tmp_path, test)


def test_a_reducer_that_the_plan_does_not_place_is_waited_out(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        plan = plan_of(0)
        nowhere = plan.model_copy(update={"participants": plan.participants[:2]})  # without the reducer's cluster
        post.courier.plan_arrived(nowhere)
        post.send(nowhere)
        await later(LONG_S)
        assert post.sent_to == []
        post.courier.plan_arrived(raised(nowhere, 1, 1))
        await settled()
        assert post.sent_to == [SECOND]

    with_post(tmp_path, test)


def test_a_span_of_our_own_takes_no_way(tmp_path: Path) -> None:
    """All that is expected is here: it is combined, kept and reported."""

    async def test(post: Post) -> None:
        plan = raised(plan_of(0), 2, 0)
        alone = plan.model_copy(update={"participants": plan.participants[:1]})
        post.courier.plan_arrived(alone)
        key = post.send(alone)
        await settled()
        [report] = post.control.reports
        assert (report.round, report.span, report.term) == (0, 0, 2)
        assert [(i.cluster, i.parts) for i in report.included] == [(A, (key.sha256,))]
        assert post.names == {report.digest}
        update = post.courier.update(report.digest)
        assert update is not None
        assert update.nbytes == report.size_bytes
        assert post.courier.update("0" * 64) is None
        assert post.sent_to == []

    with_post(tmp_path, test)


# What the coordinator says.


def test_repeated_and_late_plans_change_nothing(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        courier = post.courier
        courier.plan_arrived(newer := raised(raised(plan_of(1), 0, 0), 1, 0))
        for other in (
            newer.model_copy(update={"steps": 99}),
            plan_of(1).model_copy(update={"steps": 99}),
            newer.model_copy(update={"revision": 1, "steps": 99}),
        ):
            courier.plan_arrived(other)
            assert courier.plan(1) == newer
        await later(50)
        courier.plan_arrived(plan_of(0))  # heard late; the newest stays the newest
        assert courier.plan(0) == plan_of(0)
        await later(9.5)
        assert not courier.late
        await later(1)
        assert courier.late

    with_post(tmp_path, test)


def test_late_is_counted_from_when_the_newest_round_is_heard_of(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        loop, courier = asyncio.get_running_loop(), post.courier
        courier.plan_arrived(plan := plan_of(0))
        assert plan.contribute_s == 60
        await later(59.5)
        assert not courier.late
        courier.plan_arrived(raised(plan, 1, 0))  # of the same round: no more time
        await later(1)
        assert courier.late
        courier.plan_arrived(plan_of(1))
        assert not courier.late
        await later(60)
        assert courier.late
        assert loop.time() == pytest.approx(120.5)

    with_post(tmp_path, test)


NEWS = ["plan 0", "plan 1", "record 0", "record 1", "record 1"]


@pytest.mark.parametrize("order", sorted(set(itertools.permutations(NEWS))))
def test_ready_needs_the_plan_and_every_update_before_it(tmp_path: Path, order: tuple[str, ...]) -> None:
    async def test(post: Post) -> None:
        store(post, record(0), record(1))
        assert post.courier.ready == -1
        heard: set[str] = set()
        for news in order:
            what, number = news.split()
            if what == "plan":
                post.courier.plan_arrived(plan_of(int(number)))
            else:
                post.courier.record_arrived(record(int(number)))
            heard.add(news)
            await settled()
            expected = -1
            if "plan 0" in heard:
                expected = 1 if heard >= {"plan 1", "record 0"} else 0
            assert post.courier.ready == expected
        assert len(post.control.asked) == 4  # nothing twice

    with_post(tmp_path, test)


def test_the_last_anchor_needs_no_plan(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        last = record(ROUNDS - 1)
        store(post, last)
        post.courier.plan_arrived(plan_of(ROUNDS - 1))
        assert post.courier.ready == ROUNDS - 1
        post.courier.record_arrived(last)
        await settled()
        assert post.courier.ready == ROUNDS

    with_post(tmp_path, test, anchor=ROUNDS - 1)


def test_who_comes_back_catches_up_with_all_rounds_at_once(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, *map(record, range(6)))
        for number in reversed(range(6)):
            post.courier.record_arrived(record(number))
        for number in reversed(range(2, 7)):
            post.courier.plan_arrived(plan_of(number))
        await settled()
        assert post.courier.ready == 6
        assert post.courier.record(3) == record(3)
        assert post.courier.blob(sha(blob(3, 1))) == blob(3, 1)
        with pytest.raises(KeyError):
            post.courier.record(1)  # before the anchor that we began with

    with_post(tmp_path, test, anchor=2)


def test_whom_we_know(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        assert not post.courier.knows(FIRST)
        plans = [plan_of(number) for number in range(3)]
        alone = [p.model_copy(update={"participants": (p.participants[i],)}) for i, p in enumerate(plans)]
        for plan in alone:
            post.courier.plan_arrived(plan)
        assert [post.courier.knows(worker_of(cluster, 0)) for cluster in (A, B, C)] == [False, True, True]
        assert not post.courier.knows(WorkerId("stranger"))

    with_post(tmp_path, test)


# Updates.


async def arrived(post: Post, number: int = 0) -> None:
    post.courier.plan_arrived(plan_of(number))
    post.courier.plan_arrived(plan_of(number + 1))
    post.courier.record_arrived(record(number))
    await settled()


def test_an_update_comes_from_its_reducer(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.links.of_blobs[FIRST] = [blob(0, 0), blob(0, 1)]
        await arrived(post)
        assert post.links.fetched == [(FIRST, sha(blob(0, 0))), (FIRST, sha(blob(0, 1)))]
        assert post.courier.ready == 1
        assert post.names == {sha(blob(0, 0)), sha(blob(0, 1))}
        assert post.control.asked == []

    with_post(tmp_path, test)


@pytest.mark.parametrize(
    "trouble", [PeerLost("gone"), NotFound("not here"), PartInvalid("it sends more"), StorageFailed("its disk")]
)
def test_what_the_reducer_does_not_give_comes_from_storage(tmp_path: Path, trouble: LegionError) -> None:
    async def test(post: Post) -> None:
        post.links.of_blobs[FIRST] = [trouble]
        store(post, record(0))
        await arrived(post)
        assert post.courier.ready == 1

    with_post(tmp_path, test)


def test_a_damaged_update_is_fetched_from_another_holder_and_its_holder_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(post: Post) -> None:
        damaged = blob(0, 0)[:-1] + b"?"
        post.links.of_blobs[FIRST] = [damaged, damaged, blob(0, 0), blob(0, 1)]
        post.control.storage = {sha(blob(0, 0)): damaged, sha(blob(0, 1)): blob(0, 1)}
        await arrived(post)
        assert post.courier.ready == 0
        assert post.names == {sha(blob(0, 1))}
        await later(1)
        assert post.courier.ready == 1
        holders = [r.args[0] for r in caplog.records if r.msg.startswith("update damaged")]  # type: ignore[index]
        assert sorted(map(str, holders)) == sorted([FIRST, FIRST, "storage"])

    with_post(tmp_path, test)


def test_an_update_that_is_nowhere_for_a_while(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        await arrived(post)
        await later(60)
        assert post.courier.ready == 0
        times = sorted({at for at, sha256 in post.control.asked if sha256 == sha(blob(0, 0))})
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert pauses == pytest.approx([*RETRY_S, *([RETRY_S[-1]] * (len(pauses) - len(RETRY_S)))])
        store(post, record(0))
        await later(RETRY_S[-1])
        assert post.courier.ready == 1

    with_post(tmp_path, test)


@pytest.mark.parametrize("who", ["of nobody we know", "that was ours"])
def test_an_update_that_only_storage_can_have(tmp_path: Path, who: str) -> None:
    """Its reducer is in no plan that we have; or it is us, and our folder was lost."""

    async def test(post: Post) -> None:
        store(post, record(0))
        post.courier.plan_arrived(plan_of(1))
        if who == "that was ours":
            post.courier.plan_arrived(plan_of(0))
        post.courier.record_arrived(record(0, reducer_term=2 if who == "that was ours" else 0))
        await settled()
        assert post.links.fetched == []
        assert {name for _, name in post.control.asked} == post.names == {sha(blob(0, 0)), sha(blob(0, 1))}

    with_post(tmp_path, test)


@pytest.mark.parametrize("cluster", [B, C])
def test_only_what_our_slice_needs_is_fetched(tmp_path: Path, cluster: ClusterId) -> None:
    async def test(post: Post) -> None:
        plan = plan_of(0, span_count=6)
        datas = [blob(0, span) for span in range(6)]
        reports = [
            SpanReport(round=0, span=span, term=0, digest=sha(data), size_bytes=len(data), included=())
            for span, data in enumerate(datas)
        ]
        post.control.storage = {sha(data): data for data in datas}
        post.courier.plan_arrived(plan)
        post.courier.plan_arrived(plan_of(1))
        post.courier.record_arrived(record_of(plan, reports))
        await settled()
        needed = {sha(data) for span, data in enumerate(datas) if fragments_of(plan, span, cluster, 0)}
        assert 0 < len(needed) < 6
        assert post.names == needed
        assert post.courier.ready == 1

    with_post(tmp_path, test, cluster=cluster)


def test_a_member_whose_slice_is_empty_needs_no_update(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        await arrived(post)
        assert post.names == set()
        assert post.courier.ready == 1

    layout = Layout(UNITS, (1, 1000))
    assert layout.owned(Rank(0)) == 0
    with_post(tmp_path, test, layout=layout)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_ends_the_engine_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, record(0))
        for span in range(2):
            (post.folder / f".{sha(blob(0, span))}.partial").symlink_to("/dev/full")
        await arrived(post)
        await asyncio.get_running_loop().create_future()  # the compute thread, that waits for an anchor

    with pytest.raises(StorageFailed, match="No space left on device"):
        with_post(tmp_path, test)
    assert not any((tmp_path / "updates").iterdir())


# Waiting, stopping, leaving.


def test_the_compute_thread_waits_for_an_anchor(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, record(0))
        post.courier.plan_arrived(plan_of(0))
        await asyncio.to_thread(post.courier.wait_ready, 0)  # returns at once
        waiting = asyncio.create_task(asyncio.to_thread(post.courier.wait_ready, 1))
        await asyncio.sleep(0)
        post.courier.record_arrived(record(0))
        assert not waiting.done()
        post.courier.plan_arrived(plan_of(1))
        await waiting
        assert post.courier.ready == 1

    with_post(tmp_path, test)


def test_nobody_waits_any_more_when_the_engine_stops(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(post.courier.wait_ready, 5))
        await asyncio.sleep(0)
        assert not waiting.done()
        post.courier.wake()
        await waiting
        await asyncio.to_thread(post.courier.wait_ready, 6)
        assert post.courier.ready == -1

    with_post(tmp_path, test)


def test_leaving_ends_everything_that_is_under_way(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        """Parts that hang and parts that wait, updates that are nowhere, spans that nobody contributes to."""
        post.links.hanging.add(FIRST)
        post.links.of_parts[SECOND] = [PeerLost("gone")]
        post.courier.plan_arrived(plan := raised(raised(plan_of(0), 1, 0), 1, 2))
        post.send(plan, 0)
        post.send(plan, 1)
        post.courier.record_arrived(record(1))
        await later(3)
        assert len(asyncio.all_tasks()) > 3

    with_post(tmp_path, test)  # checks that no task is left


@pytest.mark.parametrize("error", [RunError("the run cannot go on"), ValueError("a mistake")])
def test_what_goes_wrong_inside_comes_out_as_it_is(tmp_path: Path, error: Exception) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        raise error

    with pytest.raises(type(error)) as caught:
        with_post(tmp_path, test)
    assert caught.value is error


def test_a_membership_that_is_cancelled_ends(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        post.courier.plan_arrived(plan := plan_of(0))
        post.send(plan)
        await settled()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.get_running_loop().create_future()

    with pytest.raises(asyncio.CancelledError):
        with_post(tmp_path, test)


# What is kept.


def test_what_nobody_will_ask_for_is_forgotten(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        store(post, *map(record, range(ROUNDS)))
        newest = ROUNDS - 1
        for number in range(newest):
            await arrived(post, number)
            await post.moved(number + 1)
        kept = range(newest - SERVED_ROUNDS, newest)
        assert post.names == {sha(blob(number, span)) for number in kept for span in range(2)}
        for number in range(newest):
            assert (number in kept) == (post.courier.update(sha(blob(number, 0))) is not None)
            with contextlib.suppress(KeyError) if number in kept else pytest.raises(KeyError):
                post.courier.record(number)
            with contextlib.suppress(KeyError) if number in kept else pytest.raises(KeyError):
                post.courier.plan(number)
        post.courier.record_arrived(record(0))  # repeated; long applied
        await settled()
        with pytest.raises(KeyError):
            post.courier.record(0)
        assert [report.round for report in post.control.roots] == list(range(1, newest + 1))

    with_post(tmp_path, test)


def test_an_update_that_comes_again_is_kept_as_long_as_its_last_round(tmp_path: Path) -> None:
    """As that of a span which nobody changes."""

    async def test(post: Post) -> None:
        rounds = SERVED_ROUNDS + 2
        store(post, record(0))
        for number in range(rounds):
            post.courier.plan_arrived(plan_of(number))
            post.courier.record_arrived(record(number, same=True))
        post.courier.plan_arrived(plan_of(rounds))
        await settled()
        await post.moved(rounds)
        assert post.names == {sha(blob(0, 0)), sha(blob(0, 1))}
        assert post.courier.blob(sha(blob(0, 0))) == blob(0, 0)

    with_post(tmp_path, test)


def test_an_update_of_ours_that_was_not_committed_is_forgotten_too(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        plan = raised(plan_of(0), 2, 0)
        alone = plan.model_copy(update={"participants": plan.participants[:1]})
        post.courier.plan_arrived(alone)
        post.send(alone)
        await settled()
        [report] = post.control.reports
        assert report.digest in post.names
        store(post, *map(record, range(ROUNDS)))
        for number in range(SERVED_ROUNDS + 1):  # committed in another term, with another digest
            await arrived(post, number)
            await post.moved(number + 1)
            assert (report.digest in post.names) == (number < SERVED_ROUNDS)

    with_post(tmp_path, test)


# Parts of others.


def part_of(plan: RoundPlan, cluster: ClusterId, span: int = 0) -> tuple[WorkerId, PartKey, bytes]:
    size = sum(len(f.flat) for f in fragments_of(plan, span, cluster, 0))
    data = bytes(by_name("none").encode(np.ones(size, np.float32)))
    return worker_of(cluster, 0), part_key(plan, span, cluster, 0, by_name("none"), data), data


def test_a_part_that_comes_before_its_plan_waits_for_it(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        sender, key, data = part_of(plan := raised(plan_of(0), 2, 2), B)
        early = asyncio.create_task(post.courier.take_part(sender, key, data))
        admission = asyncio.create_task(post.courier.admit(sender, key))
        await later(EARLY_S - 1)
        assert not early.done()
        post.courier.plan_arrived(plan_of(0))  # where the span is not ours yet
        await later(0.5)
        assert not early.done()
        post.courier.plan_arrived(plan)
        await asyncio.gather(early, admission)

    with_post(tmp_path, test)


def test_a_part_whose_plan_does_not_come_is_to_come_again(tmp_path: Path) -> None:
    async def test(post: Post) -> None:
        sender, key, data = part_of(plan := raised(plan_of(0), 2, 2), B)
        for call in (post.courier.take_part(sender, key, data), post.courier.admit(sender, key)):
            before = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match="span 0 of round 0 is not reduced here, or not yet"):
                await call
            assert asyncio.get_running_loop().time() - before == pytest.approx(EARLY_S)
        post.courier.plan_arrived(plan)
        await post.courier.take_part(sender, key, data)

    with_post(tmp_path, test)
