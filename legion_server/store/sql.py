"""The coordinator's store over SQLAlchemy."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from legion.errors import InviteExpired, InviteInvalid, InviteUsed
from legion.ids import RunId, WorkerId
from legion.reports import EvaluationRecord, LossBucket, MetricsReport, StepSummary, TextSample, WorkerTotals
from legion.rounds import RoundPlan, RoundRecord
from legion_server.domain.checkpoints import Checkpoint
from legion_server.domain.happenings import Happening
from legion_server.domain.links import Sample
from legion_server.domain.membership import Worker
from legion_server.domain.rounds import Rounds
from legion_server.domain.runs import Run
from legion_server.store import ledger, notices, round_parts, run_archive
from legion_server.store import tables as t
from legion_server.store.api import Change, Dataset, Loaded, Numbered
from legion_server.store.database import Database

T = TypeVar("T")
RUN = TypeAdapter(Run)
WORKER = TypeAdapter(Worker)
CHECKPOINT = TypeAdapter(Checkpoint)
DATASET = TypeAdapter(Dataset)
FACTS = TypeAdapter(dict[str, Any])
SAMPLES = TypeAdapter(tuple[Sample, ...])
KEPT_SAMPLES = 20
SHAPE = "shape_of_clusters"  # beside the fields of a Run


class SqlStore:
    """See `store.api.Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def ping(self) -> None:
        async with self._database.reading() as connection:
            await connection.execute(sa.select(t.leadership.c.term))

    async def until_damaged(self) -> None:
        await self._database.until_damaged()

    async def load(self) -> Loaded:
        async with self._database.reading() as connection:
            run = (await connection.execute(sa.select(t.runs.c.document))).scalar()
            dataset = (await connection.execute(sa.select(t.datasets.c.document))).scalar()
            workers = (await connection.execute(sa.select(t.workers.c.document))).scalars().all()
            checkpoints = (await connection.execute(sa.select(t.checkpoints.c.document))).scalars().all()
            events = (await connection.execute(sa.select(t.events).order_by(t.events.c.number))).all()
            rounds = (await connection.execute(sa.select(t.round_parts))).all()
            links = (await connection.execute(sa.select(t.links))).all()
        return Loaded(
            _run_of(run) if run else None,
            DATASET.validate_json(dataset) if dataset else None,
            tuple(map(WORKER.validate_json, workers)),
            tuple(map(CHECKPOINT.validate_json, checkpoints)),
            tuple(map(_numbered, events)),
            round_parts.joined({row.name: row.document for row in rounds}) if rounds else None,
            {(row.worker_id, row.peer): SAMPLES.validate_json(row.document) for row in links},
        )

    async def events_after(self, number: int) -> list[Numbered]:
        query = sa.select(t.events).where(t.events.c.number > number).order_by(t.events.c.number)
        async with self._database.reading() as connection:
            return [_numbered(row) for row in (await connection.execute(query)).all()]

    async def save(self, change: Change) -> None:
        async with self._database.writing() as connection:
            put = self._database.put
            if change.succession is not None:
                await run_archive.succeed(
                    connection, self._database, change.succession.archive, change.succession.following
                )
            if change.run is not None:
                await put(connection, t.runs, {"run_id": change.run.run_id, "document": _run_text(change.run)})
            if change.dataset is not None or change.forget_dataset:
                await connection.execute(sa.delete(t.datasets))
            if change.dataset is not None:
                await put(connection, t.datasets, {"run_id": "", "document": _text(DATASET, change.dataset)})
            workers = ({"worker_id": w.worker_id, "document": _text(WORKER, w)} for w in change.workers)
            await put(connection, t.workers, *workers)
            checkpoints = ({"step": c.step, "document": _text(CHECKPOINT, c)} for c in change.checkpoints)
            await put(connection, t.checkpoints, *checkpoints)
            for step in change.dropped_checkpoints:
                await connection.execute(sa.delete(t.checkpoints).where(t.checkpoints.c.step == step))
            if change.rounds is not None:
                await self._put_rounds(connection, change.rounds_before, change.rounds)
            for table, documents in ((t.round_records, change.records), (t.round_plans, change.plans)):
                await put(connection, table, *({"round": d.round, "document": d.model_dump_json()} for d in documents))
            if change.credit is not None:
                await ledger.write(self._database, connection, change.credit)
            await self._put_links(connection, change)
            if change.forget_rounds_before is not None:
                for table in (t.round_records, t.round_plans):
                    older = table.c.round < change.forget_rounds_before
                    await connection.execute(sa.delete(table).where(older))
            if change.superseded_after is not None:
                await _supersede(connection, change.superseded_after)
            if change.report is not None:
                await self._report(connection, *change.report)
            await self._append(connection, change.events, change.keep_events_after)
            await notices.announce(self._database, connection)

    async def use_invite(self, token_sha256: str, worker: WorkerId, now: float) -> bool:
        async with self._database.writing() as connection:
            found = (
                await connection.execute(sa.select(t.invites).where(t.invites.c.token_sha256 == token_sha256))
            ).first()
            if found is None:
                raise InviteInvalid("this server knows no such invite")
            if found.expires_at <= now:
                raise InviteExpired
            use = self._database.insert(t.invite_uses).values(token_sha256=token_sha256, worker_id=worker)
            first = await connection.execute(use.on_conflict_do_nothing().returning(t.invite_uses.c.worker_id))
            if first.first() is None:
                return False
            taken = await connection.execute(
                sa.update(t.invites)
                .where(t.invites.c.token_sha256 == token_sha256, t.invites.c.uses_left > 0)
                .values(uses_left=t.invites.c.uses_left - 1)
            )
            if taken.rowcount == 0:
                raise InviteUsed  # leaves the transaction: the use is not recorded
            return True

    async def summaries(self, since: int | None, limit: int) -> list[StepSummary]:
        whole = _clusters_steps(since or 0).subquery()
        c = whole.c
        query = (
            sa.select(
                c.step,
                (sa.func.sum(c.loss * c.tokens) / sa.func.nullif(sa.func.sum(c.tokens), 0)).label("mean_loss"),
                sa.func.min(c.loss).label("least_loss"),
                sa.func.max(c.loss).label("loss"),
                sa.func.max(c.grad_norm).label("grad_norm"),
                sa.func.max(c.lr).label("lr"),
                sa.func.sum(c.tokens).label("tokens"),
                sa.func.max(c.step_s).label("step_s"),
            )
            .group_by(c.step)
            .order_by(c.step.desc() if since is None else c.step)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [
            StepSummary(
                step=row.step,
                # The mean of equal losses is one of them, without a rounding.
                loss=row.loss if row.loss == row.least_loss or row.mean_loss is None else float(row.mean_loss),
                grad_norm=row.grad_norm,
                lr=row.lr,
                tokens=int(row.tokens),
                tokens_per_s=int(row.tokens) / row.step_s if row.step_s > 0 else 0.0,
            )
            for row in (reversed(rows) if since is None else rows)
        ]

    async def loss_buckets(self, width: int) -> list[LossBucket]:
        c = _clusters_steps(0).subquery().c
        bucket = ((c.step - 1) // width).label("bucket")
        query = sa.select(
            sa.func.min(c.step).label("first"),
            sa.func.max(c.step).label("last"),
            sa.func.sum(c.tokens).label("tokens"),
            (sa.func.sum(c.loss * c.tokens) / sa.func.nullif(sa.func.sum(c.tokens), 0)).label("mean"),
            sa.func.min(c.loss).label("least"),
            sa.func.max(c.loss).label("most"),
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.group_by(bucket).order_by(bucket))).all()
        return [
            LossBucket(
                first=row.first,
                last=row.last,
                tokens=int(row.tokens),
                # Rounding must not bring a mean beyond what it is the mean of.
                loss=min(row.most, max(row.least, row.least if row.mean is None else float(row.mean))),
                least=row.least,
                most=row.most,
            )
            for row in rows
        ]

    async def evaluations(self) -> list[EvaluationRecord]:
        # Clusters evaluate on the same text: one line a step, the mean of theirs.
        c = t.evaluations.c
        query = sa.select(c.step, sa.func.avg(c.loss).label("loss"), sa.func.max(c.tokens).label("tokens"))
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.group_by(c.step).order_by(c.step))).all()
        return [EvaluationRecord(step=row.step, loss=row.loss, tokens=row.tokens) for row in rows]

    async def samples(self) -> list[tuple[WorkerId, TextSample]]:
        query = sa.select(t.text_samples).order_by(t.text_samples.c.step.desc(), t.text_samples.c.worker_id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [(row.worker_id, TextSample(step=row.step, text=row.text)) for row in rows]

    async def totals(self) -> list[WorkerTotals]:
        c = t.step_records.c
        summed = ("tokens", "micro_batches", "compute_s", "waiting_s", "sent_bytes", "received_bytes")
        largest = ("peak_rss_bytes", "state_bytes")
        query = sa.select(
            c.worker_id,
            *(sa.func.sum(c[name]).label(name) for name in summed),
            *(sa.func.max(c[name]).label(name) for name in largest),
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.group_by(c.worker_id).order_by(c.worker_id))).mappings().all()
        return [WorkerTotals.model_validate(dict(row)) for row in rows]

    async def credited(self, run_id: RunId) -> dict[WorkerId, int]:
        async with self._database.reading() as connection:
            return await ledger.credited(connection, run_id)

    async def tokens(self) -> int:
        steps = _clusters_steps(0).subquery()
        async with self._database.reading() as connection:
            return int((await connection.execute(sa.select(sa.func.sum(steps.c.tokens)))).scalar() or 0)

    async def records(self, since: int, limit: int) -> list[RoundRecord]:
        return [
            RoundRecord.model_validate_json(document) for document in await self._from(t.round_records, since, limit)
        ]

    async def plans(self, since: int, limit: int) -> list[RoundPlan]:
        return [RoundPlan.model_validate_json(document) for document in await self._from(t.round_plans, since, limit)]

    async def _from(self, table: sa.Table, since: int, limit: int) -> Sequence[str]:
        """Documents of rounds from `since` on, in order."""
        query = sa.select(table.c.document).where(table.c.round >= since).order_by(table.c.round).limit(limit)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).scalars().all()

    async def _report(self, connection: AsyncConnection, worker: WorkerId, report: MetricsReport) -> None:
        # Delivery is at least once: what is known already stays as it is.
        steps = [record.model_dump() | {"worker_id": worker, "epoch": report.epoch} for record in report.steps]
        evaluations = [record.model_dump() | {"epoch": report.epoch} for record in report.evaluations]
        samples = [sample.model_dump() | {"worker_id": worker} for sample in report.samples]
        for table, rows in ((t.step_records, steps), (t.evaluations, evaluations), (t.text_samples, samples)):
            if rows:
                await connection.execute(self._database.insert(table).on_conflict_do_nothing(), rows)
        if samples:
            step = t.text_samples.c.step
            kept = sa.select(step).order_by(step.desc()).limit(KEPT_SAMPLES).subquery()
            oldest = sa.select(sa.func.min(kept.c.step)).scalar_subquery()
            await connection.execute(sa.delete(t.text_samples).where(step < oldest))

    async def _append(self, connection: AsyncConnection, events: Iterable[Numbered], keep_after: int) -> None:
        rows = [
            {
                "number": event.number,
                "type": event.happening.type,
                "at": event.at,
                "public": _text(FACTS, event.happening.data),
                "private": _text(FACTS, event.happening.private),
            }
            for event in events
        ]
        if rows:
            # There may be some of a decision that was stored although its caller was told that it could not be.
            await self._database.put(connection, t.events, *rows)
            number = t.events.c.number
            gone = sa.or_(number <= keep_after, number > rows[-1]["number"])
            await connection.execute(sa.delete(t.events).where(gone))

    async def _put_links(self, connection: AsyncConnection, change: Change) -> None:
        rows = (
            {"worker_id": worker_id, "peer": peer, "document": _text(SAMPLES, samples)}
            for (worker_id, peer), samples in change.links.items()
        )
        await self._database.put(connection, t.links, *rows)
        for worker_id, peer in change.dropped_links:
            dropped = (t.links.c.worker_id == worker_id) & (t.links.c.peer == peer)
            await connection.execute(sa.delete(t.links).where(dropped))

    async def _put_rounds(self, connection: AsyncConnection, before: Rounds | None, after: Rounds) -> None:
        table = t.round_parts
        if before is None:
            await connection.execute(sa.delete(table))
        written, gone = round_parts.changed(before, after)
        if gone:
            one = sa.delete(table).where(table.c.name == sa.bindparam("gone"))
            await connection.execute(one, [{"gone": name} for name in gone])
        if written:
            await self._database.put(connection, table, *({"name": n, "document": d} for n, d in written.items()))


def _numbered(row: sa.Row[Any]) -> Numbered:
    facts = FACTS.validate_json(row.public), FACTS.validate_json(row.private)
    return Numbered(row.number, row.at, Happening(row.type, *facts))


def _run_text(run: Run) -> str:
    """The clusters of a run have one model; its shape is written once, as the run is with every step."""
    if not run.clusters:
        return _text(RUN, run)
    document = RUN.dump_python(run, mode="json", exclude={"clusters": {"__all__": {"shape"}}})
    return json.dumps(document | {SHAPE: run.clusters[0].shape.model_dump(mode="json")})


def _run_of(text: str) -> Run:
    document = json.loads(text)
    shape = document.pop(SHAPE, None)
    clusters = [cluster | {"shape": shape} for cluster in document.get("clusters", ())]
    return RUN.validate_python(document | {"clusters": clusters})


def _text(adapter: TypeAdapter[T], value: T) -> str:
    return adapter.dump_json(value).decode()


def _clusters_steps(after: int) -> sa.Select[Any]:
    """Steps as one row a cluster, which all its members reported alike; an epoch is one cluster's."""
    c = t.step_records.c
    return (
        sa.select(
            c.step,
            sa.func.max(c.loss).label("loss"),
            sa.func.max(c.grad_norm).label("grad_norm"),
            sa.func.max(c.lr).label("lr"),
            sa.func.max(c.step_tokens).label("tokens"),
            sa.func.max(c.step_s).label("step_s"),
        )
        .where(c.step > after)
        .group_by(c.step, c.epoch)
    )


async def _supersede(connection: AsyncConnection, step: int) -> None:
    for table in (t.step_records, t.evaluations, t.text_samples):
        await connection.execute(sa.delete(table).where(table.c.step > step))
