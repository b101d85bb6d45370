"""The configuration of a transfer run, completed: then it is a run like any other."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from msa_lightning.adapters.spaces import counterpart
from msa_lightning.config import instantiate, resolve
from msa_lightning.errors import ConfigError
from msa_lightning.run import LoadedRun, Run


def describe(
    run: Run, base: LoadedRun, dims: Mapping[str, int], given: Mapping[str, LoadedRun]
) -> None:
    """Store model and objective in the configuration of a run.

    Args:
        run: The transfer run.
        base: The base run.
        dims: Feature size D of each modality of the source.
        given: Adapter runs by modality; the other modalities have the adapters of ``networks``.
    """
    stored: Any = OmegaConf.to_container(base.cfg)
    target = base.datamodule.dims
    nodes: dict[str, Any] = {m: run.cfg.networks[m].adapter for m in run.cfg.modalities}
    for m, adapter in given.items():
        nodes[m] = adapter.cfg.adapter
    if run.cfg.control == "direct":
        target = dims
    if run.cfg.control in ("oracle", "direct"):
        nodes = {m: {"_target_": "msa_lightning.adapters.composed.Unchanged"} for m in nodes}
    run.stored.model = {
        "_target_": "msa_lightning.adapters.composed.Composed",
        "base": {**stored["model"], "dims": target, "outputs": base.objective.outputs},
        "adapters": {m: {**n, "source": dims[m], "target": target[m]} for m, n in nodes.items()},
        "base_dims": target,
    }
    run.stored.objective, run.stored.loss = stored["objective"], stored["loss"]


def use_own_features(run: Run, base: LoadedRun, source: Any) -> Any:
    """Put the source's clips in the base run's own features in place of a run's data.

    Args:
        run: The transfer run; its configuration is changed.
        base: The base run.
        source: The data it had.

    Returns:
        The data it has now.

    Raises:
        ConfigError: If there are no such data.
    """
    found = counterpart(base, run.stored.data, source, run.cfg.modalities)
    if found is None:
        raise ConfigError(
            f"control=oracle: the features that {base.dir} was trained on cannot be had for these "
            "clips; leave it out"
        )
    run.stored.data = found
    data = instantiate(resolve(run.stored).data)
    data.normaliser = base.datamodule.normaliser
    if data.dataset("test").ids != source.dataset("test").ids:
        raise ConfigError(
            f"control=oracle: the test split of {base.dir} has other clips than that of the source;"
            " give both the same folds"
        )
    return data
