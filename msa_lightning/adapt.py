"""``msa-adapt``: train one adapter into the feature space of a base run."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from msa_lightning.config import command, instantiate
from msa_lightning.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from msa_lightning.adapters.material import Material
    from msa_lightning.modules.adapter import AdapterModule
    from msa_lightning.run import LoadedRun, Run


_STEPS = 16  # of the optimizer for one of Lightning's loop


@command("adapt")
def main(cfg: DictConfig) -> float:
    """Train, write the run folder; return the last training loss."""
    from msa_lightning.adapters.spaces import choose_data
    from msa_lightning.run import run_context

    with run_context(choose_data(cfg)) as run:
        return adapt(run)


def adapt(run: "Run") -> float:
    """Train an adapter, continue it, or report what an earlier call has finished.

    Gradients come from clips of the source's training split alone, unless ``transductive``.

    Returns:
        The loss of the last epoch; NaN if there was no training.
    """
    import torch

    from msa_lightning.adapters.examine import examine, spread
    from msa_lightning.adapters.lineage import (
        check,
        follow,
        load_base,
        load_beside,
        same_scale,
        same_spaces,
    )
    from msa_lightning.adapters.material import adapt_others, gather
    from msa_lightning.adapters.spaces import counterparts, known_to_base
    from msa_lightning.datasets.loader import batch_loader
    from msa_lightning.records import show, write, write_json
    from msa_lightning.run import log

    cfg, m = run.cfg, run.cfg.modality
    if cfg.control not in (None, "untrained", "shuffled"):
        raise ConfigError(f"control: '{cfg.control}' is not untrained or shuffled")
    base, beside = load_base(cfg.base), load_beside(cfg)
    known_to_base(base, [m, *beside])
    datamodule = instantiate(cfg.data)
    builds_on = [base, *beside.values()]
    provenance = follow(datamodule.provenance, builds_on, transductive=cfg.transductive)
    check(run, provenance)
    if run.metrics and not cfg.again:
        log.info("finished before: %s", run.dir)
        return run.metrics["train"]["loss"]

    same_scale(base, datamodule)
    generator = torch.Generator().manual_seed(cfg.seed)
    known = counterparts(base, cfg.data, datamodule, m)
    material = gather(cfg, base, datamodule, known, generator)
    for other in beside.values():
        same_spaces(other, base, datamodule)
    source = adapt_others(material.source, beside, datamodule.dims, base.datamodule.dims)
    loader = batch_loader(source, cfg.data.batch_size, cfg.seed, **datamodule.loading, group=_STEPS)
    torch.manual_seed(cfg.seed)  # however many random numbers the reading of data took
    module = _module(cfg, base, material, generator)
    trainer = instantiate(
        cfg.trainer,
        callbacks=[instantiate(node) for node in cfg.callbacks.values()],
        logger=[instantiate(node) for node in cfg.logger.values()],
    )
    if trainer.world_size > 1 or trainer.precision != "32-true":
        raise ConfigError(
            "trainer: an adapter is trained on one device in full precision; set trainer.devices=1 "
            "trainer.num_nodes=1 trainer.precision=32-true"
        )
    if trainer.gradient_clip_val or trainer.accumulate_grad_batches != 1:
        raise ConfigError(
            "trainer: an adapter takes a step for each batch, without clipping; set "
            "trainer.gradient_clip_val=null trainer.accumulate_grad_batches=1"
        )

    # Nothing is written before this point.
    if cfg.again:
        run.clear()
    run.start(provenance, {"number": 1, "kind": cfg.trainer.accelerator}, "msa-adapt")
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg))
    datamodule.normaliser.save(run.dir / "normaliser.npz")
    base.datamodule.normaliser.save(run.dir / "target_normaliser.npz")
    adapter = module.net.adapters[m]
    columns = material.source.features[m].shape[2], material.targets.shape[1]
    parameters = sum(p.numel() for p in adapter.parameters())
    log.info("%s adapter: %d to %d, %s parameters", m, *columns, f"{parameters:,}")
    before = examine(adapter, datamodule, m, material.targets, known)
    if cfg.control == "untrained":
        torch.save({"state_dict": module.state_dict()}, run.last)
    else:
        module.train()
        resume = str(run.last) if run.last.exists() else None
        if resume:
            log.info("continuing from %s", resume)
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    metrics = examine(adapter, datamodule, m, material.targets, known)
    for split, scores in metrics.items():
        scores |= {f"{name}_before": before[split][name] for name in ("coral", "mmd")}
    taught = {"taught": len(material.source), "targets": len(material.targets)}
    metrics["train"] |= {"loss": module.train_loss, "parameters": parameters} | taught
    ratios = spread(adapter, datamodule, m, material.targets)
    write(run.dir / "variance_ratio.csv", ratios.to_csv())
    write_json(run.dir / "metrics.json", metrics)
    shown = {"loss": module.train_loss} | list(metrics.values())[-1]
    names = ("loss", "variance_ratio", "coral", "mmd", "neighbour_overlap", "r2")
    values = "  ".join(f"{name} {show(shown[name])}" for name in names)
    log.info("trained: %s | %s", values, run.dir)
    return module.train_loss


def _module(
    cfg: DictConfig, base: "LoadedRun", material: "Material", generator: "torch.Generator"
) -> "AdapterModule":
    """Put adapter, distances, pairing and the frozen base model together."""
    from msa_lightning.adapters import alignment
    from msa_lightning.modules.adapter import AdapterModule

    m, target = cfg.modality, next(iter(base.objective.targets))
    distances = alignment.build(cfg.alignment, generator)
    pairs = any(distance.paired for distance in distances.values())
    columns = material.source.features[m].shape[2], material.targets.shape[1]
    return AdapterModule(
        adapter=instantiate(cfg.adapter, source=columns[0], target=columns[1]),
        modality=m,
        weights=dict(cfg.alignment),
        distances=distances,
        pairing=material.pairing(cfg.pairing, target, generator) if pairs else None,
        targets=material.targets,
        draws=cfg.draws,
        alone=cfg.alone,
        base=base.module.net,
        base_dims=base.datamodule.dims,
        objective=base.objective,
        ids=material.source.ids,
        optimizer=instantiate(cfg.optimizer),
        generator=generator,
        seed=cfg.seed,
    )


if __name__ == "__main__":
    main()
