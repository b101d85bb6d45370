"""``msa-transfer``: source features through adapters into a frozen base model."""

from itertools import combinations
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from msa_lightning.config import command, instantiate
from msa_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from msa_lightning.modules.fusion import FusionModule
    from msa_lightning.run import LoadedRun, Run


@command("transfer")
def main(cfg: DictConfig) -> None:
    """Train what adapters are not given, compose, evaluate; write a run folder like any other."""
    from msa_lightning.run import run_context

    with run_context(cfg) as run:
        transfer(run)


def transfer(run: "Run") -> dict[str, float]:
    """Score the test split through adapters and base model, beside the controls.

    The folder can be loaded, evaluated and used for predictions like that of a trained run.

    Returns:
        Metrics of the test split.
    """
    import torch

    from msa_lightning.records import store_predictions, write_json
    from msa_lightning.run import load_run, log
    from msa_lightning.scoring import mean_predictor, score

    cfg = run.cfg
    base, datamodule = load_run(cfg.base), instantiate(cfg.data)
    if cfg.control == "oracle":
        _describe_oracle(run, base)
    else:
        _describe(run, base, datamodule.dims)
    provenance = base.follow(datamodule.provenance)
    run.check(provenance)
    if run.metrics and not cfg.again:
        log.info("finished before: %s", run.dir)
        return run.metrics["test"]
    if cfg.control == "oracle":
        module, data = base.module, _counterpart(base, datamodule)
        folders = {}
    else:
        folders = {m: _adapter(run, m) for m in cfg.modalities}
        _check_spaces(base, datamodule, folders)
        module, data = _compose(run, base, datamodule.dims, folders), datamodule

    if cfg.again:
        run.clear()
    run.start(provenance, {"number": 1, "kind": "cpu"}, "msa-transfer")
    data.normaliser.save(run.dir / "normaliser.npz")
    base.datamodule.normaliser.save(run.dir / "target_normaliser.npz")
    torch.save({"state_dict": module.state_dict()}, run.last)
    subsets = [s for n in range(1, len(cfg.modalities)) for s in combinations(cfg.modalities, n)]
    views = {split: (data, split) for split in ("train", "valid", "test")}
    views |= {f"test_{'_'.join(subset)}": (_Subset(data, subset), "test") for subset in subsets}
    metrics: dict[str, dict[str, float]] = {}
    for name, (view, split) in views.items():
        metrics[name], predictions = score(module, view, split)
        store_predictions(run.dir, name, predictions.assign(split=name))
    metrics["test_mean_predictor"] = mean_predictor(base.objective, datamodule, "test")
    write_json(run.dir / "metrics.json", metrics)
    _show(run, metrics)
    return metrics["test"]


class _Subset:
    """A datamodule of which only some modalities are seen.

    Args:
        datamodule: The whole.
        modalities: What is left of it.
    """

    def __init__(self, datamodule: Any, modalities: tuple[str, ...]) -> None:
        self.datamodule, self.modalities = datamodule, modalities

    def ordered_dataloader(self, split: str) -> Any:
        """Batches with every other modality masked."""
        for batch in self.datamodule.ordered_dataloader(split):
            masks = {m: mask & (m in self.modalities) for m, mask in batch.masks.items()}
            yield batch.replace(masks=masks)


def _describe(run: "Run", base: "LoadedRun", dims: dict[str, int]) -> None:
    """Complete the configuration, so that the folder is a run with a model and an objective."""
    content: Any = OmegaConf.to_container(run.cfg.networks)
    stored: Any = OmegaConf.to_container(base.cfg)
    outputs, base_dims = base.objective.outputs, base.datamodule.dims
    run.stored.model = {
        "_target_": "msa_lightning.adapters.composed.Composed",
        "base": {**stored["model"], "dims": base_dims, "outputs": outputs},
        "adapters": {
            m: {**content[m]["adapter"], "source": dims[m], "target": base_dims[m]}
            for m in run.cfg.modalities
            if m in base_dims
        },
        "base_dims": base_dims,
    }
    run.stored.objective, run.stored.loss = stored["objective"], stored["loss"]
    run.stored.selection = "none"  # nothing was selected: last.ckpt is the result


def _describe_oracle(run: "Run", base: "LoadedRun") -> None:
    """The same for the base model on its own features of the source's clips."""
    stored: Any = OmegaConf.to_container(base.cfg)
    run.stored.data = {**stored["data"], "source": OmegaConf.to_container(run.stored.data.source)}
    run.stored.model = stored["model"]
    run.stored.objective, run.stored.loss = stored["objective"], stored["loss"]
    run.stored.selection = "none"


def _counterpart(base: "LoadedRun", datamodule: Any) -> Any:
    from msa_lightning.adapters.spaces import counterpart

    found = counterpart(base, datamodule, datamodule.table.ids.tolist())
    if found is None:
        raise ConfigError(
            f"control=oracle: the features that {base.dir} was trained on cannot be had for these "
            "clips; leave it out"
        )
    return found


def _adapter(run: "Run", modality: str) -> "Path":
    """The folder of an adapter run: the one that is given, or trained inside this run's."""
    from pathlib import Path

    from msa_lightning.adapt import adapt
    from msa_lightning.run import run_context

    if given := run.cfg.adapters[modality]:
        return Path(given)
    shared = run.stored.copy()
    for key in ("networks", "adapters", "model", "objective", "loss", "selection"):
        del shared[key]
    cfg = OmegaConf.merge(shared, run.cfg.networks[modality])
    assert isinstance(cfg, DictConfig)
    cfg.paths.run = str(run.dir / "adapters" / modality)
    cfg.again = run.cfg.again
    with run_context(cfg) as own:
        adapt(own)
    return own.dir


def _check_spaces(base: "LoadedRun", datamodule: Any, folders: dict[str, "Path"]) -> None:
    """Refuse adapters that were made for other features; take over their normalisers.

    Raises:
        DataError: If an adapter's source or target space is not this one.
    """
    import numpy as np

    from msa_lightning.normalise import Normaliser

    datamodule.dataset("train")  # fits its normaliser
    for m, folder in folders.items():
        for file, here, what in (
            ("normaliser.npz", datamodule.normaliser, "source"),
            ("target_normaliser.npz", base.datamodule.normaliser, "base model's"),
        ):
            there = Normaliser.load(folder / file)
            for kind in ("centre", "scale"):
                a, b = getattr(there, kind).get(m), getattr(here, kind)[m]
                if a is None or a.shape != b.shape or not np.allclose(a, b, rtol=1e-4, atol=1e-6):
                    raise DataError(
                        f"{folder}: was trained for another {what} {m} space than this one; train "
                        "it again with this base run and these data"
                    )


def _compose(
    run: "Run", base: "LoadedRun", dims: dict[str, int], folders: dict[str, "Path"]
) -> "FusionModule":
    """The frozen base model behind the adapters of some folders."""
    import torch

    from msa_lightning.config import resolve
    from msa_lightning.modules.fusion import FusionModule

    torch.manual_seed(run.cfg.seed)
    model = resolve(run.stored).model
    net = instantiate(model, dims=dims, outputs=base.objective.outputs)
    net.base.load_state_dict(base.module.net.state_dict())
    for m, folder in folders.items():
        trained = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        prefix = f"net.adapters.{m}."
        own = {k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)}
        net.adapters[m].load_state_dict(own)
    return FusionModule(net=net, objective=base.objective).eval()


def _show(run: "Run", metrics: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from msa_lightning.records import show
    from msa_lightning.run import log

    names = [name for name in metrics["test"] if not name.startswith("loss")][:4]
    table = Table("scored on", *names, title="transfer")
    for split, values in metrics.items():
        table.add_row(split, *(show(values[name]) for name in names))
    Console().print(table)
    log.info("%s", run.dir)


if __name__ == "__main__":
    main()
