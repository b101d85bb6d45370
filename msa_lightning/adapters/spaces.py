"""The source's clips as the base run would see them, if both of their spaces can be had."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from msa_lightning import MODALITIES
from msa_lightning.config import instantiate
from msa_lightning.errors import ConfigError
from msa_lightning.run import LoadedRun


def known_to_base(base: LoadedRun, modalities: Iterable[str]) -> None:
    """Refuse modalities that a base run was not trained on.

    Raises:
        ConfigError: If there are any.
    """
    known = base.datamodule.dims
    if unknown := [m for m in modalities if m not in known]:
        raise ConfigError(
            f"{', '.join(unknown)}: {base.dir} was trained on {', '.join(known)} alone; leave out "
            "what it does not know, or give a base run that was trained on it"
        )


def choose_data(cfg: DictConfig) -> DictConfig:
    """Let an adapter's data have its own modality and those of the adapters beside it."""
    cfg.modalities = [m for m in MODALITIES if m == cfg.modality or cfg.beside.get(m)]
    cfg.data = restricted(cfg.data, cfg.modalities)
    return cfg


def restricted(data: DictConfig, modalities: Collection[str]) -> DictConfig:
    """Configuration of the same data with some modalities alone."""
    content: Any = OmegaConf.to_container(data)
    content["modalities"] = [m for m in MODALITIES if m in modalities]
    if "extraction" in content:
        content["extraction"]["modalities"] = content["modalities"]
    return DictConfig(content)


def counterpart(
    base: LoadedRun, data: DictConfig, datamodule: Any, modalities: Sequence[str]
) -> DictConfig | None:
    """Configuration of data with the source's clips in the base run's feature space.

    If both are raw media, the base run's extractors go over the source's clips. Otherwise it is the
    base run's file, if that is of the same corpus.

    Args:
        base: The base run.
        data: Configuration of the source.
        datamodule: The source.
        modalities: Those that are wanted.

    Returns:
        None if there are no such data.
    """
    content = restricted(base.cfg.data, modalities)
    if "extraction" in content and "extraction" in data:
        own: Any = OmegaConf.to_container(data)  # references to paths stay references
        for key in ("source", "prepared", "targets", "split", "split_seed", "granularity"):
            content[key] = own[key]
        content.extraction.cache = own["extraction"]["cache"]
        return content
    corpora = [
        getattr(getattr(d, "table", None), "corpus", None) for d in (base.datamodule, datamodule)
    ]
    return content if corpora[0] and corpora[0] == corpora[1] else None


def counterparts(
    base: LoadedRun, data: DictConfig, datamodule: Any, modality: str
) -> dict[str, Tensor]:
    """The source's clips in the base run's feature space, as its model sees them: (D,) by id.

    Args:
        base: The base run.
        data: Configuration of the source.
        datamodule: The source.
        modality: Which one.

    Returns:
        Only clips that can be had there; none where there are no such data.
    """
    node = counterpart(base, data, datamodule, [modality])
    if node is None:
        return {}
    other = instantiate(node)
    other.normaliser = base.datamodule.normaliser
    dataset = other.unlabelled()
    mask = dataset.masks[modality][:, 0].tolist()
    vectors = dataset.features[modality][:, 0]
    return {i: x for i, x, here in zip(dataset.ids, vectors, mask, strict=True) if here}
