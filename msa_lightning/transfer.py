"""``msa-transfer``: source features through adapters into a frozen base model."""

from itertools import combinations
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from msa_lightning.config import command, instantiate, resolve

if TYPE_CHECKING:
    from msa_lightning.run import Run


@command("transfer")
def main(cfg: DictConfig) -> None:
    """Train what is not given, compose, evaluate; write a run folder like any other."""
    from msa_lightning.adapters.phases import train_base
    from msa_lightning.run import run_context

    if not cfg.base:
        cfg.base = str(train_base(cfg))
    with run_context(cfg) as run:
        transfer(run)


def transfer(run: "Run") -> dict[str, float]:
    """Score the test split through adapters and base model, also with fewer modalities.

    The folder can be loaded, evaluated and used for predictions like that of a trained run.

    Returns:
        Metrics of the test split.
    """
    import torch

    from msa_lightning.adapters.describe import describe, use_own_features
    from msa_lightning.adapters.lineage import (
        check,
        follow,
        load_base,
        load_given,
        same_scale,
        same_spaces,
        unseen_test,
    )
    from msa_lightning.adapters.phases import train_adapter, train_directly
    from msa_lightning.adapters.spaces import known_to_base
    from msa_lightning.adapters.subset import Subset
    from msa_lightning.modules.fusion import FusionModule
    from msa_lightning.records import store_predictions, write_json
    from msa_lightning.run import load_weights, log, selected_checkpoint
    from msa_lightning.scoring import mean_predictor, score

    cfg = run.cfg
    base, given = load_base(cfg.base), load_given(cfg)
    known_to_base(base, cfg.modalities)
    source = data = instantiate(cfg.data)
    if cfg.control == "oracle":
        data = use_own_features(run, base, source)
    builds_on = [base, *given.values()]
    provenance = follow(data.provenance, builds_on, transductive=cfg.transductive)
    describe(run, base, data.dims, given)
    check(run, provenance)
    if run.metrics and not cfg.again:
        log.info("finished before: %s", run.dir)
        return run.metrics["test"]

    same_scale(base, source)
    data.setup("fit")  # fits the normaliser
    unseen_test(base, source)
    for adapter in given.values():
        same_spaces(adapter, base, data)
    net = instantiate(resolve(run.stored).model, dims=data.dims, outputs=base.objective.outputs)
    frozen = train_directly(run, base) if cfg.control == "direct" else base
    net.base.load_state_dict(frozen.module.net.state_dict())
    adapters = dict(given)
    for m in cfg.modalities if cfg.control not in ("oracle", "direct") else []:
        adapter = adapters[m] = adapters.get(m) or train_adapter(run, m, adapters)
        checkpoint = selected_checkpoint(adapter.dir, adapter.cfg)
        load_weights(torch.nn.ModuleDict({m: net.adapters[m]}), checkpoint)
    module = FusionModule(net=net, objective=base.objective).eval()

    if cfg.again:
        run.clear()
    run.start(provenance, {"number": 1, "kind": "cpu"}, "msa-transfer")
    for node in cfg.logger.values():
        instantiate(node).log_hyperparams(OmegaConf.to_container(resolve(run.stored)))
    data.normaliser.save(run.dir / "normaliser.npz")
    base.datamodule.normaliser.save(run.dir / "target_normaliser.npz")
    torch.save({"state_dict": module.state_dict()}, run.last)
    views = {split: (data, split) for split in (*data.fit_splits, "test")}
    for number in range(1, len(cfg.modalities)):
        for subset in combinations(cfg.modalities, number):
            views[f"test_{'_'.join(subset)}"] = (Subset(data, subset), "test")
    metrics: dict[str, dict[str, float]] = {}
    for name, (view, split) in views.items():
        metrics[name], predictions = score(module, view, split)
        store_predictions(run.dir, name, predictions.assign(split=name))
    metrics["test_mean_predictor"] = mean_predictor(base.objective, source, "test")
    write_json(run.dir / "metrics.json", metrics)
    _show(run, metrics)
    return metrics["test"]


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
