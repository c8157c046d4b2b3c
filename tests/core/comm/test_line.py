"""Who waits for whom on a worker's uplink, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

from legion.comm.line import SLOWEST_BYTES_PER_S, Line
from legion.sim.clock import run


def now() -> float:
    return asyncio.get_running_loop().time()


async def at(moment: float) -> None:
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_at(moment, done.set_result, None)
    await done


async def freed(line: Line, **carriers: Callable[[Line], Awaitable[None]]) -> float:
    """When an update may leave that was there at 0.1 s."""
    tasks = [asyncio.ensure_future(carry(line)) for carry in carriers.values()]
    await at(0.1)
    await line.free()
    moment = now()
    await asyncio.gather(*tasks)
    return moment


def part(*pieces: tuple[float, int], answered: float) -> Callable[[Line], Awaitable[None]]:
    """A part with these pieces: when each sets out, and its bytes."""

    async def carry(line: Line) -> None:
        with line.carrying_part() as leaves:
            for moment, size_bytes in pieces:
                await at(moment)
                leaves(size_bytes)
            await at(answered)

    return carry


def seconds_of(size_bytes: int) -> float:
    return size_bytes / SLOWEST_BYTES_PER_S


def test_an_idle_line_is_free() -> None:
    assert run(freed(Line())) == 0.1


def test_an_update_waits_until_every_part_has_left() -> None:
    first = part((0.0, 1 << 20), (1.0, 1 << 20), (3.0, 0), answered=9.0)
    second = part((0.0, 1 << 20), (4.0, 0), answered=4.5)
    assert run(freed(Line(), first=first, second=second)) == 4.0


def test_a_part_that_ends_without_all_its_pieces_holds_nobody_back() -> None:
    assert run(freed(Line(), refused=part((0.0, 1 << 20), answered=2.0))) == 2.0


def test_a_part_that_does_not_move_is_not_waited_for() -> None:
    """Its reducer hangs: an update for others is worth more than the order."""
    hanging = part((0.0, 250_000), answered=60.0)
    assert run(freed(Line(), hanging=hanging)) == seconds_of(250_000)


def test_a_part_that_moves_again_is_waited_for_again() -> None:
    async def main() -> list[float]:
        line, moments = Line(), []
        carrying = asyncio.ensure_future(part((0.0, 125_000), (5.0, 125_000), (5.5, 0), answered=6.0)(line))
        for moment in (0.5, 4.0, 5.1):
            await at(moment)
            await line.free()
            moments.append(now())
        await carrying
        return moments

    assert run(main()) == [1.0, 4.0, 5.5]
