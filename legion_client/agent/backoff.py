"""The one retry policy towards the server: forever, with growing, jittered pauses, for errors that time can cure."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import ParamSpec, TypeVar

from legion.errors import LegionError

logger = logging.getLogger(__name__)

FIRST_S = 0.5
LONGEST_S = 15.0

P = ParamSpec("P")
T = TypeVar("T")


def pauses(random_fraction: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds between attempts: doubling to LONGEST_S, each shortened by up to half.

    Without the jitter all workers of a restarted server would come back in the same instant, again and again.
    """
    longest = FIRST_S
    while True:
        yield longest * (0.5 + 0.5 * random_fraction())
        longest = min(2 * longest, LONGEST_S)


async def persistently(what: str, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `call(*args)`, repeated while it raises retryable errors. Others come out at once."""
    attempts = 0
    for pause_s in pauses():
        try:
            result = await call(*args, **kwargs)
        except LegionError as error:
            if not error.retryable:
                raise
            attempts += 1
            if attempts == 1:
                logger.warning("%s failed, will be repeated reason=%s", what, error)
            await asyncio.sleep(pause_s)
        else:
            if attempts:
                logger.info("%s succeeded after failures=%d", what, attempts)
            return result
    raise AssertionError("pauses() never ends")
