"""The order of clips is a function of seed and epoch, and every clip comes exactly once."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import LightningModule, Trainer

from msa_lightning.batch import Batch
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.datasets.loader import BatchSampler, batch_loader


def ranks(size: int, batch_size: int, seed: int | None, world_size: int) -> list[list[list[int]]]:
    """The batches of each device."""
    return [
        list(BatchSampler(size, batch_size, seed=seed, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]


def dataset(n: int) -> VectorDataset:
    return VectorDataset(
        ids=[f"v_{i}" for i in range(n)],
        features={"text": np.arange(2 * n, dtype=np.float32).reshape(n, 2)},
        present={"text": np.arange(n) % 5 > 0},
        targets={"sentiment": np.arange(n, dtype=np.float32)[:, None]},
    )


def loaded(n: int, batch_size: int, seed: int | None, **changes: Any) -> list[Batch]:
    settings: dict[str, Any] = {"num_workers": 0, "pin_memory": False} | changes
    return list(batch_loader(dataset(n), batch_size, seed, **settings))


@settings(max_examples=300, deadline=None)
@given(
    world_size=st.integers(1, 5),
    size=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    seed=st.none() | st.integers(0, 3),
)
def test_every_clip_comes_once_in_equally_many_batches(
    world_size: int, size: int, batch_size: int, seed: int | None
) -> None:
    if min(size, batch_size) < world_size:
        with pytest.raises(ValueError, match="cannot be shared out"):
            BatchSampler(size, batch_size, seed=seed, world_size=world_size)
        return
    devices = ranks(size, batch_size, seed, world_size)
    assert sorted(chain(*chain(*devices))) == list(range(size))
    assert len({len(batches) for batches in devices}) == 1
    assert len(BatchSampler(size, batch_size, seed=seed, world_size=world_size)) == len(devices[0])
    smallest = 2 if seed is not None and min(size, batch_size) >= 2 * world_size else 1
    assert all(len(batch) >= smallest for batches in devices for batch in batches)
    for step in zip(*devices, strict=True):
        sizes = [len(batch) for batch in step]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) < batch_size + 2 * world_size


@pytest.mark.parametrize(
    ("size", "seed", "expected"),
    [
        *((65, 0, [32, 33]), (66, 0, [32, 32, 2]), (64, 0, [32, 32]), (65, None, [32, 32, 1])),
        *((1, 0, [1]), (33, 0, [33]), (5, 0, [5])),
    ],
)
def test_last_batch_of_one_is_folded_where_something_is_learnt(
    size: int, seed: int | None, expected: list[int]
) -> None:
    assert [len(batch) for batch in BatchSampler(size, 32, seed=seed)] == expected


def test_last_batch_of_one_per_device_is_folded() -> None:
    assert [len(b) for b in BatchSampler(67, 32, seed=0, rank=1, world_size=2)] == [16, 17]
    assert [len(b) for b in BatchSampler(65, 32, seed=None, rank=1, world_size=2)] == [16, 16]


def order(seed: int, epoch: int, **changes: int) -> list[list[int]]:
    sampler = BatchSampler(112, 32, seed=seed, **changes)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_order_is_a_function_of_seed_and_epoch_only() -> None:
    expected = order(seed=7, epoch=3)
    torch.manual_seed(123)
    assert order(seed=7, epoch=3) == expected
    orders = [order(seed=s, epoch=e) for s in (0, 1, 7) for e in range(4)]
    assert len({str(o) for o in orders}) == 12
    assert all(list(chain(*o)) != list(range(112)) for o in orders)


def test_order_does_not_depend_on_the_epochs_before() -> None:
    sampler = BatchSampler(112, 32, seed=7)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        found = list(sampler)
    assert found == order(seed=7, epoch=3)
    assert list(sampler) == found


def test_devices_share_out_the_batches_of_one_device() -> None:
    alone = order(seed=7, epoch=3)
    shares = [order(seed=7, epoch=3, rank=rank, world_size=4) for rank in range(4)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert sorted(chain(*parts)) == sorted(batch)


def test_without_a_seed_order_is_kept() -> None:
    sampler = BatchSampler(10, 4, seed=None)
    sampler.set_epoch(3)
    assert list(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_loader_gives_whole_batches() -> None:
    batches = loaded(10, 4, None)
    assert [len(b) for b in batches] == [4, 4, 2]
    assert list(batches[1].ids) == ["v_4", "v_5", "v_6", "v_7"]
    assert batches[1].features["text"].tolist() == [[[8, 9]], [[10, 11]], [[12, 13]], [[14, 15]]]
    assert batches[1].masks["text"].tolist() == [[True], [False], [True], [True]]
    assert batches[1].targets["sentiment"].tolist() == [[4], [5], [6], [7]]


def test_loader_shares_out_over_the_devices_of_the_trainer() -> None:
    trainers = [cast(Trainer, SimpleNamespace(global_rank=r, world_size=2)) for r in (0, 1)]
    ids = [[i for b in loaded(10, 4, 0, trainer=t) for i in b.ids] for t in trainers]
    assert len(ids[0]) == len(ids[1]) == 5
    assert set(ids[0]) | set(ids[1]) == {f"v_{i}" for i in range(10)}


def test_loader_leaves_the_random_state_alone() -> None:
    """Dropout draws from it; a resumed run makes its iterators at other moments."""
    state = torch.get_rng_state()
    loaded(10, 4, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_change_nothing() -> None:
    here, there = loaded(10, 4, 0), loaded(10, 4, 0, num_workers=1)
    assert [list(b.ids) for b in here] == [list(b.ids) for b in there]
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.features["text"], b.features["text"])


class Listener(LightningModule):
    """Hear which clips come, in batches or in lists of them."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.heard: list[list[str]] = []

    def on_train_epoch_start(self) -> None:
        self.heard.append([])

    def training_step(self, batches: Batch | list[Batch], _: int) -> None:
        for batch in batches if isinstance(batches, list) else [batches]:
            self.heard[-1] += batch.ids

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("group", [None, 2])
def test_lightning_tells_the_epoch_to_the_loader(
    tmp_path: Path, workers: int, group: int | None
) -> None:
    loader = batch_loader(dataset(10), 3, 0, num_workers=workers, pin_memory=False, group=group)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet: dict[str, Any] = {"enable_model_summary": False, "default_root_dir": tmp_path} | off
    listener = Listener()
    Trainer(max_epochs=3, accelerator="cpu", **quiet).fit(listener, loader)
    sampler = BatchSampler(10, 3, seed=0)
    for epoch, heard in enumerate(listener.heard):
        sampler.set_epoch(epoch)
        assert heard == [f"v_{i}" for i in chain(*sampler)]
    assert len({tuple(heard) for heard in listener.heard}) == 3


@pytest.mark.parametrize("group", [None, 3])
def test_clips_in_memory_come_as_from_a_file(group: int | None) -> None:
    """Copied out several batches at once or one by one: the same, the last short one too."""
    settings: dict[str, Any] = {"seed": 1, "num_workers": 0, "pin_memory": False, "group": group}
    for n in (2, 1300, 1313):
        loader = batch_loader(dataset(n), 32, **settings)
        batches = list(loader)
        assert len(loader) == len(batches)
        flat = list(chain(*batches)) if group else batches
        expected = [dataset(n)[indices] for indices in BatchSampler(n, 32, seed=1)]
        assert [b.ids for b in flat] == [b.ids for b in expected]
        for a, b in zip(flat, expected, strict=True):
            assert torch.equal(a.features["text"], b.features["text"])
            assert torch.equal(a.masks["text"], b.masks["text"])
            assert torch.equal(a.targets["sentiment"], b.targets["sentiment"])
