"""The run's configuration and the data it names: a configuration is accepted once its data has been prepared."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legion.config import DataConfig, RunConfig, merge
from legion.errors import LegionError, Unavailable
from legion.model.presets import check_fit
from legion_server.service.coordinator import Coordinator, check_unlocked
from legion_server.service.threads import in_own_thread
from legion_server.store.api import Dataset

if TYPE_CHECKING:
    from legion.data.prepare import Prepared

logger = logging.getLogger(__name__)


class Datasets:
    """`serve` prepares the first configuration's data when somebody asks for it."""

    def __init__(self, coordinator: Coordinator, blobs_dir: Path) -> None:
        self._coordinator = coordinator
        self._blobs_dir = blobs_dir
        self.preparing = asyncio.Lock()
        self._wanted = asyncio.Event()
        self.failure: LegionError | None = None  # why there is no data, if so

    async def serve(self) -> None:
        """Until cancelled."""
        await self._restore()
        while True:
            await self._wanted.wait()
            await self._prepare_current()
            self._wanted.clear()

    def ready(self) -> Dataset:
        """The prepared data. Unavailable while it is being prepared, or the error that prevents it."""
        if self.failure is not None:
            raise self.failure
        dataset = self._coordinator.state.dataset
        if dataset is not None:
            return dataset
        self._wanted.set()
        raise Unavailable("the server is preparing the run's data", hint="Ask again in a few seconds.")

    async def configure(self, change: dict[str, Any]) -> RunConfig:
        """The configuration with `change` merged in. On any error the old one stays."""
        async with self.preparing:
            run = self._coordinator.run
            check_unlocked(run)
            config, dataset = await self.merged(run.config, self._coordinator.state.dataset, change)
            await self._coordinator.configure(config, dataset)
            self.failure = None
            return config

    async def merged(
        self, before: RunConfig, dataset: Dataset | None, change: dict[str, Any]
    ) -> tuple[RunConfig, Dataset]:
        """`before` with `change` merged in, and its data; `dataset`: that of `before`. ConfigInvalid, DataError ..."""
        config = merge(before, change)
        same_data = _asked(config.data) == _asked(before.data) and config.seed == before.seed
        if not same_data:
            config = config.model_copy(update={"data": _unpinned(config.data, change)})
        if not same_data or dataset is None:
            config, dataset = await self._prepared(config)
        check_fit(config, dataset.manifest.vocab_size)
        return config, dataset

    async def _restore(self) -> None:
        """After a restart: data whose files are gone is prepared again, and must come out the same."""
        dataset = self._coordinator.state.dataset
        if dataset is None:
            return
        manifest = dataset.manifest
        named = {manifest.tokenizer_sha256, *(shard.sha256 for shard in (*manifest.train, *manifest.validation))}
        missing = [name for name in named if not (self._blobs_dir / name).is_file()]
        if missing:
            logger.warning("data files are gone, preparing again missing=%d", len(missing))
            async with self.preparing, self._noting_failure():
                await self._prepared(self._coordinator.run.config)

    async def _prepare_current(self) -> None:
        async with self.preparing, self._noting_failure():
            if self._coordinator.state.dataset is not None:
                return
            config, dataset = await self._prepared(self._coordinator.run.config)
            check_fit(config, dataset.manifest.vocab_size)
            await self._coordinator.configure(config, dataset)

    @asynccontextmanager
    async def _noting_failure(self) -> AsyncIterator[None]:
        """The task's top level: what goes wrong is kept for whoever asks for the data."""
        try:
            yield
        except LegionError as error:
            logger.error("data cannot be prepared reason=%s", error)
            self.failure = error
        except Exception as error:
            logger.exception("preparing data failed")
            self.failure = LegionError(f"the data cannot be prepared: {type(error).__name__}: {error}")

    async def _prepared(self, config: RunConfig) -> tuple[RunConfig, Dataset]:
        found = await in_own_thread(lambda: self._run_prepare(config), "prepare data")
        logger.info("data prepared source=%s fingerprint=%s", config.data.source, found.manifest.fingerprint[:12])
        dataset = Dataset(found.manifest, found.unigram_entropy, found.bigram_entropy)
        return config.model_copy(update={"data": found.data}), dataset

    def _run_prepare(self, config: RunConfig) -> "Prepared":
        from legion.data.prepare import prepare  # noqa: PLC0415  brings numpy: not for the start

        return prepare(config.data, seed=config.seed, folder=self._blobs_dir)


def _asked(data: DataConfig) -> DataConfig:
    """What the operator asked for, without what the server found."""
    tokenizer = data.tokenizer.model_copy(update={"sha256": None})
    return data.model_copy(update={"fingerprint": None, "tokenizer": tokenizer})


def _unpinned(data: DataConfig, change: dict[str, Any]) -> DataConfig:
    """Other data: hashes of the old stay only where the change itself gives them."""
    given = change.get("data")
    given = given if isinstance(given, dict) else {}
    tokenizer = given.get("tokenizer")
    updates: dict[str, Any] = {}
    if "fingerprint" not in given:
        updates["fingerprint"] = None
    if not (isinstance(tokenizer, dict) and "sha256" in tokenizer):
        updates["tokenizer"] = data.tokenizer.model_copy(update={"sha256": None})
    return data.model_copy(update=updates)
