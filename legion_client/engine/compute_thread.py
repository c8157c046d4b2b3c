"""Work on a thread of its own, awaited on the event loop."""

import asyncio
import contextlib
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def on_compute_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own, which does not keep the process alive.

    Not an executor: its threads are joined at exit, and a compute thread that waits for a lost device never ends.
    Whoever awaited it may be gone with its loop by the time the work ends: then nobody is told.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[..., None], outcome: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(how, done, outcome)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  carried to the loop, whoever awaits handles it
            tell(_fail, error)
        else:
            tell(_resolve, result)

    threading.Thread(target=run, name="compute", daemon=True).start()
    return await done


def forget_frames(error: BaseException | None) -> None:
    """Of an error and its causes: what their frames refer to may go."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__, error = None, error.__context__


def _resolve(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
