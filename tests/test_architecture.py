"""Rules of the house that no linter has: sizes, cycles, names, catch-alls, prints, sleeps, generated code."""

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared/legion", "legion_client", "legion_server")
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
PRINTERS = {"legion_client/cli.py"}
# Names that say nothing of what a thing does.
EMPTY_WORDS = {"manager", "helper", "helpers", "util", "utils", "common", "misc"}

# Where every kind of error is caught, and what becomes of it.
CATCH_ALLS = {
    "shared/legion/comm/server.py:answered": "top of a call: logged, and the caller is told",
    "shared/legion/comm/rounds.py:answered": "top of a call: logged, and the caller is told",
    "shared/legion/data/tokenizer.py:_parse": "the library raises nothing narrower; becomes a DataError",
    "shared/legion/data/blobs.py:_replace": "deletes the temporary file, raises again",
    "shared/legion/checkpoint/storage.py:new_file": "deletes the temporary file, raises again",
    "shared/legion/checkpoint/storage.py:new_folder": "deletes the temporary folder, raises again",
    "shared/legion/sim/clock.py:_perform": "top of a thread: carried to whoever awaits it",
    "legion_client/control/server.py:_serve": "top of a connection: logged, the agent and other connections go on",
    "legion_client/control/server.py:answered": "top of a request: logged, and who asks is told",
    "legion_client/engine/main.py:run": "top of the engine: reported to the agent, with a traceback if unknown",
    "legion_client/engine/session.py:_follow": "tells the other members why this one leaves, raises again",
    "legion_client/engine/compute_thread.py:run": "top of a thread: carried to whoever awaits it",
    "legion_client/machine/lane.py:ask": "top of a task: logged by the sensor's slot, and tried again",
    "legion_client/machine/lane.py:_outcome": "top of a thread: carried to the loop, logged by the sensor's slot",
    "legion_client/machine/notices_linux.py:_inhibit": "top of a thread: carried to whoever awaits it",
    "legion_client/machine/upnp_gateway.py:_named": "the library raises nothing narrower; becomes what doctor says",
    "legion_client/ui/near.py:_agent": "top of a task: logged, and the volunteer is told",
    "legion_server/relay/server.py:_receive": "top of a connection: logged, the other connections go on",
    "legion_server/service/threads.py:run": "top of a thread: carried to whoever awaits it",
    "legion_server/service/blobs.py:_stored": "object stores' libraries raise what they like; becomes StorageFailed",
    "legion_server/service/assembler.py:_assemble": "top of a task: logged; the run fails if it needs the checkpoint",
    "legion_server/service/follower.py:serve": "top of a task: logged, and tried again",
    "legion_server/service/dataset.py:_noting_failure": "top of a task: logged, and told to who asks for the data",
}


def sources(*folders: str) -> list[Path]:
    """Python files that people write."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not path.name.endswith("_pb2.py")]


PRODUCT = sources(*PACKAGES)
EVERYTHING = sources(*PACKAGES, "tests", "benchmarks")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def definitions(paths: list[Path]) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for path in paths:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield path, node


def nodes_with_function(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node, with the innermost function it lies in."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield node, inner
        yield from nodes_with_function(node, inner)


def called(node: ast.AST) -> str | None:
    """The last word of what a call calls."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
    return None


def test_sources_are_found() -> None:
    assert len(PRODUCT) > 100
    assert len(EVERYTHING) > len(PRODUCT) + 50


def test_files_and_functions_are_short() -> None:
    too_long = [
        f"{name_of(path)}: {lines} lines"
        for path in EVERYTHING
        if (lines := path.read_text(encoding="utf-8").count("\n")) > MOST_LINES
    ]
    for path, node in definitions(EVERYTHING):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        # A migration is a record of what was done, not code that people read along.
        if not isinstance(node, ast.ClassDef) and lines > MOST_FUNCTION_LINES and "migrations" not in path.parts:
            too_long.append(f"{name_of(path)}: {node.name} has {lines} lines")
    assert too_long == []


def test_no_import_cycles() -> None:
    graph = grimp.build_graph("legion", "legion_client", "legion_server", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # CycleError shows the cycle


def test_only_command_lines_print() -> None:
    """Standard output may be a pipe that a program reads; rich's `console.print` draws on a console it was given."""
    prints = [
        f"{name_of(path)}:{node.lineno}"
        for path in PRODUCT
        if name_of(path) not in PRINTERS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_every_catch_all_is_known() -> None:
    found = {
        f"{name_of(path)}:{function}"
        for path in PRODUCT
        for node, function in nodes_with_function(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and _catches_all(node)
    }
    assert found == set(CATCH_ALLS)


def _catches_all(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(
        isinstance(node, ast.Name) and node.id in ("Exception", "BaseException") for node in ast.walk(handler.type)
    )


def test_names_say_something() -> None:
    names = [(name_of(path), path.stem) for path in PRODUCT]
    names += [(name_of(path), node.name) for path, node in definitions(PRODUCT)]
    assert [(place, name) for place, name in names if words_of(name) & EMPTY_WORDS] == []


def words_of(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_words_of_names_are_found() -> None:
    assert words_of("_PeerManager_of") == {"peer", "manager", "of"}
    assert words_of("HTTPUtils2") == {"http", "utils"}


def test_tests_wait_for_facts_not_for_time() -> None:
    """`asyncio.sleep(0)` lets others run and takes no time."""
    sleeps = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources("tests")
        for node in ast.walk(tree_of(path))
        if called(node) == "sleep" and ast.unparse(node).endswith("sleep(0)") is False
    ]
    assert sleeps == []


def test_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == [], "a package there would shadow the one it tests"


def test_layers() -> None:
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    run([str(command), "--no-cache"])


def test_generated_code_is_up_to_date() -> None:
    pytest.importorskip("grpc_tools")
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash here")
    run([shell, ".ci/protoc", "--check"])


def run(command: list[str]) -> None:
    """In the repository, with this Python first in the path; its output if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
