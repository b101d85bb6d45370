"""A prepared demo corpus and training in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from msa_lightning.config import instantiate, resolve
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.resume import ExactResume
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.train import train
from tests.integration.bench import Bench
from tests.integration.configure import configure

Train = Callable[..., LoadedRun]


class ForgetfulCheckpoint(ExactResume):
    """Does not restore the random state."""

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        pass


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ``demo.h5``."""
    folder = tmp_path_factory.mktemp("prepared")
    overrides = ["source=demo", "source.make.videos=30", f"paths.prepared={folder}"]
    cfg = resolve(configure("prepare", *overrides))
    instantiate(cfg.source).prepare()
    return folder


@pytest.fixture
def train_demo(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train on the demo corpus into ``tmp_path/<name>``: ``train_demo("a", "seed=1")``."""
    monkeypatch.setattr(torch, "get_num_threads", torch.get_num_threads)
    torch.set_num_threads(1)

    def run_once(name: str, *overrides: str) -> LoadedRun:
        fixed = ["data=demo", f"paths.prepared={prepared}", f"paths.run={tmp_path / name}"]
        fixed += ["trainer.max_epochs=3", "~callbacks.progress"]
        with run_context(configure("train", *fixed, *overrides)) as run:
            train(run)
        return load_run(tmp_path / name)

    return run_once


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("transfer"))


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Ids of the clips that any dataset hands out while gradients are recorded."""
    ids: set[str] = set()
    original = VectorDataset.__getitem__

    def spy(self: VectorDataset, indices: list[int]) -> Any:
        batch = original(self, indices)
        if torch.is_grad_enabled():
            ids.update(batch.ids)
        return batch

    monkeypatch.setattr(VectorDataset, "__getitem__", spy)
    return ids


@pytest.fixture(scope="module")
def adapters(bench: Bench) -> dict[str, LoadedRun]:
    """An adapter run for each modality."""
    return {m: bench.adapt(bench.folder / f"adapter_{m}", modality=m) for m in ("text", "audio")}


@pytest.fixture(scope="module")
def moved(bench: Bench) -> LoadedRun:
    """A transfer run that trained its adapters itself."""
    return bench.transfer(bench.folder / "moved")


@pytest.fixture(scope="module")
def prepared_base(bench: Bench, prepared: Path) -> Path:
    """A base run on a prepared file: other clips, all three modalities, nothing to extract with."""
    folder = bench.folder / "prepared_base"
    fixed = ["data=demo", f"paths.prepared={prepared}", f"paths.run={folder}", "model.hidden=8"]
    fixed += ["trainer.max_epochs=1", "+trainer.enable_progress_bar=false", "~callbacks.progress"]
    with run_context(configure("train", *fixed)) as run:
        train(run)
    return folder
