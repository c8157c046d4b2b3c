"""A thread that is kept for what is to be done next: to begin one wakes the processor four times.

Threads are daemons, since one whose work never returns must not hold up the end of the program.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]  # never raises


class Threads:
    """One waits at most; while it works, or hangs, what comes gets another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[Work | None] | None = None
        self._closed = False

    def run(self, work: Work, name: str) -> None:
        """Returns at once. `name`: of the thread, if it is a new one."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            threading.Thread(target=self._live, args=(work,), name=name, daemon=True).start()
        else:
            waiting.put(work)

    def close(self) -> None:
        """No thread waits any more; those that work end when they have done it."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.put(None)

    def _live(self, work: Work | None) -> None:
        mine: SimpleQueue[Work | None] = SimpleQueue()
        while work is not None:
            work()
            with self._lock:
                if self._closed or self._waiting is not None:
                    return
                self._waiting = mine
            work = mine.get()
