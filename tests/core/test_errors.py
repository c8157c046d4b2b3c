"""Every error says what happened, what to do, and how it leaves the program; slugs lead back to classes."""

import inspect

import pytest

from legion import errors
from legion.errors import ConfigInvalid, LegionError, NotFound, PeerLost, by_slug, every_error

# Without those of a server, if tests in this process have brought them.
KINDS = [kind for kind in every_error() if kind.__module__ == errors.__name__]


def test_the_tree_is_complete() -> None:
    here = {c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, LegionError)}
    assert set(KINDS) == here
    assert len(KINDS) == len(here)
    assert KINDS[0] is LegionError
    for kind in KINDS[1:]:  # parents first
        assert KINDS.index(kind.__bases__[0]) < KINDS.index(kind)


def test_slugs_are_unique_and_fit_a_url() -> None:
    slugs = [kind.slug for kind in KINDS]
    assert len(set(slugs)) == len(slugs)
    for slug in slugs:
        assert slug == slug.lower()
        assert slug.replace("-", "").isalnum()


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_speaks_to_people_and_to_programs(kind: type[LegionError]) -> None:
    assert kind.title
    assert kind.title[0].isupper()
    assert not kind.title.endswith(".")
    assert kind.hint.endswith(".")
    assert 1 <= kind.exit_code < 64  # shells use 126 and above for signals, sysexits.h 64 to 78
    assert 400 <= kind.status < 600
    assert isinstance(kind.retryable, bool)
    assert str(kind()) == kind.title


@pytest.mark.parametrize("kind", KINDS)
def test_a_slug_leads_back_to_its_class(kind: type[LegionError]) -> None:
    error = by_slug(kind.slug, "what happened", hint="what to do")
    assert type(error) is kind
    assert (str(error), error.hint) == ("what happened", "what to do")


def test_an_unknown_slug_is_still_an_error() -> None:
    error = by_slug("from-the-future", "what happened")
    assert type(error) is LegionError
    assert str(error) == "what happened"
    assert error.hint == LegionError.hint


def test_a_hint_of_its_own_stays_with_the_one_error() -> None:
    assert NotFound("x", hint="Look there.").hint == "Look there."
    assert NotFound("x").hint == NotFound.hint


def test_details_travel_with_the_error() -> None:
    assert ConfigInvalid("x", errors=[1]).details == {"errors": [1]}
    assert PeerLost("x").details == {}
