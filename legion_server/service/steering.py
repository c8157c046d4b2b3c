"""The operator's hand on the run: pause, resume, stop."""

import logging
from dataclasses import replace

from legion.errors import RunError
from legion_server.domain import averaging, membership, runs, steering
from legion_server.domain import checkpoints as cp
from legion_server.domain.runs import Run
from legion_server.service.coordinator import Coordinator

logger = logging.getLogger(__name__)


class Steering:
    """Changes go through the coordinator."""

    def __init__(self, coordinator: Coordinator, *, assembling: bool) -> None:
        self._coordinator = coordinator
        self._assembling = assembling

    async def pause(self) -> Run:
        """Members finish their round, or step, and wait. RunError when nothing is left to train."""
        async with self._coordinator.deciding() as draft:
            draft.run, happenings = steering.pause(draft.run)
            draft.say(happenings)
        return self._coordinator.run

    async def stop(self) -> Run:
        """For good; its newest checkpoint is kept. RunError when the run is complete."""
        async with self._coordinator.deciding() as draft:
            draft.run, happenings = steering.stop(draft.run)
            draft.say(happenings)
        return self._coordinator.run

    async def resume(self, workers: int | None = None) -> Run:
        """A paused run where it was; any other back to waiting, from its newest complete checkpoint.

        Then who still follows the old plan is no member any more. From the last step's checkpoint the run needs no
        workers, only the assembler, which gets another try. `workers`: how many to wait for from now on. RunError when
        the run is over.
        """
        async with self._coordinator.deciding() as draft:
            if draft.run.phase in ("complete", "stopped"):
                raise RunError(f"the run is {draft.run.phase}; there is nothing to resume", hint="Start a new run.")
            if workers is not None:
                draft.run = runs.wanting(draft.run, workers)
            if draft.run.phase == "waiting":
                return draft.run
            if draft.run.phase == "paused":
                had_plan, stored = draft.run.plan is not None, draft.after.stored(assembling=self._assembling)
                moment = steering.go_on(draft.run, draft.rounds, draft.workers, draft.now, stored)
                draft.run, draft.rounds = moment.run, moment.rounds
                if had_plan and draft.run.plan is None:
                    draft.go_back(draft.run.step)
                draft.say(moment.happenings)
                return draft.run
            newest = cp.newest_complete(draft.checkpoints)
            step = newest.step if newest else 0
            moment = averaging.resume(draft.run, draft.rounds, step)
            draft.run, happenings = moment.run, moment.happenings
            draft.go_back(step)
            for worker in draft.workers.values():
                # Whoever still follows the old plan must say so anew; nobody is ready for the next one yet.
                if worker.state not in membership.AWAY:
                    draft.put(replace(worker, state="offline", endpoint=None, shape=None))
            draft.say(happenings)
        logger.info("run resumed from_step=%d", step)
        self._coordinator.given_up.clear()
        self._coordinator.checkpoint_done.set()
        self._coordinator.round_done.set()
        return self._coordinator.run
