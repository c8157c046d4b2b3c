"""Which files of a Hugging Face dataset belong to a subset and a split, at a pinned commit; for the server.

Everything is read anonymously, on the server as on the workers: a volunteer's token must not open a private dataset
to a run, and data that only the operator can read would fail on every worker.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import yaml  # type: ignore[import-untyped]
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from legion.config import DataConfig
from legion.data.leases import HUB, HUB_ERRORS
from legion.errors import DataError, DatasetEmpty, DatasetMissing, Unavailable

CONVERTED = "refs/convert/parquet"  # where the hub keeps parquet copies of datasets that are published as scripts
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".ndjson")
SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")


class Name(NamedTuple):
    repository: str
    subset: str | None


SHORT_NAMES = {
    "fineweb": Name("HuggingFaceFW/fineweb", "sample-10BT"),
    "fineweb-edu": Name("HuggingFaceFW/fineweb-edu", "sample-10BT"),
    "pile": Name("EleutherAI/the_pile_deduplicated", None),
    "tiny_shakespeare": Name("karpathy/tiny_shakespeare", None),
    "shakespeare": Name("karpathy/tiny_shakespeare", None),
}


class DataFile(NamedTuple):
    """`url` as leases name it: hf://... on the hub, a plain path in a folder of the server."""

    url: str
    size_bytes: int


@dataclass(frozen=True)
class Dataset:
    """The data files of one split, sorted; `revision` is a commit unless the dataset is a folder of the server."""

    filesystem: fsspec.AbstractFileSystem
    revision: str
    files: tuple[DataFile, ...]
    on_hub: bool

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def find_dataset(config: DataConfig) -> Dataset:
    """The dataset that `config` names: a folder of the server, a short name, or a hub id.

    Raises DatasetMissing, DatasetEmpty, DataError or Unavailable.
    """
    name = config.name or ""
    if Path(name).is_dir():
        folder = Path(name).resolve()
        local = fsspec.filesystem("file")
        files = _choose(local, folder.as_posix(), config.subset, config.split)
        return Dataset(local, config.revision, _sized(local, files, ""), on_hub=False)
    repository, subset = SHORT_NAMES.get(name, Name(name, None))
    try:
        return _on_hub(repository, config.subset or subset, config.split, config.revision)
    except HUB_ERRORS as error:
        raise Unavailable(
            f"dataset {repository} cannot be read from the hub: {error}",
            hint="Check the server's connection to huggingface.co, or name a folder of the server.",
        ) from error


def _on_hub(repository: str, subset: str | None, split: str, revision: str) -> Dataset:
    hub, filesystem = HfApi(token=False), HfFileSystem(token=False)
    commit = _commit(hub, repository, revision)
    files = _choose(filesystem, f"datasets/{repository}@{commit}", subset, split)
    if not files and revision == "main":
        commit = _commit(hub, repository, CONVERTED)
        files = _choose(filesystem, f"datasets/{repository}@{commit}", subset, split)
    if not files:
        raise DatasetEmpty(f"dataset {repository} has no parquet or JSON lines files at {revision}")
    return Dataset(filesystem, commit, _sized(filesystem, files, HUB), on_hub=True)


def _commit(hub: HfApi, repository: str, revision: str) -> str:
    try:
        commit = hub.dataset_info(repository, revision=revision).sha
    except GatedRepoError as error:
        raise DataError(
            f"dataset {repository} is open only to people who accepted its terms",
            hint="Workers read data anonymously: use an open dataset, or a copy in a folder of the server.",
        ) from error
    except RevisionNotFoundError as error:
        raise DatasetMissing(f"dataset {repository} has no revision {revision}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DatasetMissing(
            f"there is no dataset {repository} on the hub, nor a folder of that name on the server",
            hint=f"Give a hub id, a folder, or one of {', '.join(SHORT_NAMES)}.",
        ) from error
    if commit is None:
        raise DataError(f"the hub names no commit for {repository} at {revision}")
    return str(commit)


def _sized(filesystem: fsspec.AbstractFileSystem, paths: Sequence[str], prefix: str) -> tuple[DataFile, ...]:
    return tuple(DataFile(prefix + path, filesystem.size(path)) for path in paths)


def _choose(filesystem: fsspec.AbstractFileSystem, base: str, subset: str | None, split: str) -> list[str]:
    """As the dataset's README says; without that, by the names of folders and files."""
    patterns = _declared(filesystem, base, subset, split)
    if patterns is not None:
        found = {path for pattern in patterns for path in filesystem.glob(f"{base}/{pattern}")}
        return sorted(path for path in found if path.endswith(SUFFIXES))
    paths = [path for path in sorted(filesystem.find(base)) if path.endswith(SUFFIXES)]
    return _by_names(paths, base, subset, split)


def _by_names(paths: Sequence[str], base: str, subset: str | None, split: str) -> list[str]:
    names = {path: path.removeprefix(base).lstrip("/") for path in paths}
    if subset is not None:
        names = {path: name for path, name in names.items() if subset in name.split("/")[:-1]}
        if not names:
            raise DatasetMissing(f"{base} has no subset {subset!r}", hint="Change data.subset, or leave it out.")
    # Files that name no split at all are the training split, as everywhere on the hub.
    spoken = {path: _splits_in(name) for path, name in names.items()}
    if not any(spoken.values()) and split == "train":
        return list(names)
    chosen = [path for path, splits in spoken.items() if split in splits]
    if names and not chosen:
        raise DatasetMissing(f"{base} has no files of split {split!r}", hint="Change data.split.")
    return chosen


def _splits_in(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower())) & set(SPLITS)


def _declared(filesystem: fsspec.AbstractFileSystem, base: str, subset: str | None, split: str) -> list[str] | None:
    """The globs that the README's `configs` gives for this subset and split; None when it says nothing of subsets."""
    configs = _configs(filesystem, f"{base}/README.md")
    if not configs:
        return None
    names = [str(config.get("config_name", "default")) for config in configs]
    if subset is not None and subset not in names:
        raise DatasetMissing(f"{base} has no subset {subset!r}; it has {', '.join(names)}", hint="Change data.subset.")
    wanted = subset or next((name for name, c in zip(names, configs, strict=True) if c.get("default")), None)
    chosen = configs[names.index(wanted or ("default" if "default" in names else names[0]))]
    by_split = _patterns(chosen.get("data_files"), str(chosen.get("data_dir", "")))
    if not by_split:
        return None
    if split not in by_split:
        raise DatasetMissing(f"{base} has no split {split!r}; it has {', '.join(by_split)}", hint="Change data.split.")
    return by_split[split]


def _configs(filesystem: fsspec.AbstractFileSystem, readme: str) -> list[dict[str, Any]]:
    if not filesystem.exists(readme):
        return []
    parts = filesystem.cat_file(readme).decode("utf-8", "replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return []
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise DataError(f"{readme} begins with YAML that cannot be read: {error}") from error
    configs = head.get("configs") if isinstance(head, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def _patterns(declared: Any, folder: str) -> dict[str, list[str]]:
    """`data_files` of a README, in any of its forms, as globs by split."""
    if isinstance(declared, str):
        declared = [declared]
    if isinstance(declared, list) and all(isinstance(entry, str) for entry in declared):
        declared = {"train": declared} if declared else {}
    if isinstance(declared, list):
        declared = {str(e.get("split", "train")): e.get("path") for e in declared if isinstance(e, dict)}
    if not isinstance(declared, dict):
        return {}
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    return {
        str(split): [prefix + path for path in ([paths] if isinstance(paths, str) else paths or [])]
        for split, paths in declared.items()
    }
