"""What is kept of a run that is over, read from the store while nobody changes it."""

from legion.reports import LossCurve
from legion_server.domain import checkpoints as cp
from legion_server.domain.archive import MOST_POINTS, RunArchive, kept
from legion_server.service.metrics import bucket_width, thinned
from legion_server.service.state import State
from legion_server.store.api import Store


async def archived(state: State, store: Store, now: float) -> RunArchive:
    run, rounds = state.run, state.rounds
    width = bucket_width(max(1, run.step), MOST_POINTS)
    samples = [sample for _, sample in await store.samples()]
    curve = LossCurve(
        run_id=run.run_id,
        width=width,
        training=tuple(await store.loss_buckets(width)),
        validation=thinned(await store.evaluations(), MOST_POINTS),
        sample=samples[0] if samples else None,
    )
    credited = await store.credited(run.run_id)
    if not run.config.in_rounds:
        credited = {totals.worker_id: totals.tokens for totals in await store.totals() if totals.tokens > 0}
    return RunArchive(
        run_id=run.run_id,
        config=run.config,
        phase=run.phase,
        failure=run.failure.public if run.failure else None,
        begun_at=run.begun_at,
        ended_at=run.ended_at if run.ended_at is not None else now,
        step=run.step,
        tokens=rounds.total_tokens if rounds else await store.tokens(),
        rounds=rounds.committed if rounds else None,
        curve=curve,
        samples=tuple(samples),
        contributions=credited,
        checkpoint=kept(cp.newest_complete(state.checkpoints)),
    )
