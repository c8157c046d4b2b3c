"""The documentation against the code: every setting, command line, exit code, route and event, and every link."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from fastapi.routing import APIWebSocketRoute
from pydantic import BaseModel

import legion_client.cli
import legion_client.settings
import legion_server.cli
from legion.config import RunConfig
from legion.errors import every_error
from legion.messages import EventType
from legion.model.presets import PRESETS
from legion_server.app import create_app
from legion_server.settings import Settings
from legion_server.up.defaults import TINY, TINY_IN_ROUNDS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("installers/**/*.md"))]
ENVIRONMENT = "python3 -m venv .venv && . .venv/bin/activate"
MAIN_JOB = "pip install -c constraints.txt -e '.[all]' && legion-server up"
TESTS = "pip install -c constraints.txt -e '.[test]' && pytest -n logical --dist worksteal"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next of the same or a higher level."""
    _, _, below = text_of(page).partition(f"\n{heading}\n")
    assert below, f"{page} has no heading {heading!r}"
    level = len(heading) - len(heading.lstrip("#"))
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row whose first cell is code, without that cell's backticks."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    return [[cells[0].strip("`"), *cells[1:]] for cells in found]


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and defaults, sections opened up."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from fields(type(default), f"{prefix}{name}.")
        else:
            yield prefix + name, default


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield name, command
    for word, child in inner.items():
        yield from commands(child, f"{name} {word}")


SERVER = typer.main.get_command(legion_server.cli.app)
CLIENT = typer.main.get_command(legion_client.cli.app)
COMMANDS = dict([*commands(SERVER, "legion-server"), *commands(CLIENT, "legion-client")])


def test_every_field_of_a_run_has_its_default() -> None:
    documented = {cells[0]: cells[1] for cells in rows(section("docs/configuration.md", "## The run"))}
    assert documented == {name: f"`{json.dumps(default)}`" for name, default in fields(RunConfig)}


def test_what_up_trains_by_default() -> None:
    optimizer = TINY["optimizer"]
    sentence = (
        f"`legion-server up` starts from other values for `tiny`: `steps` {TINY['steps']}, "
        f"`optimizer.lr` {optimizer['lr']}, `optimizer.warmup_steps` {optimizer['warmup_steps']}. "
    )
    found = section("docs/configuration.md", "## The run").replace("\n", " ")
    assert sentence in found
    steps, each = TINY_IN_ROUNDS["steps"], TINY_IN_ROUNDS["rounds"]["steps"]
    assert f"With several clusters: `steps` {steps}, `rounds.steps` {each}." in found
    assert f"/checkpoints/step-{steps:08}" in text_of("README.md")


def test_every_preset() -> None:
    documented = {cells[0]: cells[1] for cells in rows(section("docs/configuration.md", "## Models"))}
    assert documented == {name: architecture for name, (architecture, _) in PRESETS.items()}


def test_every_source_of_data() -> None:
    allowed = RunConfig.model_fields["data"].annotation.model_fields["source"].annotation  # type: ignore[union-attr]
    assert {cells[0] for cells in rows(section("docs/configuration.md", "## Data"))} == set(get_args(allowed))


def test_every_setting_of_a_server_has_its_default() -> None:
    documented = {cells[0]: cells[1].strip("`") for cells in rows(section("docs/configuration.md", "## The server"))}
    shown = {
        f"LEGION_{name.upper()}": ""
        if default in (None, ())
        else str(default).lower()
        if default is True
        else str(default)
        for name, default in fields(Settings)
    }
    assert documented == shown


def test_every_setting_of_a_client() -> None:
    documented = {cells[0]: cells[1:] for cells in rows(text_of("docs/settings.md"))}
    shown = {
        name: [f"`{one.shown_default}`" if one.shown_default else "", one.unit, one.description]
        for name, one in legion_client.settings.describe().items()
    }
    assert documented == shown


def test_every_variable_of_a_client() -> None:
    documented = {cells[0] for cells in rows(section("docs/configuration.md", "## The client"))}
    assert documented == {"LEGION_HOME", "LEGION_LOG_LEVEL", "LEGION_UNATTENDED", "OMP_NUM_THREADS"}


def test_every_command() -> None:
    headings = re.findall(r"^### `(.+)`$", section("docs/configuration.md", "## Command lines"), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_default(name: str) -> None:
    table = rows(section("docs/configuration.md", f"### `{name}`"))
    documented = {frozenset(re.findall(r"--[a-z-]+", cells[0])): cells[1].strip("`") for cells in table}
    options = [parameter for parameter in COMMANDS[name].params if parameter.param_type_name == "option"]
    known = {frozenset([*option.opts, *option.secondary_opts]): shown_default(option) for option in options}
    assert documented == {names: default for names, default in known.items() if "--help" not in names}


def shown_default(option: Any) -> str:
    if option.secondary_opts:
        return (
            "" if option.default is None else (option.opts if option.default else option.secondary_opts)[0].strip("-")
        )
    return "" if option.default is None or option.default is False or option.required else str(option.default)


def test_every_error_has_its_exit_code() -> None:
    documented = {
        (cells[1].strip("`"), int(cells[0]), int(cells[2]), cells[3] == "yes")
        for cells in rows(text_of("docs/exit-codes.md"))
        if len(cells) == 6
    }
    ours = [error for error in every_error() if error.__module__.startswith("legion")]
    assert documented == {(error.slug, error.exit_code, error.status, error.retryable) for error in ours}


def test_every_route() -> None:
    documented = {(cells[0], cells[1].strip("`")) for cells in rows(section("docs/api.md", "## Routes"))}
    paths = create_app(Settings()).openapi()["paths"]
    assert documented == {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_every_event() -> None:
    below = section("docs/api.md", "## Events")
    assert {cells[0] for cells in rows(below)} == set(get_args(EventType))
    sockets = [route.path for route in create_app(Settings()).routes if isinstance(route, APIWebSocketRoute)]
    assert all(f"`WS {path}`" in below for path in sockets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_has_the_commands_that_ci_runs() -> None:
    readme, script = text_of("README.md").splitlines(), text_of(".ci/run").splitlines()
    for command in (ENVIRONMENT, MAIN_JOB, TESTS):
        assert command in readme
    install, run = TESTS.split(" && ")
    assert [line for line in script if line.endswith(install)], f".ci/run does not run {install}"
    assert script[-1] == run


def test_the_readmes_tree_exists() -> None:
    block = section("README.md", "## The tree").split("```")[1]
    folders = [line.split()[0] for line in block.splitlines() if line]
    assert len(folders) > 5
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_shell_commands_name_options_that_exist() -> None:
    """Every `legion-...` line in a shell block, its options against the command's own."""
    lines = [line for page in PAGES for block in shell_blocks(page) for line in block.splitlines()]
    found = [line for line in lines if re.match(r"(setsid |nohup )?legion-(server|client)\b", line)]
    assert len(found) > 5
    for line in found:
        words = line.split("#")[0].split()
        name = max((n for n in COMMANDS if " ".join(words).startswith(n)), key=len)
        known = {
            option for parameter in COMMANDS[name].params for option in [*parameter.opts, *parameter.secondary_opts]
        }
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}, line


def shell_blocks(page: Path) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
