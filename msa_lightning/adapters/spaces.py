"""The two feature spaces of an adapter: vectors of the source's clips and of the base run's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from msa_lightning.batch import Batch
from msa_lightning.config import instantiate
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.errors import ConfigError, DataError
from msa_lightning.run import LoadedRun


def vectors(datamodule: Any, split: str, modality: str) -> tuple[Batch, Tensor]:
    """A whole split, and the normalised vectors (n, D) of the clips that have the modality.

    Raises:
        ConfigError: If the data are sequences.
    """
    dataset = datamodule.dataset(split)
    if not isinstance(dataset, VectorDataset):
        raise ConfigError("data.aggregate: adapters map vectors; set data.aggregate=mean")
    batch = dataset[range(len(dataset))]
    return batch, batch.features[modality][batch.masks[modality]]


def sample_targets(
    base: LoadedRun, modality: str, number: int, seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw clips of the base run's training split: vectors (n, D) as its model sees them, labels.

    Raises:
        ConfigError: If the base model knows no such modality, or there are fewer clips.
    """
    known = base.datamodule.dims
    if modality not in known:
        raise ConfigError(
            f"adapter={modality}: {base.dir} was trained on {', '.join(known)} alone; give a base "
            f"run that was trained on {modality}, or another adapter"
        )
    batch, found = vectors(base.datamodule, "train", modality)
    if number > len(found):
        raise ConfigError(
            f"targets: {number} asked for, but {base.dir} has {len(found)} training clips with "
            f"{modality}; set targets={len(found)} or fewer"
        )
    picks = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:number]
    mask = batch.masks[modality][:, 0]
    return found[picks], {name: y[mask][picks] for name, y in batch.targets.items()}


def pairs(base: LoadedRun, datamodule: Any, ids: Sequence[str], modality: str) -> Tensor | None:
    """Source clips in the target space (M, D), where both extractors can see them.

    That is the base run's own file, if it has clips of these ids, or its extractors, if it was
    trained on raw media. Rows of NaN have no counterpart; None if there is no way to one.
    """
    known = {clip: row for row, clip in enumerate(base.datamodule.table.ids.tolist())}
    if known.keys() & set(ids):
        other = base.datamodule
    elif "extraction" in base.cfg.data and hasattr(datamodule, "source"):
        other = instantiate(base.cfg.data, source=datamodule.source)
        other.normaliser = base.datamodule.normaliser
    else:
        return None
    dataset = other.unlabelled()
    rows = {clip: row for row, clip in enumerate(dataset.ids)}
    found = dataset.features[modality][:, 0].clone()
    found[~dataset.masks[modality][:, 0]] = torch.nan
    nowhere = torch.full_like(found[:1], torch.nan)
    return torch.stack([found[rows[i]] if i in rows else nowhere[0] for i in ids])


def same_scale(base: LoadedRun, datamodule: Any) -> None:
    """Refuse labels on another scale than the base run's.

    Raises:
        DataError: If a target's range differs.
    """
    for name, facts in base.cfg.data.targets.items():
        other = datamodule.target_facts.get(name)
        if other and list(other["range"]) != list(facts["range"]):
            raise DataError(
                f"data.targets.{name}.range: {list(other['range'])}, but {base.dir} was trained on "
                f"{list(facts['range'])}; bring the labels to one scale"
            )
