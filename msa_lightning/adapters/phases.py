"""What a transfer builds on, trained first if it is not there yet: base model, adapters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from msa_lightning import MODALITIES, config
from msa_lightning.adapt import adapt
from msa_lightning.adapters.spaces import choose_data
from msa_lightning.run import LoadedRun, Run, load_run, run_context
from msa_lightning.train import train

_OF_TRANSFER = ("networks", "adapters", "model", "objective", "loss", "method", "train")


def train_base(cfg: DictConfig) -> Path:
    """Train the base model of a transfer, as ``msa-train`` would, unless that run is there.

    Jobs of a sweep that want the same one wait for the first.

    Args:
        cfg: Of the transfer run: ``train``, overrides of ``msa-train``; modalities and seed, where
            ``train`` does not say them; paths.

    Returns:
        Its folder.
    """
    said: Any = OmegaConf.to_container(cfg.train, resolve=True)
    settings = {"modalities": "_".join(cfg.modalities), "seed": cfg.seed} | said
    base = config.compose("train", settings, cfg.paths)
    folder = Path(base.paths.run)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")), run_context(base) as run:
        train(run)
    return folder


def train_adapter(run: Run, modality: str, others: Mapping[str, LoadedRun]) -> LoadedRun:
    """Train an adapter of a transfer run inside its folder, unless a run like it is somewhere.

    With the task loss it is trained beside the others that are there already: adapters that each
    learn to give the whole label alone give too much of it together.

    Args:
        run: The transfer run.
        modality: Which one to adapt.
        others: Adapters of other modalities.
    """
    shared = run.stored.copy()
    for key in _OF_TRANSFER:
        shared.pop(key)
    cfg = OmegaConf.merge(shared, run.cfg.networks[modality])
    assert isinstance(cfg, DictConfig)
    taught = others if cfg.alignment.task and cfg.control != "untrained" else {}
    cfg.beside = {m: str(taught[m].dir) if m in taught else None for m in MODALITIES}
    cfg = choose_data(cfg)
    ending = f"*-seed{cfg.seed}-{config.fingerprint(cfg)}"
    own = run.dir / "adapters" / modality
    there = (f for f in Path(cfg.paths.runs).rglob(ending) if (f / "metrics.json").is_file())
    cfg.paths.run = str(own if run.cfg.again or own.exists() else next(there, own))
    cfg.again = run.cfg.again
    _take_folder(run)
    with run_context(cfg) as started:
        adapt(started)
    return load_run(started.dir)


def train_directly(run: Run, base: LoadedRun) -> LoadedRun:
    """Train the base run's network on the source itself, inside a transfer run's folder.

    Args:
        run: The transfer run; its data are the source.
        base: The base run, of which everything but data and seed is taken.
    """
    cfg = config.load(base.dir / "config.yaml")
    batch_size = cfg.data.batch_size
    cfg.data = run.stored.data
    cfg.data.batch_size = batch_size
    cfg.modalities, cfg.seed, cfg.again = run.cfg.modalities, run.cfg.seed, run.cfg.again
    cfg.init_from = None
    if "extractor" in run.stored:
        cfg.extractor = run.stored.extractor
    cfg.paths = run.stored.paths.copy()
    cfg.paths.run = str(run.dir / "direct")
    _take_folder(run)
    with run_context(cfg) as started:
        train(started)
    return load_run(started.dir)


def _take_folder(run: Run) -> None:
    """Make a folder that of a run, so that the runs inside it do not pass for runs of their own."""
    run.dir.mkdir(parents=True, exist_ok=True)
    config.save(run.stored, run.dir / "config.yaml", "msa-transfer")
