"""Batches of clips, in an order that is a function of seed and epoch alone.

They are shared out over the devices.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch.utils.data import BatchSampler as Groups
from torch.utils.data import DataLoader, Sampler

from msa_lightning.datasets.clips import SequenceDataset, VectorDataset
from msa_lightning.errors import ConfigError

_AT_ONCE = 512  # clips


class BatchSampler(Sampler[list[int]]):
    """Batches of indices, each cut into one part per device.

    Every clip comes exactly once per epoch: nothing is dropped, nothing repeated to pad, and every
    device gets the same number of batches. A last batch with fewer than ``smallest`` clips per
    device is folded into the one before, because batch norm cannot train on one clip.

    Args:
        size: Number of clips.
        batch_size: Clips per step, over all devices together.
        seed: Of the shuffling; None keeps the order.
        rank: This device.
        world_size: Number of devices.

    Raises:
        ConfigError: If a batch has fewer clips than there are devices.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int | None, rank: int = 0, world_size: int = 1
    ) -> None:
        if size < world_size or batch_size < world_size:
            raise ConfigError(
                f"data.batch_size: {size} clips in batches of {batch_size} cannot be shared out "
                f"over {world_size} device(s)"
            )
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        smallest = world_size * (2 if seed is not None else 1)
        bounds = [*range(0, size, batch_size), size]
        if len(bounds) > 2 and bounds[-1] - bounds[-2] < smallest:
            del bounds[-2]
        self.bounds = list(pairwise(bounds))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls it before every epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            order = torch.arange(self.size)
        else:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order = torch.randperm(self.size, generator=generator)
        for start, stop in self.bounds:
            yield order[start:stop][self.rank :: self.world_size].tolist()


class MemoryLoader:
    """Batches of clips that are in memory, several copied out of it at once.

    A DataLoader's work for each batch would be a tenth of the training time of a small model.

    Args:
        dataset: The clips.
        sampler: Lists of indices; Lightning tells it the epoch.
        several: How many batches to copy at once.
        together: Give lists of so many.
        pin_memory: Copy to page-locked memory, where there is a GPU.
    """

    batch_sampler = None  # Lightning reads it, to see whether clips are shuffled

    def __init__(
        self,
        dataset: VectorDataset,
        sampler: BatchSampler,
        *,
        several: int,
        together: bool,
        pin_memory: bool,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.several, self.together = several, together
        self.pin_memory = pin_memory and torch.cuda.is_available()

    def __len__(self) -> int:
        batches = len(self.sampler)
        return -(-batches // self.several) if self.together else batches

    def __iter__(self) -> Iterator[Any]:
        batches = list(self.sampler)
        for start in range(0, len(batches), self.several):
            few = batches[start : start + self.several]
            clips = self.dataset[[index for batch in few for index in batch]]
            parts = (clips.pin_memory() if self.pin_memory else clips).split(list(map(len, few)))
            if self.together:
                yield parts
            else:
                yield from parts


Loader = DataLoader[Any] | MemoryLoader


def batch_loader(
    dataset: VectorDataset | SequenceDataset,
    batch_size: int,
    seed: int | None,
    trainer: Trainer | None = None,
    *,
    num_workers: int,
    pin_memory: bool,
    group: int | None = None,
) -> Loader:
    """A loader that asks the dataset for whole batches.

    A DataLoader where clips are read from a file or by other processes. It draws worker seeds from
    a generator of its own, so that making an iterator does not advance the random state that
    dropout uses; a resumed run would differ otherwise.

    Args:
        dataset: Gives a batch for a list of indices.
        batch_size: Clips per step, over all devices together.
        seed: Of the shuffling; None keeps the order.
        trainer: Shares the clips out over its devices; without one, this process sees them all.
        num_workers: Processes that load; 0 for this one.
        pin_memory: Copy batches to page-locked memory.
        group: Give lists of so many batches.
    """
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    sampler = BatchSampler(len(dataset), batch_size, seed=seed, rank=rank, world_size=world_size)
    if isinstance(dataset, VectorDataset) and num_workers == 0:
        several = group or max(1, _AT_ONCE // batch_size)
        return MemoryLoader(
            dataset, sampler, several=several, together=group is not None, pin_memory=pin_memory
        )
    groups: dict[str, Any] = {"batch_size": None, "sampler": sampler}
    if group:
        batches: Any = sampler  # annotated for samplers of single indices, but takes any
        groups = {"batch_sampler": Groups(batches, group, drop_last=False), "collate_fn": list}
    return DataLoader(
        dataset,
        **groups,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed or 0),
    )
