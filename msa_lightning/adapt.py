"""``msa-adapt``: train one adapter into the feature space of a base run."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from msa_lightning.config import command, instantiate
from msa_lightning.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from msa_lightning.modules.adapter import AdapterModule
    from msa_lightning.run import LoadedRun, Run


@command("adapt")
def main(cfg: DictConfig) -> float:
    """Train, write the run folder; return the last training loss."""
    from msa_lightning.run import run_context

    with run_context(cfg) as run:
        return adapt(run)


def adapt(run: "Run") -> float:
    """Train an adapter, continue it, or report what an earlier call has finished.

    Gradients come from clips of the source's training split alone.
    """
    import torch

    from msa_lightning.adapters.spaces import same_scale, sample_targets, some_videos, take, vectors
    from msa_lightning.datasets.loader import batch_loader
    from msa_lightning.records import write_json
    from msa_lightning.run import load_run, log

    cfg = run.cfg
    if cfg.control not in (None, "untrained", "shuffled"):
        raise ConfigError(f"control: '{cfg.control}' is not untrained or shuffled")
    base, datamodule = load_run(cfg.base), instantiate(cfg.data)
    provenance = base.follow(datamodule.provenance)
    run.check(provenance)
    if run.metrics and not cfg.again:
        log.info("finished before: %s", run.dir)
        return run.metrics["train"]["loss"]
    same_scale(base, datamodule)
    m = cfg.modality
    targets, target_labels = sample_targets(base, m, cfg.targets, cfg.seed)
    source, _ = vectors(datamodule, "train", m)
    videos = dict(zip(datamodule.table.ids.tolist(), datamodule.table.videos.tolist(), strict=True))
    source = some_videos(source, {i: videos[i] for i in source.ids}, cfg.share, cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    if cfg.control == "shuffled":
        order = torch.randperm(len(source), generator=generator)
        source = take(source, torch.arange(len(source)), labels=order)
    else:
        order = torch.arange(len(source))
    module = build(cfg, base, datamodule, targets, target_labels, source, order, generator)
    trainer = instantiate(
        cfg.trainer,
        callbacks=[instantiate(node) for node in cfg.callbacks.values()],
        logger=[instantiate(node) for node in cfg.logger.values()],
        **({"max_epochs": 0} if cfg.control == "untrained" else {}),
    )
    if cfg.again:
        run.clear()
    run.start(
        provenance, {"number": trainer.world_size, "kind": cfg.trainer.accelerator}, "msa-adapt"
    )
    if run.main:
        datamodule.normaliser.save(run.dir / "normaliser.npz")
        base.datamodule.normaliser.save(run.dir / "target_normaliser.npz")
    sizes = source.features[m].shape[2], targets.shape[1]
    parameters = sum(p.numel() for p in module.net.adapters.parameters())
    log.info("%s adapter: %d to %d, %s parameters", m, *sizes, f"{parameters:,}")
    resume = str(run.last) if run.last.exists() and not cfg.again else None
    loader = batch_loader(source, cfg.data.batch_size, cfg.seed, **datamodule.loading)
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    metrics = {
        split: diagnose(module, base, datamodule, split, targets) for split in ("train", "valid")
    }
    metrics["train"]["loss"] = float(trainer.callback_metrics.get("train/loss", float("nan")))
    if run.main:
        write_json(run.dir / "metrics.json", metrics)
    log.info(
        "trained: loss %.4f, variance ratio %.3f, R² %.3f | %s",
        metrics["train"]["loss"],
        metrics["valid"]["variance_ratio"],
        metrics["valid"]["r2"],
        run.dir,
    )
    return metrics["train"]["loss"]


def build(
    cfg: DictConfig,
    base: "LoadedRun",
    datamodule: Any,
    targets: "Tensor",
    target_labels: dict[str, "Tensor"],
    source: Any,
    order: "Tensor",
    generator: Any,
) -> "AdapterModule":
    """Put adapter, pairing, distances and the frozen base model together.

    Args:
        cfg: Of the adapter run.
        base: The base run.
        datamodule: Of the source.
        targets: Target-space vectors (N, D).
        target_labels: Their labels by target.
        source: The source's training clips.
        order: Which clip's counterpart each of them gets: its own, unless they are shuffled.
        generator: Of every random choice.
    """
    from msa_lightning.adapters.alignment import build as build_distances
    from msa_lightning.adapters.spaces import pairs
    from msa_lightning.modules.adapter import AdapterModule

    m = cfg.modality
    distances = build_distances(cfg.alignment, generator)
    pairing = None
    if any(distance.paired for distance in distances.values()):
        name = next(iter(base.objective.targets))
        known = pairs(base, datamodule, source.ids, m) if "Paired" in cfg.pairing._target_ else None
        pairing = instantiate(
            cfg.pairing,
            targets=targets,
            target_labels=target_labels.get(name),
            source_labels=source.targets.get(name),
            pairs=known if known is None else known[order],
            generator=generator,
        )
    return AdapterModule(
        adapter=instantiate(
            cfg.adapter, source=source.features[m].shape[2], target=targets.shape[1]
        ),
        modality=m,
        weights=dict(cfg.alignment),
        distances=distances,
        pairing=pairing,
        targets=targets,
        draws=cfg.draws,
        base=base.module.net,
        base_dims=base.datamodule.dims,
        objective=base.objective,
        ids=source.ids,
        optimizer=instantiate(cfg.optimizer),
        generator=generator,
        seed=cfg.seed,
    )


def diagnose(
    module: "AdapterModule", base: "LoadedRun", datamodule: Any, split: str, targets: "Tensor"
) -> dict[str, float]:
    """Collapse, distance to the targets and, where there are pairs, R² on one split."""
    import torch

    from msa_lightning.adapters import diagnostics
    from msa_lightning.adapters.spaces import pairs, vectors

    m = module.modality
    module.eval()
    dataset, found = vectors(datamodule, split, m)
    with torch.inference_mode():
        adapted = module.net.adapters[m](found, torch.ones(len(found), dtype=torch.bool))
    scores = {
        "variance_ratio": diagnostics.collapse(adapted, targets)["median"],
        "coral": diagnostics.coral_distance(adapted, targets),
        "mmd": diagnostics.mmd_distance(adapted, targets),
        "neighbour_overlap": diagnostics.neighbour_overlap(adapted, targets),
        "r2": float("nan"),
    }
    counterparts = pairs(base, datamodule, dataset.ids, m)
    if counterparts is not None:
        scores["r2"] = diagnostics.r2(adapted, counterparts[dataset.masks[m][:, 0]])
    return scores


if __name__ == "__main__":
    main()
