"""A run folder: write it, resume it, load it.

======================  ==========================================================================
``config.yaml``         the resolved configuration; runs again as it stands
``provenance.json``     code, data, versions, seed; each start with its commit and devices
``normaliser.npz``      feature scaling, fitted on train
``history.csv``         losses and metrics by epoch
``checkpoints/``        ``best.ckpt`` (by validation) and ``last.ckpt`` (to continue from)
``metrics.json``        final metrics by split; ``test`` is added by msa-evaluate
``predictions.parquet`` split, id, target, its component, label, prediction, one per modality
``variance_ratio.csv``  of an adapter: its outputs' variance over the targets', by dimension
``train.log``           what was printed
======================  ==========================================================================
"""

import gc
import glob
import hashlib
import logging
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything

from msa_lightning import MODALITIES, __version__, config
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.modules.fusion import FusionModule
from msa_lightning.normalise import Normaliser
from msa_lightning.objective import Objective
from msa_lightning.records import (
    git_state,
    read_metrics,
    read_provenance,
    store_predictions,
    write_json,
)
from msa_lightning.scoring import score
from msa_lightning.slurm import leave_ending_to_slurm

log = logging.getLogger("msa_lightning")

# Half a million objects of the libraries; looking at them would cost each run a third of a second.
# Cycles that exist by now are never collected, which for a command are none.
gc.freeze()

SUPPLIED = {
    "model": {"dims", "outputs"},
    "adapter": {"source", "target"},
    **{f"networks.{m}.adapter": {"source", "target"} for m in MODALITIES},
    "pairing": {"targets", "target_labels", "source_labels", "pairs", "generator"},
}
"""Arguments that code gives to config nodes; see ``config.validate``."""

# Lightning: its internals, what a resumed run finds, step logging, sums over devices made already
_NOISE = (
    ".*LeafSpec",
    ".*exists and is not empty",
    ".*smaller than the logging interval",
    ".*recommended to use `self.log",
    ".*in eval mode at the start of training",  # a frozen base model
    ".*`srun` command is available",  # on a cluster, outside of its jobs
)
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # torchrun, our launcher, srun
_LIBRARIES = ("torch", "pytorch-lightning", "hydra-core", "torchmetrics", "numpy", "h5py")


@dataclass
class Run:
    """A folder that a command is about to fill, or has filled before.

    Attributes:
        dir: The folder.
        cfg: Resolved configuration.
        stored: The same, not resolved where it refers to ``paths``.
        main: Whether this process is the one that writes.
    """

    dir: Path
    cfg: DictConfig
    stored: DictConfig
    main: bool
    _handler: logging.Handler | None = field(default=None, repr=False)

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.dir / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Stored metrics by split; empty before the run has ended."""
        return read_metrics(self.dir)

    @property
    def provenance(self) -> dict[str, Any]:
        """Code, data, versions, seed, starts; empty before the first start."""
        return read_provenance(self.dir)

    def check(self, data: dict[str, Any]) -> None:
        """Make sure that what an earlier call left here belongs to this configuration and data.

        Args:
            data: What the datamodule says about its files.

        Raises:
            ConfigError: If the folder holds a run of another configuration.
            DataError: If the data has changed since.
        """
        if (self.dir / "config.yaml").exists():
            old = config.fingerprint(config.load(self.dir / "config.yaml"))
            new = config.fingerprint(self.stored)
            if old != new:
                raise ConfigError(
                    f"{self.dir}: holds a run of another configuration ({old}, this one is {new}); "
                    "choose another paths.run"
                )
        if not self.cfg.again and self.provenance:
            check_data(self.dir, data)

    def start(self, data: dict[str, Any], devices: dict[str, Any], script: str) -> None:
        """Create the folder; config, provenance and the log go in.

        Args:
            data: What the datamodule says about its files.
            devices: How many there are and what they compute with.
            script: The command that fills the folder.
        """
        if not self.main:
            return
        (self.dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        config.save(self.stored, self.dir / "config.yaml", script)
        write_json(self.dir / "provenance.json", self._provenance(data, devices, script))
        self._handler = logging.FileHandler(self.dir / "train.log")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for name in ("msa_lightning", "pytorch_lightning", "py.warnings"):
            logging.getLogger(name).addHandler(self._handler)

    def finish(self, module: FusionModule, datamodule: Any) -> None:
        """Score train and validation with the selected weights; store metrics and predictions."""
        scores = {split: score(module, datamodule, split) for split in datamodule.fit_splits}
        for split, (_, predictions) in scores.items():
            store_predictions(self.dir, split, predictions)
        write_json(self.dir / "metrics.json", {s: metrics for s, (metrics, _) in scores.items()})

    def clear(self) -> None:
        """Remove what an earlier call left, to begin again."""
        if self.main:
            names = ("history.csv", "metrics.json", "predictions.parquet", "provenance.json")
            for pattern in ("checkpoints/*", *names, "variance_ratio.csv"):
                for path in self.dir.glob(pattern):
                    path.unlink()

    def log_failure(self) -> None:
        """Put the error that is being handled into the log file; who catches it prints it."""
        if self._handler:
            name, error = log.name, sys.exc_info()
            self._handler.handle(
                logging.LogRecord(name, logging.ERROR, __file__, 0, "failed", None, error)
            )

    def close(self) -> None:
        """Release the log file."""
        if self._handler:
            for name in ("msa_lightning", "pytorch_lightning", "py.warnings"):
                logging.getLogger(name).removeHandler(self._handler)
            self._handler.close()

    def _provenance(
        self, data: dict[str, Any], devices: dict[str, Any], script: str
    ) -> dict[str, Any]:
        git, starts = git_state(), self.provenance.get("starts", [])
        now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "git": git, "devices": devices}
        return {
            "command": script,
            "git": git,
            "data": data,
            "seed": self.cfg.seed,
            "weights": {key: self.cfg.get(key) for key in ("init_from", "base") if key in self.cfg},
            "versions": {
                "msa-lightning": __version__,
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in _LIBRARIES},
            },
            "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
            "starts": [*starts, now],
        }


@contextmanager
def run_context(cfg: DictConfig) -> Iterator[Run]:
    """Name the folder, resolve and check the configuration, seed; clean up whatever happens.

    Raises:
        ConfigError: If the configuration cannot work, all faults at once, before data is read.
    """
    gc.collect()  # an earlier run of this process: its trainer and its module hold each other
    locate_runs(cfg)
    folder = Path(cfg.paths.run or config.run_folder(cfg)).absolute()
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    named = cfg.copy()
    for key in ("data", "prepared", "cache", "runs"):
        named.paths[key] = str(Path(cfg.paths[key]).absolute())
    named.paths.update({"run": str(folder), "name": folder.name, "id": digest})
    stored = config.resolve_but_paths(named)
    stored.again = False  # was meant for this call only
    resolved = config.resolve(stored)
    requeued = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
    resolved.again = cfg.again and not requeued
    config.validate(resolved, SUPPLIED, also=["objective"] if "objective" in resolved else [])
    ranks = [int(os.environ.get(key, 0)) for key in _RANKS]
    run = Run(folder, resolved, stored, main=not any(ranks))
    seed_everything(
        resolved.seed + max(ranks), workers=True, verbose=False
    )  # dropout differs by device
    logging.captureWarnings(True)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    leave_ending_to_slurm()
    failed = True
    try:
        yield run
        failed = False
    except Exception:
        run.log_failure()
        raise
    finally:
        try:
            if "wandb" in sys.modules:
                from msa_lightning.wandb_logger import finish

                artifacts = OmegaConf.select(resolved, "logger.wandb.artifacts") or ()
                finish(folder, artifacts, failed=failed)
        finally:
            run.close()


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready to predict.

    Attributes:
        dir: Its folder.
        cfg: Its resolved configuration.
    """

    dir: Path
    cfg: DictConfig

    @cached_property
    def datamodule(self) -> Any:
        """The data the run was trained on, with the run's normaliser."""
        datamodule = config.instantiate(self.cfg.data)
        check_data(self.dir, datamodule.provenance)
        datamodule.normaliser = Normaliser.load(self.dir / "normaliser.npz")
        return datamodule

    @cached_property
    def objective(self) -> Objective:
        """What the run was trained for."""
        objective: Objective = config.instantiate(self.cfg.objective)
        return objective

    @cached_property
    def module(self) -> FusionModule:
        """The selected weights: the best by validation, or the last where nothing selects."""
        dims = config.instantiate(self.cfg.data).dims  # not self.datamodule, which reads the data
        net = config.instantiate(self.cfg.model, dims=dims, outputs=self.objective.outputs)
        module = FusionModule(net=net, objective=self.objective)
        load_weights(module, selected_checkpoint(self.dir, self.cfg))
        return module.eval()

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Final metrics by split."""
        return read_metrics(self.dir)

    @property
    def provenance(self) -> dict[str, Any]:
        """Code, data, versions, seed, starts."""
        return read_provenance(self.dir)

    @property
    def predictions(self) -> pd.DataFrame:
        """Stored predictions, one row per clip, target and component."""
        return pd.read_parquet(self.dir / "predictions.parquet")

    @property
    def history(self) -> pd.DataFrame:
        """Losses and metrics by epoch."""
        return pd.read_csv(self.dir / "history.csv", index_col="epoch")


def load_run(path: Path | str, paths: Mapping[str, str] | None = None) -> LoadedRun:
    """Load a run folder.

    Args:
        path: The folder.
        paths: Where ``data``, ``prepared`` and ``cache`` are now, if no longer where the run was
            made; by default what ``MSA_DATA``, ``MSA_PREPARED`` and ``MSA_CACHE`` say.

    Raises:
        DataNotFoundError: If it is not the folder of a finished run.
    """
    path = Path(path)
    for name in ("config.yaml", "metrics.json", "provenance.json"):
        if not (path / name).is_file():
            raise DataNotFoundError(
                f"{path}: no {name} in it; expected a finished run's folder{_failure(path)}"
            )
    cfg = config.load(path / "config.yaml")
    cfg.paths.run = str(path.absolute())
    for key in ("data", "prepared", "cache"):
        now = paths.get(key) if paths else os.environ.get(f"MSA_{key.upper()}")
        if now and not Path(cfg.paths.get(key, "")).exists():
            cfg.paths[key] = now
    return LoadedRun(path, config.resolve(cfg))


def _failure(path: Path) -> str:
    """What ended a run that failed, from its log; nothing if it goes on or was killed."""
    log_file = path / "train.log"
    text = log_file.read_text(errors="replace") if log_file.is_file() else ""
    _, failed, after = text.rpartition(" ERROR failed\n")
    if not failed or re.search(r"^\d{4}-\d\d-\d\d ", after, re.M):  # started again since
        return ""
    error = after.rpartition("Traceback (most recent call last):\n")[2]  # the last of a chain
    said = next((line for line in error.splitlines() if line and not line[0].isspace()), "")
    return f"; it failed: {said}" if said else ""


def run_folders(pattern: str) -> list[Path]:
    """Run folders below what a pattern matches; a match without any stands for itself."""
    exact = Path(pattern)
    # not Path.glob: the pattern may be absolute
    matches = [exact] if exact.exists() else sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207
    return [f for path in matches if path.is_dir() for f in list(_below(path)) or [path]]


def one_run(pattern: str) -> Path:
    """The folder of the only run that a pattern matches.

    Raises:
        DataNotFoundError: If it matches none.
        ConfigError: If it matches several.
    """
    found = run_folders(pattern)
    if not found:
        raise DataNotFoundError(f"{pattern}: no run there; give a run folder")
    if len(found) > 1:
        some = ", ".join(map(str, found[:3]))
        raise ConfigError(f"{pattern}: is {len(found)} runs ({some}); give the folder of one")
    return found[0]


def locate_runs(cfg: DictConfig) -> None:
    """Put the absolute folders of the runs that a configuration builds on into it.

    Raises:
        DataNotFoundError: If one of them is not there.
        ConfigError: If a pattern matches several.
    """
    keys = ("base", *(f"{group}.{m}" for group in ("adapters", "beside") for m in MODALITIES))
    for key in keys:
        if path := OmegaConf.select(cfg, key):
            try:
                OmegaConf.update(cfg, key, str(one_run(path).absolute()))
            except (ConfigError, DataNotFoundError) as error:
                raise type(error)(f"{key}: {error}") from error


def _below(path: Path) -> Iterator[Path]:
    if (path / "config.yaml").exists():
        yield path  # and nothing deeper: W&B keeps a config.yaml of its own inside
        return
    for child in sorted(path.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from _below(child)


def check_data(run: Path, data: dict[str, Any]) -> None:
    """Raise a DataError if data is not what a run was trained on."""
    trained_on = read_provenance(run)["data"]["digest"]
    if data["digest"] != trained_on:
        raise DataError(
            f"{data['file']}: its content has changed since {run} was trained (digest "
            f"{data['digest'][:8]}, then {trained_on[:8]}); prepare it as it was, or train again"
        )


def selected_checkpoint(run: Path, cfg: DictConfig) -> Path:
    """``best.ckpt``, or ``last.ckpt`` of a run with ``selection: none``."""
    name = "best.ckpt" if cfg.selection == "validation" else "last.ckpt"
    path = run / "checkpoints" / name
    if not path.is_file():
        raise DataNotFoundError(f"{path}: no such checkpoint; train the run to its end first")
    return path


def load_weights(module: torch.nn.Module, checkpoint: Path) -> None:
    """Copy the weights of a checkpoint into a module of the same shape.

    Raises:
        DataError: If the file is not a whole checkpoint.
        ConfigError: If it is one of another network.
    """
    try:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{checkpoint}: cannot be loaded ({reason}); train the run again"
        ) from error
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ConfigError(
            f"{checkpoint}: does not fit ({reason}); take the same model, modalities and data"
        ) from error
