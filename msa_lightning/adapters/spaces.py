"""The two feature spaces of an adapter: vectors of the source's clips and of the base run's."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from msa_lightning.config import instantiate
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.errors import ConfigError, DataError
from msa_lightning.run import LoadedRun


def vectors(datamodule: Any, split: str, modality: str) -> tuple[VectorDataset, Tensor]:
    """A split, and the normalised vectors (n, D) of its clips that have the modality.

    Raises:
        ConfigError: If the data are sequences.
    """
    dataset = datamodule.dataset(split)
    if not isinstance(dataset, VectorDataset):
        raise ConfigError("data.aggregate: adapters map vectors; set data.aggregate=mean")
    return dataset, dataset.features[modality][dataset.masks[modality]]


def some_videos(dataset: VectorDataset, videos: Mapping[str, str], share: float, seed: int) -> Any:
    """The clips of some of a dataset's videos; with one seed, a smaller share lies in a larger one.

    Args:
        dataset: All clips.
        videos: Video id by clip id.
        share: Of the clips, above 0; whole videos are taken until there are as many.
        seed: Of the order of videos.

    Raises:
        ConfigError: If the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share: {share} is not above 0 and at most 1")
    names = sorted(set(videos.values()))
    generator = torch.Generator().manual_seed(seed)
    order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
    rank = torch.tensor([order.index(videos[clip]) for clip in dataset.ids])
    needed = rank.sort().values[max(1, round(share * len(rank))) - 1]
    return take(dataset, torch.nonzero(rank <= needed)[:, 0])


def take(dataset: VectorDataset, rows: Tensor, labels: Tensor | None = None) -> VectorDataset:
    """Some clips of a dataset, with the labels of others if these are given."""
    features, masks = (
        {m: x[rows][:, 0].numpy() for m, x in tensors.items()}
        for tensors in (dataset.features, dataset.masks)
    )
    of = rows if labels is None else labels
    targets = {name: y[of].numpy() for name, y in dataset.targets.items()}
    ids = [dataset.ids[i] for i in rows.tolist()]
    return VectorDataset(ids=ids, features=features, present=masks, targets=targets)


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
    dataset, found = vectors(base.datamodule, "train", modality)
    if number > len(found):
        raise ConfigError(
            f"targets: {number} asked for, but {base.dir} has {len(found)} training clips with "
            f"{modality}; set targets={len(found)} or fewer"
        )
    picks = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:number]
    mask = dataset.masks[modality][:, 0]
    return found[picks], {name: y[mask][picks] for name, y in dataset.targets.items()}


def counterpart(base: LoadedRun, datamodule: Any, ids: Sequence[str]) -> Any | None:
    """Data with the source's clips in the base run's feature space, normalised as there.

    That is the base run's own file, if it has clips of these ids, or its extractors, if it was
    trained on raw media; None if it is neither.
    """
    if set(base.datamodule.table.ids.tolist()) & set(ids):
        return base.datamodule
    if "extraction" not in base.cfg.data or not hasattr(datamodule, "source"):
        return None
    other = instantiate(base.cfg.data, source=datamodule.source)
    other.normaliser = base.datamodule.normaliser
    return other


def pairs(base: LoadedRun, datamodule: Any, ids: Sequence[str], modality: str) -> Tensor | None:
    """Source clips in the target space (M, D); NaN where there is no counterpart, or None."""
    other = counterpart(base, datamodule, ids)
    if other is None:
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
