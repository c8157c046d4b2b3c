"""Between an engine in rounds and a real server: news comes, reports and updates arrive, whatever happens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from legion.errors import ReportInvalid, StorageFailed
from legion.ids import ClusterId
from legion.rounds import HandedSpan, Handover, RoundPlan
from legion_client.agent import backoff
from legion_client.agent.coordinator import Coordinator
from legion_client.engine.protocol import UPDATES, RoundNews, UpdateWanted
from tests.client.agent.relaying import ROUNDS, WITHIN_S, TwoClusters, Worker, two_clusters

RunningServer = Any  # see conftest


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, running_server: Any) -> Iterator[TwoClusters]:
    """For all tests here: each takes the round that it finds."""
    with two_clusters(tmp_path_factory.mktemp("rounds"), running_server, steps=2 * ROUNDS) as run:
        yield run


@pytest.fixture
async def pair(run: TwoClusters) -> AsyncIterator[tuple[Worker, Worker]]:
    """Both workers train; the relay of the first is at work from the newest anchor on."""
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for folder, enrolment in zip(run.folders, run.enrolments, strict=True):
            server = Coordinator(enrolment.base_url, enrolment.context, enrolment.worker_id, enrolment.token)
            workers.append(Worker(await stack.enter_async_context(server), folder))
        for worker in workers * 2:  # ready, then training
            reply = await worker.beat()
        first, second = workers
        first.relay.begin(reply.round)
        async with first.working():
            yield first, second


async def commit(plan: RoundPlan, *workers: Worker) -> None:
    """These workers' spans of the round, without their relays."""
    for worker in workers:
        reduced = worker.reduced(plan)
        await worker.server.report_span(reduced.report)
        await worker.server.upload_update(reduced.report.digest, reduced.report.size_bytes, reduced.path)


async def opened(worker: Worker) -> RoundPlan:
    """The round that a relay begins with."""
    news = await worker.news()
    [plan] = news.plans
    assert news.records == ()
    return plan


async def test_news_reports_and_updates_of_a_round(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    plan = await opened(first)
    assert len(plan.spans) == 2
    assert set(plan.workers) == {first.server.worker_id, second.server.worker_id}
    assert first.relay.anchor == -1
    mine = first.reduced(plan)
    first.relay.reduced(mine)
    await first.delivered()
    await commit(plan, second)
    first.relay.nudge()
    news = await first.news()
    [record] = news.records
    assert (record.round, record.spans[mine.report.span].digest) == (plan.round, mine.report.digest)
    assert [plan.round for plan in news.plans] == [plan.round, plan.round + 1]
    assert (await first.news()).records == ()  # whether there was more
    path = await first.download(mine.report.digest)
    assert path is not None
    assert path.read_bytes() == mine.path.read_bytes()
    first.relay.reached(first.root(plan))
    await first.delivered()
    assert first.relay.anchor == ROUNDS


async def test_what_is_in_no_storage_is_said_to_be_nowhere(pair: tuple[Worker, Worker]) -> None:
    first, _ = pair
    await opened(first)
    assert await first.download("7" * 64) is None
    assert await first.download("8" * 64) is None


async def test_a_long_log_comes_page_by_page(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    plan = await opened(first)
    begun, rounds = plan.round, 18  # a page has 16
    for number in range(begun, begun + rounds):
        await commit(plan, first, second)
        plan = await first.plan(number + 1)
    first.relay.nudge()
    records: list[int] = []
    plans: set[int] = set()
    pages = 0
    while len(records) < rounds:
        news = await first.news()
        records += [record.round for record in news.records]
        plans |= {plan.round for plan in news.plans}
        pages += 1
    assert pages == 2
    assert records == list(range(begun, begun + rounds))
    assert plans == set(range(begun, begun + rounds + 1))


# Reports that nobody wants, and those that must not be lost.


@pytest.mark.parametrize("what", ["another term", "another digest", "a round that is over", "a round to come"])
async def test_a_report_that_the_round_does_not_want_is_dropped(
    pair: tuple[Worker, Worker], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    plan = await opened(first)
    if what == "another digest":
        await first.server.report_span(first.reduced(plan).report)
        unwanted = first.reduced(plan, refused={"late": 1})
    elif what == "a round that is over":
        await commit(plan, first, second)
        unwanted = first.reduced(plan, refused={"late": 1})
    elif what == "another term":
        unwanted = first.reduced(plan, term=1)
    else:
        unwanted = first.reduced(plan, round=plan.round + 7)
    first.relay.reduced(unwanted)
    await first.delivered()
    assert "update not taken" in caplog.text
    reply = await first.beat()
    following = await first.plan(reply.round)
    if what != "another digest":
        first.relay.reduced(first.reduced(following))  # and the next report goes its way
        await first.delivered()
        await commit(following, second)
        assert (await first.plan(following.round + 1)).round == following.round + 1
    assert await first.download(unwanted.report.digest) is None


async def test_a_report_that_cannot_be_right_comes_out(pair: tuple[Worker, Worker]) -> None:
    """Ours, of a plan that we have: that is a defect, and not to be hidden."""
    first, _ = pair
    plan = await opened(first)
    again = Worker(first.server, first.folder)
    again.relay.reduced(first.reduced(plan, size_bytes=10**9))
    with pytest.raises(ReportInvalid):
        await again.until_it_fails()


async def test_a_root_of_a_cluster_that_is_gone_is_dropped(
    pair: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
) -> None:
    """As when a member was lost while our report was on its way: the agent is to come back, not to end."""
    first, _ = pair
    plan = await opened(first)
    first.relay.reached(first.root(plan).model_copy(update={"cluster": ClusterId("c99")}))
    await first.delivered()
    assert f"digest of an anchor not taken round={ROUNDS} why=this worker does not hold" in caplog.text


async def test_what_was_handed_over_is_told_before_we_leave(
    pair: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
) -> None:
    """And what the round has gone past is dropped: nothing of it ends the agent."""
    first, second = pair
    plan = await opened(first)
    first.relay.handed_over(Handover(round=plan.round, spans=()))
    await first.delivered()
    assert "handover not taken" not in caplog.text
    handed = HandedSpan(span=0, heir=second.server.worker_id)
    first.relay.handed_over(Handover(round=plan.round + 7, spans=(handed,)))
    async with asyncio.timeout(WITHIN_S):
        await first.relay.last_words()
    assert f"handover not taken round={plan.round + 7}" in caplog.text


async def test_an_update_whose_file_is_gone_does_not_stop_the_next(
    pair: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    plan = await opened(first)
    gone = first.reduced(plan)
    gone.path.unlink()
    first.relay.reduced(gone)
    await first.delivered()
    assert f"update gone before it was taken round={plan.round}" in caplog.text
    await commit(plan, first, second)  # as the span's next reducer would
    following = await first.plan(plan.round + 1)
    first.relay.reduced(first.reduced(following))
    await first.delivered()
    await commit(following, second)
    assert await first.plan(plan.round + 2)


async def test_an_outage_is_waited_out_and_nothing_is_lost(pair: tuple[Worker, Worker], run: TwoClusters) -> None:
    """A report that comes while another kind is on its way is the one that is easily forgotten."""
    first, second = pair
    plan = await opened(first)
    await asyncio.to_thread(run.server.kill)
    first.relay.reached(first.root(plan))
    assert await first.download("7" * 64) is None  # by now the root is on its way, in vain
    mine = first.reduced(plan)
    first.relay.reduced(mine)
    first.relay.nudge()
    await asyncio.to_thread(run.server.start)
    await first.delivered()
    await commit(plan, second)
    await first.plan(plan.round + 1)
    first.relay.nudge()
    while not (news := await first.news()).records:
        pass
    assert mine.report.digest in {span.digest for span in news.records[0].spans}


# News without an event.


async def test_a_heartbeat_makes_up_for_a_lost_event(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    plan = await opened(first)
    first.relay.seen(await first.beat())
    await commit(plan, first, second)
    reply = await first.beat()
    assert reply.round == plan.round + 1
    first.relay.seen(reply)
    assert [record.round for record in (await first.news()).records] == [plan.round]
    news = await first.news()  # whether there is more
    assert news.records == ()
    assert [plan.round for plan in news.plans] == [plan.round + 1]
    first.relay.seen(reply)
    assert await first.download("7" * 64) is None  # said next: the heartbeat brought no news
    assert first.said.empty()


async def test_an_update_that_storage_has_lost_is_brought_back(pair: tuple[Worker, Worker], run: TwoClusters) -> None:
    first, second = pair
    plan = await opened(first)
    await commit(plan, first, second)
    first.relay.nudge()
    assert [len((await first.news()).records) for _ in range(2)] == [1, 0]
    kept, damaged = second.reduced(plan), first.reduced(plan)
    folder = first.folder / UPDATES
    folder.mkdir(exist_ok=True)
    (folder / kept.report.digest).write_bytes(kept.path.read_bytes())
    (folder / damaged.report.digest).write_bytes(b"x" * damaged.report.size_bytes)
    digests = (damaged.report.digest, kept.report.digest, "7" * 64)
    for sha256 in digests[:2]:
        (run.server.data_dir / "blobs" / sha256).unlink()
        assert await first.download(sha256) is None  # now the server knows
    first.relay.seen((await first.beat()).model_copy(update={"wanted": digests}))
    async with asyncio.timeout(WITHIN_S):
        while (path := await first.download(kept.report.digest)) is None:
            continue
    assert path.read_bytes() == kept.path.read_bytes()
    assert await first.download(damaged.report.digest) is None, "what is here is damaged as well"
    await first.server.upload_update(damaged.report.digest, damaged.report.size_bytes, damaged.path)


async def test_clusters_that_are_gone_are_told_of_once(pair: tuple[Worker, Worker]) -> None:
    first, _ = pair
    await opened(first)
    reply = await first.beat()
    lost = reply.model_copy(update={"gone": (ClusterId("c2"),)})
    first.relay.seen(lost)
    assert await first.news() == RoundNews(gone=(ClusterId("c2"),))
    first.relay.seen(lost)
    first.relay.nudge()
    assert (await first.news()).plans  # nothing in between
    first.relay.seen(reply)
    assert await first.news() == RoundNews()


async def test_before_the_engine_trains_nothing_is_said(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    plan = await opened(first)
    second.relay.seen((await first.beat()).model_copy(update={"gone": (ClusterId("c9"),)}))
    async with second.working():
        assert await second.download("7" * 64) is None
        second.relay.begin(plan.round)
        assert await opened(second) == plan


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
async def test_a_full_disk_comes_out(pair: tuple[Worker, Worker]) -> None:
    """It is no reason to call an update missing, again and again."""
    first, second = pair
    reduced = first.reduced(await opened(first))
    first.relay.reduced(reduced)
    await first.delivered()
    target = second.folder / f"update-{reduced.report.digest}"
    target.symlink_to("/dev/full")
    second.relay.wanted(UpdateWanted(sha256=reduced.report.digest, size_bytes=1))
    with pytest.raises(StorageFailed, match="No space left on device"):
        await second.until_it_fails()
    assert not target.is_symlink()
    assert second.said.empty()
