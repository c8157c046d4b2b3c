"""When a membership that ended with an error is taken up again."""

import pytest

from legion.errors import EngineDied, LegionError, PeerLost, StorageFailed, WorkerRevoked, WrongAuthority
from legion_client.agent.memberships import FORGOTTEN_S, PAUSES_S, Ends, ended


def test_pauses_grow_and_are_forgotten() -> None:
    ends, now, pauses = Ends(), 0.0, []
    for _ in range(len(PAUSES_S) + 2):
        ends, pause_s = ended(ends, StorageFailed("the disk is full"), now)
        pauses.append(pause_s)
        now += 1
    assert pauses == [*PAUSES_S, PAUSES_S[-1], PAUSES_S[-1]]
    assert ended(ends, PeerLost("gone"), now + FORGOTTEN_S)[1] == PAUSES_S[0]


@pytest.mark.parametrize("error", [WorkerRevoked("you are revoked"), WrongAuthority("another server")])
def test_what_only_people_can_mend_is_not_tried_again(error: LegionError) -> None:
    assert ended(Ends(), error, 0.0)[1] is None


def test_an_engine_that_crashes_again_and_again_waits_for_the_volunteer() -> None:
    ends, pauses = Ends(), []
    for at in (0.0, 60.0, 120.0):
        ends, pause_s = ended(ends, EngineDied("signal 11"), at)
        pauses.append(pause_s)
    assert pauses == [PAUSES_S[0], PAUSES_S[1], None]
    assert ends.hopeless
    assert len(ends.crashes) == 3


def test_crashes_with_days_between_them_do_not() -> None:
    ends = Ends()
    for day in range(5):
        ends, pause_s = ended(ends, EngineDied("signal 11"), day * 86_400.0)
        assert pause_s == PAUSES_S[0]
