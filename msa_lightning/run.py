"""A run folder: write it, resume it, load it.

======================  ==========================================================================
``config.yaml``         the resolved configuration; runs again as it stands
``provenance.json``     code, data, versions, seed, devices, starts
``normaliser.npz``      feature scaling, fitted on train
``history.csv``         losses and metrics by epoch
``checkpoints/``        ``best.ckpt`` (by validation) and ``last.ckpt`` (to continue from)
``metrics.json``        final metrics by split; ``test`` is added by msa-evaluate
``predictions.parquet`` split, id, target, its component, label, prediction, one per modality
``train.log``           what was printed
======================  ==========================================================================
"""

import glob
import hashlib
import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
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

from msa_lightning import __version__, config
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.modules.fusion import FusionModule
from msa_lightning.normalise import Normaliser
from msa_lightning.objective import Objective
from msa_lightning.scoring import score

log = logging.getLogger("msa_lightning")

SUPPLIED = {"model": {"dims", "outputs"}}
"""Arguments that code gives to config nodes; see ``config.validate``."""

# Lightning: its internals, what a resumed run finds, step logging, sums over devices made already
_NOISE = (
    ".*LeafSpec",
    ".*exists and is not empty",
    ".*smaller than the logging interval",
    ".*recommended to use `self.log",
)
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # torchrun, our launcher, srun
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

    def start(self, data: dict[str, Any], script: str) -> None:
        """Create the folder; config, provenance and the log go in.

        Args:
            data: What the datamodule says about its files.
            script: The command that fills the folder.

        Raises:
            ConfigError: If the folder holds a run of another configuration.
        """
        if not self.main:
            return
        (self.dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        path = self.dir / "config.yaml"
        if path.exists():
            old, new = config.fingerprint(config.load(path)), config.fingerprint(self.stored)
            if old != new:
                raise ConfigError(
                    f"{self.dir}: holds a run of another configuration ({old}, this one is {new}); "
                    "choose another paths.run"
                )
        config.save(self.stored, path, script)
        write_json(self.dir / "provenance.json", self._provenance(data, script))
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
            for pattern in ("checkpoints/*", "history.csv", "metrics.json", "predictions.parquet"):
                for path in self.dir.glob(pattern):
                    path.unlink()

    def close(self) -> None:
        """Release the log file."""
        if self._handler:
            for name in ("msa_lightning", "pytorch_lightning", "py.warnings"):
                logging.getLogger(name).removeHandler(self._handler)
            self._handler.close()

    def _provenance(self, data: dict[str, Any], script: str) -> dict[str, Any]:
        git, starts = _git(), self.provenance.get("starts", [])
        return {
            "command": script,
            "git": git,
            "data": data,
            "seed": self.cfg.seed,
            "weights": {"init_from": self.cfg.get("init_from")},
            "versions": {
                "msa-lightning": __version__,
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in _LIBRARIES},
            },
            "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
            "starts": [*starts, {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "git": git}],
        }


@contextmanager
def run_context(cfg: DictConfig) -> Iterator[Run]:
    """Name the folder, resolve and check the configuration, seed; clean up whatever happens.

    Raises:
        ConfigError: If the configuration cannot work, all faults at once, before data is read.
    """
    folder = Path(cfg.paths.run or Path(cfg.paths.runs) / config.run_name(cfg)).absolute()
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    named = cfg.copy()
    for key in ("data", "prepared", "runs"):
        named.paths[key] = str(Path(cfg.paths[key]).absolute())
    named.paths.update({"run": str(folder), "name": folder.name, "id": digest})
    stored = config.resolve_but_paths(named)
    cfg = config.resolve(stored)
    config.validate(cfg, SUPPLIED)
    rank = next((os.environ[key] for key in _RANKS if key in os.environ), "0")
    run = Run(folder, cfg, stored, main=rank == "0")
    seed_everything(cfg.seed, workers=True, verbose=False)
    logging.captureWarnings(True)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    failed = True
    try:
        yield run
        failed = False
    finally:
        run.close()
        if wandb := sys.modules.get("wandb"):
            wandb.finish(exit_code=int(failed))  # or the next job of a sweep writes into this one's


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
        net = config.instantiate(
            self.cfg.model, dims=self.datamodule.dims, outputs=self.objective.outputs
        )
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


def load_run(path: Path | str) -> LoadedRun:
    """Load a run folder.

    Raises:
        DataNotFoundError: If it is not the folder of a finished run.
    """
    path = Path(path)
    for name in ("config.yaml", "metrics.json"):
        if not (path / name).is_file():
            raise DataNotFoundError(f"{path}: no {name} in it; expected a finished run's folder")
    cfg = config.load(path / "config.yaml")
    cfg.paths.run = str(path.absolute())
    for key, variable in (("data", "MSA_DATA"), ("prepared", "MSA_PREPARED")):
        if not Path(cfg.paths[key]).exists() and variable in os.environ:
            cfg.paths[key] = os.environ[variable]  # the run was made elsewhere
    return LoadedRun(path, config.resolve(cfg))


def find_runs(pattern: str) -> list[LoadedRun]:
    """Load one run folder, or every finished run among the folders that a pattern matches.

    Raises:
        DataNotFoundError: If there is none.
    """
    if Path(pattern).is_dir() and (Path(pattern) / "config.yaml").exists():
        return [load_run(pattern)]
    matches = map(Path, sorted(glob.glob(pattern)))  # noqa: PTH207 - the pattern may be absolute
    folders = [path for path in matches if (path / "metrics.json").exists()]
    if not folders:
        raise DataNotFoundError(f"{pattern}: no finished run there; give a run folder or a pattern")
    return [load_run(folder) for folder in folders]


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
        DataError: If the file is not a whole checkpoint, or does not fit.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(content["state_dict"])
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{checkpoint}: cannot be loaded ({reason}); train the run again"
        ) from error


def store_predictions(run: Path, split: str, predictions: pd.DataFrame) -> None:
    """Put one split's rows into ``predictions.parquet``, in place of older ones."""
    path = run / "predictions.parquet"
    if path.exists():
        old = pd.read_parquet(path)
        predictions = pd.concat([old[old["split"] != split], predictions], ignore_index=True)
    temporary = path.with_name(f".{path.name}.tmp")
    predictions.to_parquet(temporary, index=False)
    temporary.replace(path)


def read_metrics(run: Path) -> dict[str, dict[str, float]]:
    """Metrics by split, NaN where undefined; empty if there are none yet."""
    path = run / "metrics.json"
    if not path.exists():
        return {}
    return {
        split: {k: math.nan if v is None else v for k, v in values.items()}
        for split, values in json.loads(path.read_text()).items()
    }


def read_provenance(run: Path) -> dict[str, Any]:
    """Content of ``provenance.json``; empty if there is none yet."""
    path = run / "provenance.json"
    provenance: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return provenance


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; NaN, which JSON does not have, becomes null."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    if isinstance(content, DictConfig):
        return OmegaConf.to_container(content)
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the code, if it is a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # installed inside somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
