"""Run by Python in the workers of a benchmark before anything else: a codec of its own, its anchors, what it holds,
when it committed which step, and how long each takes at least.

A run has one codec for all; which one a contribution has is its sender's matter, so that runs with several are valid.
"""

import json
import os
import sys
from pathlib import Path

CODEC = os.environ.get("DISTURBED_CODEC")  # of this worker's contributions
ROOTS_FILE = os.environ.get("DISTURBED_ROOTS")  # a line of JSON for each anchor that an engine of this worker reached
HOLDS_FILE = os.environ.get("DISTURBED_HOLDS")  # one for each second of an agent or a server: what it holds
STEPS_FILE = os.environ.get("DISTURBED_STEPS")  # one for each step, and for each plan that could not go on
STEP_S = float(os.environ.get("DISTURBED_STEP_S", "0"))  # that a step takes at least: shared cores are no time then

if CODEC and ROOTS_FILE and "legion_client.engine" in sys.orig_argv:
    import asyncio
    from collections.abc import Callable

    import psutil

    from legion.codec.registry import any_by_name
    from legion.comm.api import Work
    from legion.outer.courier import Courier
    from legion.rounds import RootReport

    codec, roots_file = any_by_name(CODEC), Path(ROOTS_FILE)
    applied = Courier.applied

    def noted(self: Courier, made: Callable[[], RootReport]) -> Work[None]:
        process, loop = psutil.Process(), self._bridge._loop

        def written() -> RootReport:
            report = made()
            holds = {
                "pid": process.pid,
                "rss_bytes": process.memory_info().rss,
                "descriptors": process.num_fds(),
                "tasks": len(asyncio.all_tasks(loop)),
            }
            with roots_file.open("a") as file:
                file.write(json.dumps({"round": report.round, "root": report.root} | holds) + "\n")
            return report

        return applied(self, written)

    Courier.codec = lambda self: codec  # type: ignore[method-assign]
    Courier.applied = noted  # type: ignore[method-assign]

if STEPS_FILE and "legion_client.engine" in sys.orig_argv:
    import time

    from legion.ids import ClusterId
    from legion.messages import Message
    from legion.outer.courier import Courier
    from legion.rounds import RoundPlan
    from legion_client.engine.protocol import StepDone
    from legion_client.engine.session import Session

    tell, regroup, steps_file = Session._tell, Session._regrouped, Path(STEPS_FILE)

    def note(**what: object) -> None:
        with steps_file.open("a") as file:
            file.write(json.dumps({"at": time.time(), "pid": os.getpid()} | what) + "\n")

    def told(self: Session, report: Message) -> None:
        if isinstance(report, StepDone):
            note(step=report.record.step, members=len(self.member.group.members) if self.member else 0)
        tell(self, report)

    async def regrouped(self: Session, *arguments: object) -> object:
        note(broken=True)
        return await regroup(self, *arguments)

    def gone(self: Courier, clusters: frozenset[ClusterId]) -> None:
        note(gone=sorted(clusters))
        heard_gone(self, clusters)

    def planned(self: Courier, plan: RoundPlan) -> None:
        clusters = {member.worker_id: p.cluster for p in plan.participants for member in p.members}
        note(round=plan.round, reducers=sorted({plan.reducer(n) for n in range(len(plan.spans))}), clusters=clusters)
        heard_plan(self, plan)

    heard_gone, heard_plan = Courier.clusters_gone, Courier.plan_arrived
    Courier.clusters_gone, Courier.plan_arrived = gone, planned  # type: ignore[method-assign]
    Session._tell = told  # type: ignore[method-assign]
    Session._regrouped = regrouped  # type: ignore[method-assign,assignment]

if STEP_S and "legion_client.engine" in sys.orig_argv:
    import time

    from legion.zero.engine import Zero3

    begin, update = Zero3.begin, Zero3._update
    began_at: list[float] = [0.0]

    def begun(self: Zero3, batch_count: int) -> None:
        began_at[0] = time.monotonic()
        begin(self, batch_count)

    def updated(self: Zero3, *arguments: float, **named: bool | int) -> None:
        update(self, *arguments, **named)  # type: ignore[arg-type]
        time.sleep(max(0.0, began_at[0] + STEP_S - time.monotonic()))

    Zero3.begin, Zero3._update = begun, updated  # type: ignore[method-assign,assignment]

if HOLDS_FILE and any(program in sys.orig_argv for program in ("legion_client", "legion_server")):
    import asyncio.tasks
    import threading
    import time

    import psutil

    # Of all loops; before Python 3.12 under another name.
    known = getattr(asyncio.tasks, "_scheduled_tasks", None) or asyncio.tasks._all_tasks  # type: ignore[attr-defined]

    def watch(file: Path) -> None:
        process = psutil.Process()
        while True:
            time.sleep(1.0)
            tasks = sum(not task.done() for task in [*known])
            holds = {"rss_bytes": process.memory_info().rss, "descriptors": process.num_fds(), "tasks": tasks}
            with file.open("a") as lines:
                lines.write(json.dumps({"at": time.time(), "pid": process.pid} | holds) + "\n")

    threading.Thread(target=watch, args=(Path(HOLDS_FILE),), daemon=True).start()
