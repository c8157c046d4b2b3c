"""Who of a broken plan is gone: told once more, and only of those whose computers refuse."""

import asyncio
import socket

from legion.ids import Epoch, RunId, WorkerId
from legion.messages import Broken, Endpoint, Member, Message, ModelShape, Plan
from legion_client.engine.absent import absent, telling_broken
from legion_client.engine.protocol import PlanBroken

ME, THERE, GONE = (WorkerId(name * 32) for name in "abc")


def refusing_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def member(worker_id: WorkerId, port: int) -> Member:
    return Member(worker_id=worker_id, endpoint=Endpoint(host="127.0.0.1", port=port), share=1)


def plan_of(*members: Member) -> Plan:
    return Plan(
        run_id=RunId("r" * 32),
        epoch=Epoch(3),
        first_step=0,
        members=members,
        shape=ModelShape(units=()),
        config_digest="0" * 64,
    )


async def test_only_who_refuses_is_gone() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await absent([member(THERE, port), member(GONE, refusing_port())]) == (GONE,)


async def told(lost: WorkerId | None, plan: Plan) -> list[Message]:
    reports: list[Message] = []
    more = asyncio.Event()

    def report(message: Message) -> None:
        reports.append(message)
        if len(reports) > 1:
            more.set()

    broken = PlanBroken(broken=Broken(epoch=Epoch(3)), message="gone", lost_peer=lost)
    async with telling_broken(report, broken, ME, plan):
        assert reports == [broken], "at once"
        await asyncio.wait_for(more.wait(), 10)
    return reports


async def test_more_who_are_gone_are_told_once_they_are_known() -> None:
    plan = plan_of(member(ME, 1), member(THERE, refusing_port()), member(GONE, refusing_port()))
    _, again = await told(GONE, plan)
    assert isinstance(again, PlanBroken)
    assert (again.lost_peer, again.broken.gone) == (GONE, (THERE, GONE))


async def test_the_look_ends_with_the_wait() -> None:
    broken = PlanBroken(broken=Broken(epoch=Epoch(3)), message="gone", lost_peer=GONE)
    reports: list[Message] = []
    before = asyncio.all_tasks()
    async with telling_broken(reports.append, broken, ME, plan_of(member(ME, 1), member(GONE, refusing_port()))):
        pass
    assert (reports, asyncio.all_tasks()) == ([broken], before)
