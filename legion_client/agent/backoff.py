"""The one retry policy towards the server: forever, with growing, fully jittered pauses, for errors that time can cure.

"Exponential Backoff and Jitter" (AWS Architecture Blog, 2015): full jitter finishes soonest, with the fewest calls.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import ParamSpec, TypeVar

from legion.errors import LegionError

logger = logging.getLogger(__name__)

FIRST_S = 0.5
LONGEST_S = 15.0
LONGEST_ASKED_S = 3600.0  # a server, or a proxy with a wrong clock, that asks for more is asked again after this

P = ParamSpec("P")
T = TypeVar("T")


def pauses(random_fraction: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds between attempts: each anything from 0 to a bound, which doubles from FIRST_S to LONGEST_S.

    Without the jitter all workers of a restarted server would come back in the same instant, again and again.
    """
    longest = FIRST_S
    while True:
        yield longest * random_fraction()
        longest = min(2 * longest, LONGEST_S)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """What `Retry-After` asks for (RFC 9110, 10.2.3), from 0 to LONGEST_ASKED_S; None where it says nothing of use.

    A moment is reckoned from the answer's own `Date`, and from `now`, in s since 1970, only without one: a clock that
    is wrong here must not make a pause of hours.
    """
    asked = (headers.get("Retry-After") or "").strip()
    if asked.isdecimal() and asked.isascii():
        return float(min(int(asked[:9]), LONGEST_ASKED_S))
    until = _moment(asked)
    if until is None:
        return None
    answered = _moment(headers.get("Date") or "")
    return min(max(0.0, until - (now if answered is None else answered)), LONGEST_ASKED_S)


def noted(error: LegionError, headers: Mapping[str, str]) -> LegionError:
    """The error with what the answer's headers ask for, which `persistently` heeds."""
    asked_s = retry_after_s(headers, time.time())
    if asked_s is not None:
        error.details["retry_after_s"] = asked_s
    return error


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
            # The jitter comes on top: all that were told the same moment must not come in it together.
            await asyncio.sleep(error.details.get("retry_after_s", 0.0) + pause_s)
        else:
            if attempts:
                logger.info("%s succeeded after failures=%d", what, attempts)
            return result
    raise AssertionError("pauses() never ends")


def _moment(text: str) -> float | None:
    """An HTTP date in s since 1970."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
