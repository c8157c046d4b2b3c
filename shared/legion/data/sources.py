"""Where text comes from: one function a source, each giving documents in an order that every listing repeats."""

import os
import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from legion.errors import DataError, DatasetEmpty, DatasetMissing

# Installed packages are not the library; tests are half of it, often left out by distributions, and full of tables.
NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
DUMMY_DOCUMENTS = 512
DUMMY_SENTENCES = 64


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its name, which alone decides whether it is held out; the text is read when it is needed."""

    name: str
    read: Callable[[], str]


def python_stdlib() -> list[Document]:
    """The source of the running Python's own library, without its tests: about 12 MB of text on Python 3.11."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in _files_under(root, skip=NOT_LIBRARY) if path.suffix == ".py"]
    return _of_files([(path.relative_to(root).as_posix(), path) for path in found], f"the Python library in {root}")


def text(paths: Sequence[str]) -> list[Document]:
    """Files, and all files under folders (hidden ones left out), as UTF-8 with faults replaced.

    Raises DatasetMissing, DatasetEmpty, and DataError for a file that is binary or cannot be read.
    """
    named: dict[str, Path] = {}
    labels: set[str] = set()
    for path in dict.fromkeys(Path(given).expanduser().resolve() for given in paths):
        if not path.exists():
            raise DatasetMissing(
                f"data.paths: there is no {path} on the server", hint="Name files or folders of the server."
            )
        # Names shall not depend on where the text lies; only a second path of the same name is told apart by its place.
        label = Path(path.as_posix() if path.name in labels else path.name)
        labels.add(path.name)
        inside = _files_under(path) if path.is_dir() else [path]
        named |= {(label / file.relative_to(path)).as_posix(): file for file in inside}
    return _of_files(sorted(named.items()), ", ".join(paths))


def distributed_dummy(seed: int) -> list[Document]:
    """Synthetic sentences from a small seeded grammar, about 1 MB: learned in seconds, the same everywhere.

    A sentence repeats its subject at the end, and verb and object follow from the subject's group, so that a model
    gains by looking further back than a bigram can.
    """
    vocabulary = _words(random.Random(f"legion-dummy-words:{seed}"))
    return [
        Document(f"dummy/{index:04}", partial(_dummy_text, seed, index, vocabulary)) for index in range(DUMMY_DOCUMENTS)
    ]


def _of_files(named: Iterable[tuple[str, Path]], what: str) -> list[Document]:
    documents = [Document(name, partial(_read, path)) for name, path in named if _size(path) > 0]
    if not documents:
        raise DatasetEmpty(f"{what}: no file there holds text")
    return documents


def _files_under(root: Path, skip: frozenset[str] = frozenset()) -> list[Path]:
    found: list[tuple[str, Path]] = []
    for folder, subfolders, files in os.walk(root, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if name not in skip and not name.startswith(".")]
        paths = [Path(folder, name) for name in files if not name.startswith(".")]
        found += [(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]
    return [path for _, path in sorted(found)]


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: {error.strerror}", hint="Make it readable for the server, or leave it out."
    ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}", hint="Make it readable for the server, or leave it out."
        ) from error


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}", hint="Make it readable for the server, or leave it out."
        ) from error
    if b"\0" in content:
        raise DataError(f"{path} is a binary file, not text", hint="Leave it out of data.paths.")
    return content.decode("utf-8", "replace")


def _words(rng: random.Random) -> dict[str, list[str]]:
    def word() -> str:
        return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))

    return {kind: [word() for _ in range(count)] for kind, count in (("noun", 48), ("verb", 24), ("adverb", 8))}


def _dummy_text(seed: int, index: int, words: dict[str, list[str]]) -> str:
    rng = random.Random(f"legion-dummy-text:{seed}:{index}")
    return "\n".join(_sentences(rng, words, DUMMY_SENTENCES)) + "\n"


def _sentences(rng: random.Random, words: dict[str, list[str]], count: int) -> Iterator[str]:
    nouns, verbs, adverbs = words["noun"], words["verb"], words["adverb"]
    for _ in range(count):
        subject = rng.randrange(len(nouns))
        group = subject % 6
        verb = verbs[group * 4 + rng.randrange(4)]
        thing = nouns[(group + 1) % 6 + 6 * rng.randrange(8)]
        yield f"{nouns[subject]} {verb} {thing} {rng.choice(adverbs)}, said {nouns[subject]}."
