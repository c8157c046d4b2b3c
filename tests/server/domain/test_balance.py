"""Work between clusters follows their measured speed, and is corrected with every round."""

from coordinated_rounds import Table, config_of

from legion.ids import ClusterId
from legion_server.domain import rounds as rd

SLOW, FAST = ClusterId("c1"), ClusterId("c2")


def work(table: Table) -> dict[ClusterId, int]:
    """Micro-batches per step, as the plan of the round says."""
    return {participant.cluster: participant.micro_batches for participant in table.plan.participants}


def reported(table: Table, **tokens_per_s: float) -> None:
    """What the clusters' step records say, until it is what counts."""
    for _ in range(12):
        for cluster, speed in tokens_per_s.items():
            table.rounds_or_none = rd.measured(table.rounds, ClusterId(cluster), int(speed * 100), 100.0)


def next_plan(table: Table) -> None:
    """Leases are made a round ahead: what is measured now is heeded in the round after the next."""
    for _ in range(2):
        table.follow()
        table.whole_round()


def test_tokens_of_a_step_follow_measured_speed_and_are_corrected_every_round() -> None:
    table = Table(config_of(2), "ab")
    assert work(table) == {SLOW: 2, FAST: 2}, "nothing is known yet"
    reported(table, c1=100.0, c2=300.0)
    next_plan(table)
    assert work(table) == {SLOW: 1, FAST: 3}
    blocks = {p.cluster: len(p.blocks) for p in table.plan.participants}
    assert blocks[FAST] == 3 * blocks[SLOW], "and leases with it"
    reported(table, c1=300.0, c2=100.0)
    next_plan(table)
    assert work(table) == {SLOW: 3, FAST: 1}
    reported(table, c1=200.0, c2=200.0)
    next_plan(table)
    assert work(table) == {SLOW: 2, FAST: 2}
