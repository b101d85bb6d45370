"""Fixtures that several test modules share."""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from msa_lightning.batch import Batch
from msa_lightning.config import CONF

# Test processes that import librosa at once would spoil one another's compiled code; see
# msa_lightning.extractors.librosa.load.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ["NUMBA_CACHE_DIR"] = str(
    Path(tempfile.gettempdir()) / f"msa-numba-{os.getuid()}-{_WORKER}"
)

torch.set_num_threads(1)  # tensors are tiny: a second thread costs more than it does


@pytest.fixture(scope="session")
def configure() -> Callable[..., DictConfig]:
    """Compose a primary config with overrides: ``configure("train", "model=tfn")``."""

    @cache
    def composed(name: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(CONF, version_base="1.3"):
            return compose(name, overrides=list(overrides))

    return lambda name, *overrides: composed(name, *overrides).copy()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """A random batch with ragged masks, some with holes, and targets inside [-2.5, 2.5].

    Every clip has at least one real step of every modality. Steps differ between modalities, unless
    ``steps`` is 1. Masked features are 0.
    """

    def make(
        dims: dict[str, int], outputs: dict[str, int], *, n: int = 6, steps: int = 5, seed: int = 0
    ) -> Batch:
        g = torch.Generator().manual_seed(seed)
        features, masks = {}, {}
        for extra, (m, d) in enumerate(dims.items()):
            t = steps + extra if steps > 1 else 1
            masks[m] = torch.rand(n, t, generator=g) < 0.6
            masks[m][torch.arange(n), torch.randint(t, (n,), generator=g)] = True
            features[m] = torch.randn(n, t, d, generator=g) * masks[m][..., None]
        targets = {k: 5 * torch.rand(n, size, generator=g) - 2.5 for k, size in outputs.items()}
        return Batch(features, masks, targets, [f"video_{i}" for i in range(n)])

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real corpora; tests that use it are marked ``realdata``."""
    if not os.environ.get("MSA_DATA"):
        pytest.skip("MSA_DATA is not set; it says where the real corpora lie")
    return Path(os.environ["MSA_DATA"])
