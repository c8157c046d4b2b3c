"""Who trains together: the members of a plan and their order. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from legion.config import RunConfig, config_digest
from legion.errors import ConfigInvalid
from legion.ids import Epoch, RunId
from legion.layout import Layout
from legion.messages import Member, ModelShape, Plan
from legion_server.domain.membership import Worker

GIB = 2**30


def candidates(workers: Iterable[Worker], digest: str | None = None) -> list[Worker]:
    """The workers that could start now, ordered by id: the order must not depend on who came first.

    `digest`: of the configuration; who prepared for another one is not ready for this one yet.
    """
    ready = (
        worker
        for worker in workers
        if worker.state == "ready"
        and worker.endpoint is not None
        and worker.shape is not None
        and (digest is None or worker.config_digest in (None, digest))
    )
    return sorted(ready, key=lambda worker: worker.worker_id)


def agreeing(ready: Sequence[Worker]) -> list[Worker]:
    """The largest group that built the same model; of equal ones, the one with the smallest worker id."""
    groups: defaultdict[ModelShape | None, list[Worker]] = defaultdict(list)
    for worker in ready:
        groups[worker.shape].append(worker)
    return max(groups.values(), key=len, default=[])  # groups stand in order of their smallest id: max keeps the first


def check_split(config: RunConfig, members: Sequence[Worker]) -> None:
    """ConfigInvalid when the model has too few chunks for so many members, or is too much for the memory of one."""
    for shape in {worker.shape for worker in members if worker.shape is not None}:
        layout = Layout(shape.sizes, tuple(worker.share for worker in members))
        for rank, worker in zip(layout.ranks, members, strict=True):
            needed = config.optimizer.state_bytes(layout.owned(rank), layout.total)
            if needed > worker.hardware.memory_bytes:
                has = worker.hardware.memory_bytes / GIB
                raise ConfigInvalid(
                    f"weights, gradient and optimizer state take {needed / GIB:.1f} GiB of {worker.label}, "
                    f"which has {has:.1f} GiB of memory",
                    hint="Train a smaller model, put more workers into a cluster, or leave this one out.",
                )


def make_plan(run_id: RunId, config: RunConfig, epoch: Epoch, first_step: int, members: Sequence[Worker]) -> Plan:
    """ConfigInvalid when these members cannot share the model."""
    config.optimizer.require_members(len(members))
    check_split(config, members)
    shape = members[0].shape
    if shape is None:
        raise ConfigInvalid("a member of the plan has not built the model")
    return Plan(
        run_id=run_id,
        epoch=epoch,
        members=tuple(
            Member(worker_id=w.worker_id, endpoint=w.endpoint, share=w.share) for w in members if w.endpoint is not None
        ),
        shape=shape,
        first_step=first_step,
        config_digest=config_digest(config),
    )
