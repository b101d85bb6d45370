"""What an adapter is trained on: clips of the source, vectors of the base run, pairs."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from msa_lightning.config import instantiate
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.errors import ConfigError
from msa_lightning.run import LoadedRun, load_weights, selected_checkpoint


@dataclass(frozen=True)
class Material:
    """What an adapter is trained on.

    Attributes:
        source: M clips of the source's training split, with the labels that they teach with; if
            ``transductive``, also those of the other splits, unlabelled.
        targets: Vectors (N, D) of the base run's training split, as its model sees them.
        target_labels: Labels (N, K) of these.
        pairs: Counterparts (M, D) of the source clips in the target space; a row of NaN where there
            is none. None if there is none at all.
    """

    source: VectorDataset
    targets: Tensor
    target_labels: dict[str, Tensor]
    pairs: Tensor | None

    def pairing(self, node: DictConfig, target: str, generator: torch.Generator) -> Any:
        """Build a pairing for it, which matches labels by the values of one target."""
        return instantiate(
            node,
            targets=self.targets,
            target_labels=self.target_labels.get(target),
            source_labels=self.source.targets.get(target),
            pairs=self.pairs,
            generator=generator,
        )


def gather(
    cfg: DictConfig,
    base: LoadedRun,
    datamodule: Any,
    known: Mapping[str, Tensor],
    generator: torch.Generator,
) -> Material:
    """Collect it, all of it from training splits unless ``transductive``.

    Args:
        cfg: Of the adapter run: modality, targets, share, transductive, seed, control.
        base: The base run.
        datamodule: Of the source.
        known: Target-space vector (D,) of source clips, by id.
        generator: Of the shuffling, if ``control`` is ``shuffled``: each clip then has the label
            and the counterpart of another.

    Raises:
        ConfigError: If the settings do not go together.
    """
    if cfg.transductive and (cfg.control == "shuffled" or cfg.share != 1):
        raise ConfigError(
            "transductive: takes the clips of all splits as they are; leave out share and "
            "control=shuffled"
        )
    targets, labels = sample_targets(base, cfg.modality, cfg.targets, cfg.seed)
    whole = clips(datamodule, "train", cfg.modality)
    source = some_videos(whole, videos(datamodule, whole.ids), cfg.share, cfg.seed)
    order = torch.arange(len(source))
    if cfg.control == "shuffled":
        order = torch.randperm(len(source), generator=generator)
    ids = [source.ids[i] for i in order.tolist()]
    source = take(source, torch.arange(len(source)), labels=order)
    if cfg.transductive:
        for split in [*(s for s in datamodule.fit_splits if s != "train"), "test"]:
            source = join(source, clips(datamodule, split, cfg.modality))
        ids = source.ids
    return Material(source, targets, labels, look_up(known, ids))


def clips(datamodule: Any, split: str, modality: str) -> VectorDataset:
    """The clips of a split that have a modality.

    Raises:
        ConfigError: If the data are sequences.
    """
    dataset = datamodule.dataset(split)
    if not isinstance(dataset, VectorDataset):
        raise ConfigError(
            f"{datamodule.path}: holds sequences, but adapters map vectors; set data.aggregate=mean"
            " (for a base run, when it is trained)"
        )
    return take(dataset, torch.nonzero(dataset.masks[modality][:, 0])[:, 0])


@torch.no_grad()
def adapt_others(
    source: VectorDataset,
    runs: Mapping[str, LoadedRun],
    dims: Mapping[str, int],
    base_dims: Mapping[str, int],
) -> VectorDataset:
    """The same clips, some modalities of which are mapped by adapters that were trained before.

    Args:
        source: The clips.
        runs: Of the adapters, by modality.
        dims: Feature size D of each modality of the source.
        base_dims: The same of the base model.
    """
    adapted = copy.copy(source)
    adapted.features = dict(source.features)
    for m, run in runs.items():
        adapter = instantiate(run.cfg.adapter, source=dims[m], target=base_dims[m]).eval()
        load_weights(nn.ModuleDict({m: adapter}), selected_checkpoint(run.dir, run.cfg))
        adapted.features[m] = adapter(source.features[m], source.masks[m])
    return adapted


def take(dataset: VectorDataset, rows: Tensor, labels: Tensor | None = None) -> VectorDataset:
    """Some clips of a dataset, with the labels of other rows if these are given."""
    features, masks = (
        {m: x[rows][:, 0].numpy() for m, x in tensors.items()}
        for tensors in (dataset.features, dataset.masks)
    )
    of = rows if labels is None else labels
    targets = {name: y[of].numpy() for name, y in dataset.targets.items()}
    ids = [dataset.ids[i] for i in rows.tolist()]
    return VectorDataset(ids=ids, features=features, present=masks, targets=targets)


def join(dataset: VectorDataset, more: VectorDataset) -> VectorDataset:
    """A dataset and the clips of another, without their labels."""
    features, masks, targets = (
        {name: torch.cat([x, there[name]]) for name, x in here.items()}
        for here, there in (
            (dataset.features, more.features),
            (dataset.masks, more.masks),
            (dataset.targets, {name: y * torch.nan for name, y in more.targets.items()}),
        )
    )
    return VectorDataset(
        ids=[*dataset.ids, *more.ids],
        features={m: x[:, 0].numpy() for m, x in features.items()},
        present={m: x[:, 0].numpy() for m, x in masks.items()},
        targets={name: y.numpy() for name, y in targets.items()},
    )


def some_videos(
    dataset: VectorDataset, videos: Mapping[str, str], share: float, seed: int
) -> VectorDataset:
    """The clips of some of a dataset's videos; with one seed, a smaller share lies in a larger one.

    Args:
        dataset: All clips.
        videos: Video id by clip id; a clip that is not there is a video of its own.
        share: Of the clips, above 0; whole videos are taken until there are as many.
        seed: Of the order of videos.

    Raises:
        ConfigError: If the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share: {share} is not above 0 and at most 1")
    video = [videos.get(clip, clip) for clip in dataset.ids]
    names = sorted(set(video))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    place = {names[i]: k for k, i in enumerate(order.tolist())}
    rank = torch.tensor([place[name] for name in video])
    last = rank.sort().values[max(1, round(share * len(rank))) - 1]
    return take(dataset, torch.nonzero(rank <= last)[:, 0])


def videos(datamodule: Any, ids: Sequence[str]) -> dict[str, str]:
    """Video id of clips, by clip id; by the form of the id, ``<video>_<n>``, where no table says.

    Whole videos as clips are not in a table of segments; they are their own.
    """
    table = getattr(datamodule, "table", None)
    if table is None:
        return {clip: clip.rsplit("_", 1)[0] for clip in ids}
    return dict(zip(table.ids.tolist(), table.videos.tolist(), strict=True))


def sample_targets(
    base: LoadedRun, modality: str, number: int, seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw clips of the base run's training split: vectors (n, D) as its model sees them, labels.

    Raises:
        ConfigError: If there are fewer clips.
    """
    found = clips(base.datamodule, "train", modality)
    if not 2 <= number <= len(found):
        raise ConfigError(
            f"targets: {number} asked for, but {base.dir} has {len(found)} training clips with "
            f"{modality}; set targets to {len(found)} or fewer, and at least 2"
        )
    picks = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:number]
    return found.features[modality][picks, 0], {k: y[picks] for k, y in found.targets.items()}


def look_up(known: Mapping[str, Tensor], ids: Sequence[str]) -> Tensor | None:
    """Counterparts (n, D) of clips, NaN where there is none; None if there is none at all."""
    found = [known.get(clip) for clip in ids]
    some = next((x for x in found if x is not None), None)
    if some is None:
        return None
    return torch.stack([torch.full_like(some, torch.nan) if x is None else x for x in found])
