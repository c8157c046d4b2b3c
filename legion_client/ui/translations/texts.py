"""Every text that the window may show: its own, settings, reasons, and what the agent says. All have one context."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import legion_client
from legion.errors import every_error
from legion_client.agent import face, memberships, naming, telling
from legion_client.machine.reasons import RULES
from legion_client.settings import describe

PACKAGE = Path(legion_client.__file__).parent
SAYING = ("Said", "Wish")  # made with a text
ADDING = ("add", "in_full")  # told a text in their second argument


@dataclass(frozen=True, slots=True, order=True)
class Text:
    """`plural`: has a number, for which a language may have several forms."""

    source: str
    plural: bool = False


def every_text() -> list[Text]:
    """In order."""
    found = {Text(text) for text in (*face.SENTENCES, *telling.SENTENCES, *memberships.SENTENCES, *naming.SENTENCES)}
    found |= {Text(text) for rule in RULES.values() for text in (rule.text, rule.over) if text}
    found |= {Text(setting.description) for setting in describe().values() if setting.description}
    found |= {
        Text(error.hint)
        for error in every_error()
        if error.__module__.startswith(("legion.", "legion_client.")) and error.hint
    }
    for file in sorted((PACKAGE / "ui").rglob("*.py")):
        found |= set(in_window(ast.parse(file.read_text(encoding="utf-8"))))
    for file in sorted((PACKAGE / "agent").glob("*.py")):
        found |= set(in_agent(ast.parse(file.read_text(encoding="utf-8"))))
    return sorted(found)


def in_window(tree: ast.AST) -> Iterator[Text]:
    """Of `tr(text)`, and of `count(number, one, many)` the form for many."""
    for call in calls(tree):
        if name_of(call) == "tr" and (text := constant(call.args[:1])):
            yield Text(text)
        if name_of(call) == "count" and (text := constant(call.args[2:3])):
            yield Text(text, plural=True)


def in_agent(tree: ast.AST) -> Iterator[Text]:
    for call in calls(tree):
        if name_of(call) in SAYING:
            given = [keyword.value for keyword in call.keywords if keyword.arg == "text"] or call.args[:1]
        elif name_of(call) in ADDING:
            given = call.args[1:2]
        else:
            continue
        if text := constant(given):
            yield Text(text)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def constant(given: list[ast.expr]) -> str:
    """The text that stands there, or nothing; letters make it one for translators."""
    for one in given:
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and any(map(str.isalpha, one.value)):
            return one.value
    return ""
