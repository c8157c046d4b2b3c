"""What the coordinator knows of the round being trained, as rows: a decision writes those that it changed.

With 100 clusters and 64 spans the whole is 1.2 MB, nearly all of it what reducers have reported, and every report and
every update that arrives changes it: written as one document that was 81 MB in a round. So each field is a row, and so
is each field of each span's turn. A report writes itself (18 KB with 100 clusters) and the counters; the arrival of its
update one flag. The rows of a decision are in one transaction with its records, plans and events: whoever is killed
leaves the state before it or after it, and there is no journal to fold.

Invariant: no row is stored that `parts` of what was saved last does not name.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from legion_server.domain.rounds import Rounds, Turn

ROUNDS = TypeAdapter(Rounds)
TURNS = "turns"
UNSTORED = "speeds"  # they change with every step that is reported; a restarted server measures them anew
_WHOLE: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(hint) for name, hint in get_type_hints(Rounds).items()}
_OF_TURN: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(hint) for name, hint in get_type_hints(Turn).items()}


def changed(before: Rounds | None, after: Rounds) -> tuple[dict[str, str], set[str]]:
    """Documents by name that are to be written, and the names of those that go. `before`: as it is stored."""
    old, new = parts(before) if before is not None else {}, parts(after)
    written = {name: value for name, value in new.items() if name not in old or old[name] != value}
    return {name: _adapter(name).dump_json(value).decode() for name, value in written.items()}, old.keys() - new.keys()


def parts(rounds: Rounds) -> dict[str, Any]:
    """Values by name: `counters`, or `turns/SPAN/report`."""
    found = {field.name: getattr(rounds, field.name) for field in fields(Rounds) if field.name not in (TURNS, UNSTORED)}
    for span, turn in enumerate(rounds.turns):
        found |= {f"{TURNS}/{span}/{field.name}": getattr(turn, field.name) for field in fields(Turn)}
    return found


def joined(documents: Mapping[str, str]) -> Rounds:
    """The state that these rows are."""
    whole: dict[str, str] = {}
    turns: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for name, document in documents.items():
        if name.startswith(f"{TURNS}/"):
            _, span, field = name.split("/")
            turns[int(span)][field] = document
        else:
            whole[name] = document
    whole[TURNS] = f"[{','.join(_object(turns[span]) for span in sorted(turns))}]"
    return ROUNDS.validate_json(_object(whole))


def _object(documents: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{document}' for name, document in documents.items()) + "}"


def _adapter(name: str) -> TypeAdapter[Any]:
    return _OF_TURN[name.rsplit("/", 1)[1]] if "/" in name else _WHOLE[name]
