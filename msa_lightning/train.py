"""``msa-train``: train one fusion model. It never reads the test split."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from msa_lightning.config import command, instantiate
from msa_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

    from msa_lightning.run import Run


@command("train")
def main(cfg: DictConfig) -> float:
    """Fit, write the run folder; return the monitored validation value."""
    from msa_lightning.run import run_context

    with run_context(cfg) as run:
        return train(run)


def train(run: "Run") -> float:
    """Train a model, continue it, or report what an earlier call has finished.

    Returns:
        The monitored metric on validation; NaN for a run without a validation split.
    """
    import math

    import torch

    from msa_lightning.ddp import needs_processes, part, share_equally, train_in_processes
    from msa_lightning.modules.fusion import FusionModule
    from msa_lightning.run import load_run, load_weights, log, selected_checkpoint

    cfg = run.cfg
    if cfg.selection not in ("validation", "none"):
        raise ConfigError(f"selection: '{cfg.selection}' is neither validation nor none")
    objective, datamodule = instantiate(cfg.objective), instantiate(cfg.data)
    if missing := objective.targets.keys() - datamodule.target_facts.keys():
        raise ConfigError(
            f"objective.targets: data.targets has {', '.join(datamodule.target_facts)}, not "
            f"{', '.join(sorted(missing))}; choose another objective= and loss=, or other data="
        )
    run.check(datamodule.provenance)
    if not cfg.again and run.metrics:
        return _report(run, objective.monitor, "finished before")

    net = instantiate(cfg.model, dims=datamodule.dims, outputs=objective.outputs)
    datamodule.setup("fit")
    datamodule.train_dataloader()  # refuses an impossible batch size
    selecting, has_valid = cfg.selection == "validation", "valid" in datamodule.fit_splits
    if selecting and not has_valid:
        raise DataError(
            f"{cfg.data.path}: no validation split to select on; train a fixed number of epochs "
            "with selection=none, or choose data that has one"
        )
    module = FusionModule(
        net=net,
        objective=objective,
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler) if selecting and cfg.scheduler else None,
    )
    if cfg.init_from:
        source = load_run(cfg.init_from)
        load_weights(module, selected_checkpoint(source.dir, source.cfg))
    if cfg.compile:
        torch._functorch.config.donated_buffer = False  # gradient norms go backward twice
        net.compile()
    trainer = instantiate(
        cfg.trainer,
        callbacks=[
            instantiate(node)
            for node in cfg.callbacks.values()
            if selecting or "monitor" not in node
        ],
        logger=[instantiate(node) for node in cfg.logger.values()],
        **({} if has_valid else {"limit_val_batches": 0}),
    )

    share_equally(cfg.data.batch_size, trainer)
    if needs_processes(trainer):
        train_in_processes(run, trainer)
        return run.metrics.get("valid", {}).get(objective.monitor, math.nan)

    # Nothing is written before this point.
    if cfg.again:
        run.clear()
    devices = {"number": trainer.world_size, "kind": cfg.trainer.accelerator}
    run.start(datamodule.provenance, devices | {"precision": trainer.precision}, "msa-train")
    if run.main:
        datamodule.normaliser.save(run.dir / "normaliser.npz")
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg))
    resume = str(run.last) if run.last.exists() and not cfg.again else None
    if resume:
        log.info("continuing from %s", resume)
    if run.main:
        _show_parameters(net)
    trainer.fit(module, datamodule, ckpt_path=resume, weights_only=True)
    part()
    if run.main:
        load_weights(module, selected_checkpoint(run.dir, cfg))
        run.finish(module, datamodule)
    return _report(run, objective.monitor, "trained")


def _show_parameters(net: "nn.Module") -> None:
    """Print how many parameters each part of a network has."""
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "kind", "parameters", title=f"model: {type(net).__name__}")
    parts = [*net.named_children(), ("all", net)]
    for name, part in parts:
        count = sum(p.numel() for p in part.parameters())
        table.add_row(name, type(part).__name__, f"{count:,}")
    Console().print(table)


def _report(run: "Run", monitor: str, what: str) -> float:
    """Print one line of results; return the monitored validation value."""
    import math

    from msa_lightning.records import show
    from msa_lightning.run import log

    metrics = run.metrics
    value = metrics.get("valid", {}).get(monitor, math.nan)
    if run.main:
        split = "valid" if "valid" in metrics else "train"
        shown = ("loss", "mae", "corr", monitor)
        found = [name for name in dict.fromkeys(shown) if name in metrics[split]]
        scores = [f"{split}/{name} {show(metrics[split][name])}" for name in found]
        synthetic = " on synthetic data" if run.provenance["data"]["synthetic"] else ""
        log.info("%s%s: %s | %s", what, synthetic, "  ".join(scores), run.dir)
    return value


if __name__ == "__main__":
    main()
