"""How fast the compute thread may go: as fast as it can, part of the time, or not at all.

Invariant: it rests between two micro-batches, never inside one. Stopping a process in the middle (SIGSTOP) would leave
its peers without answers and make fans rise and fall with every second.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import torch

from legion.errors import StepAborted

logger = logging.getLogger(__name__)

USUAL_WEIGHT = 0.1  # of the newest micro-batch in what one usually takes
LEAST_DUTY = 0.05  # of the time; below it, what a step needs beside its micro-batches would never end


class Pace:
    """`between` is called on the compute thread, everything else by anyone."""

    def __init__(
        self,
        on_held: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_held`: called on the compute thread when it begins to rest because of `pause` or `serve`."""
        self._on_held = on_held
        self._clock = clock
        self._changed = threading.Condition()
        self._paused = False
        self._serving = self._told = False
        self._after_contribution = False
        self._give_up_at: float | None = None
        self._duty = 1.0
        self._threads: int | None = None
        self._since = clock()  # the last rest ended, or there was nothing to do
        # Of micro-batches: how many were begun, whether one is under way, s that one usually takes.
        self.micro_batches: tuple[int, bool, float | None] = (0, False, None)

    @property
    def given_up(self) -> bool:
        """`between` raises from now on."""
        return self._give_up_at is not None and self._clock() >= self._give_up_at

    @property
    def serving(self) -> bool:
        """Nothing more is computed here, and what others of the cluster compute goes on."""
        return self._serving

    def serve(self) -> None:
        """From the next micro-batch on; whoever heeds it says `rests`."""
        with self._changed:
            self._serving, self._told = True, False
            self._changed.notify_all()

    def rests(self) -> None:
        """On the compute thread: it serves, and what it computed last is on its way."""
        with self._changed:
            if self._serving and not self._told:
                self._told = True
                self._on_held()

    @contextlib.contextmanager
    def micro_batch(self) -> Iterator[None]:
        """On the compute thread, around each: anyone may look whether it comes to an end."""
        begun, _, usual_s = self.micro_batches
        started = self._clock()
        self.micro_batches = (begun + 1, True, usual_s)
        try:
            yield
        finally:
            took_s = self._clock() - started
            usual_s = took_s if usual_s is None else usual_s + USUAL_WEIGHT * (took_s - usual_s)
            self.micro_batches = (begun + 1, False, usual_s)

    def pause(self, *, after_contribution: bool = False) -> None:
        """From the next micro-batch on nothing is computed; or first once a contribution is made."""
        with self._changed:
            if after_contribution:
                self._after_contribution = True
            else:
                self._paused = True
            self._changed.notify_all()

    def resume(self) -> None:
        with self._changed:
            self._paused = self._after_contribution = self._serving = False
            self._changed.notify_all()

    def limit(self, *, duty: float, threads: int | None) -> None:
        """Compute for a part `duty` of the time, with so many threads; None: as many as the process began with."""
        with self._changed:
            self._duty = min(1.0, max(LEAST_DUTY, duty))
            self._threads = threads
            self._changed.notify_all()

    def give_up(self, after_s: float) -> None:
        """The step under way may take so much longer; then, or at once if it rests, it is aborted."""
        with self._changed:
            wanted = self._clock() + (0.0 if self._paused or self._serving else after_s)
            self._give_up_at = wanted if self._give_up_at is None else min(wanted, self._give_up_at)
            self._changed.notify_all()

    def contributed(self) -> None:
        """Between two steps, once nothing of this round is left to contribute."""
        with self._changed:
            if self._after_contribution:
                self._paused = True

    def idled(self) -> None:
        """Waiting for others was no work: nothing of it has to be rested from."""
        self._since = self._clock()

    def between(self) -> None:
        """Returns when the next micro-batch may begin. StepAborted once `give_up` has come into force."""
        with self._changed:
            self._hold()
            duty = self._duty
            # The clock may be a virtual one that only moves with work: without a limit nothing is waited for.
            if duty < 1.0 and not self._serving:
                self._rest_until(self._clock() + (self._clock() - self._since) * (1 - duty) / duty)
            self._hold()
            self._raise_if_given_up()
            threads = self._threads
        if threads is not None and threads != torch.get_num_threads():
            # OpenMP keeps it for each thread: it has to be said on this one.
            torch.set_num_threads(threads)
        self._since = self._clock()

    def _hold(self) -> None:
        if self._paused and not self.given_up:
            self._on_held()
        while self._paused and not self.given_up:
            self._changed.wait()
        self._raise_if_given_up()

    def _rest_until(self, moment: float) -> None:
        while self._limited and (left := moment - self._clock()) > 0:
            self._changed.wait(left)

    @property
    def _limited(self) -> bool:
        return self._duty < 1.0 and not (self._paused or self._serving or self.given_up)

    def _raise_if_given_up(self) -> None:
        if self.given_up:
            raise StepAborted("the step was given up, as this computer leaves")
