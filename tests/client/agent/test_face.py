"""What the volunteer is told of the agent, in one line."""

import pytest

from legion.errors import ServerUnreachable
from legion_client.agent.face import look
from legion_client.agent.life import Phase, State
from legion_client.control.messages import RunNow, Why
from legion_client.machine.reasons import Reason


def run_of(**changes: int) -> RunNow:
    return RunNow(run_id="run-1", phase="training", step=1200, steps=4000, **changes)


@pytest.mark.parametrize(
    ("run", "headline"),
    [
        (None, "Takes part in the run"),
        (run_of(workers=1), "In step 1,200 of 4,000, on its own"),
        (run_of(workers=2), "In step 1,200 of 4,000, with 1 other computer"),
        (run_of(workers=1201, round=0, rounds=250), "In round 0 of 250, with 1,200 other computers"),
    ],
)
def test_who_trains_is_told_where_and_with_whom(run: RunNow | None, headline: str) -> None:
    seen = look(State(phase=Phase.TRAINING), (), rests=False, away=None, run=run)
    assert (seen.face, seen.headline) == ("training", headline)


def test_who_is_to_finish_is_told_so() -> None:
    seen = look(State(phase=Phase.TRAINING, finishing=True), (), rests=False, away=None, run=run_of(workers=3))
    assert seen.headline == "Finishes this round, then pauses"


@pytest.mark.parametrize(
    ("slug", "face"),
    [(Reason.PAUSED, "paused"), (Reason.BATTERY, "waiting"), (Reason.SETTINGS_UNUSABLE, "warning")],
)
def test_the_first_reason_is_the_headline(slug: Reason, face: str) -> None:
    reasons = (Why(slug=slug, sentence="Because."), Why(slug="heat", sentence="And this."))
    seen = look(State(phase=Phase.HOLDING), reasons, rests=True, away=None, run=run_of())
    assert (seen.face, seen.headline) == (face, "Because.")


def test_a_server_that_is_away_is_told_whatever_the_phase() -> None:
    seen = look(State(phase=Phase.TRAINING), (), rests=False, away=ServerUnreachable("no answer"), run=run_of())
    assert (seen.face, seen.headline) == ("offline", f"The server is not heard: no answer. {ServerUnreachable.hint}")


def test_who_has_not_joined_is_told_so() -> None:
    assert look(None, (), rests=False, away=None).face == "waiting"
    assert look(None, (), rests=False, away=ServerUnreachable("gone")).headline.startswith("Gone. Check")
