"""Clusters for people, as lines of text."""

from collections.abc import Iterator
from itertools import groupby

from legion.ids import short
from legion.links import ClusterReason, ClustersView


def lines(view: ClustersView, *, explain: bool) -> Iterator[str]:
    """A cluster with its workers, then the next; at the end who is in none."""
    yield f"cluster.policy is {view.policy}; {len(view.workers)} workers"
    for cluster, members in groupby(view.workers, key=lambda one: one.cluster):
        yield f"cluster {cluster}" if cluster else "in no cluster"
        for one in members:
            yield f"  {_label(one)}, {one.state}" + (f": {one.sentence}" if explain else "")
            yield from (f"    {reason}" for reason in one.not_with if explain)


def _label(one: ClusterReason) -> str:
    return f"{one.name} ({short(one.worker_id)})"
