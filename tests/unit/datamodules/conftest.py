"""The tiny corpus, and the datamodule on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from msa_lightning import config
from msa_lightning.datamodules.mosei import MoseiDataModule
from tests.unit.datamodules.corpus import DIMS, Corpus, Load, make_corpus


@pytest.fixture
def corpus() -> Corpus:
    return make_corpus()


@pytest.fixture
def load(configure: Callable[..., DictConfig], tmp_path: Path) -> Load:
    """Write a corpus and open it with ``conf/data/mosei.yaml``, some of it changed."""

    def load(corpus: Corpus | None, **changes: Any) -> MoseiDataModule:
        path = tmp_path / "tiny.h5"
        if corpus is not None:
            corpus.write(path)
        node = configure("train", "data=mosei").data
        supplied: dict[str, Any] = {"path": str(path), "dims": DIMS, "batch_size": 4}
        datamodule: MoseiDataModule = config.instantiate(node, **supplied | changes)
        return datamodule

    return load
