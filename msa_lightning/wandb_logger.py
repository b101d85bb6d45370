"""Weights & Biases: one W&B run for every run folder, named and filed after what it holds."""

import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from pytorch_lightning.loggers import WandbLogger

from msa_lightning.config import instantiate
from msa_lightning.errors import ConfigError
from msa_lightning.records import read_metrics, read_provenance

if TYPE_CHECKING:
    from msa_lightning.run import LoadedRun

log = logging.getLogger("msa_lightning")


class RunLogger(WandbLogger):
    """Lightning's W&B logger, with what the run folder says where the config says nothing.

    Args:
        name: By default modalities, loss weights, overrides and seed.
        group: By default the experiment, that is the folder below ``paths.runs``.
        job_type: By default what the command does: train, adapt, transfer.
        tags: Besides the modalities, the model, the data, and whether that is synthetic.
        artifacts: What is stored at the end: ``predictions``; ``run``, the whole folder.
        offline: Write files only; ``wandb sync`` sends them later.
        kwargs: As for Lightning's logger: ``project``, ``entity``, ``id``, ``save_dir``, …
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        artifacts: Sequence[Literal["predictions", "run"]] = (),
        offline: bool = False,
        **kwargs: Any,
    ) -> None:
        if unknown := set(artifacts) - {"predictions", "run"}:
            raise ValueError(f"artifacts: {sorted(unknown)}; expected 'predictions' or 'run'")
        # not Lightning's own `offline`: it sets an environment variable for all later jobs, too
        super().__init__(mode="offline" if offline else None, **kwargs)
        self.given = {"name": name, "group": group, "job_type": job_type}
        self.tags, self.lost = list(tags), False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Tell W&B an epoch's metrics, as long as its own process is there.

        SIGTERM ends that process, and in a SLURM job that is about to be requeued it reaches every
        process. Training goes on; the run folder has what W&B then lacks.
        """
        if self.lost:
            return
        try:
            super().log_metrics(metrics, step)
        except ConnectionError as error:
            self.lost = True
            log.warning("W&B is gone (%s); the rest of this start is in the run folder", error)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Begin the W&B run with the resolved configuration of a run folder.

        Raises:
            ConfigError: If W&B cannot be used as it is set up.
        """
        import wandb

        facts = describe(params)
        facts["tags"] += self.tags
        given = {key: value for key, value in self.given.items() if value}
        settings = self._wandb_init | facts | given
        self._wandb_init = {key: value for key, value in settings.items() if value is not None}
        try:
            super().log_hyperparams(params)
        except wandb.errors.Error as error:
            raise ConfigError(
                f"logger.wandb: {error} Or set logger.wandb.offline=true, and send the files "
                "later with wandb sync"
            ) from error


def describe(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Name, group, job type and tags of a run.

    Args:
        cfg: Resolved configuration, as plain containers; its folder holds a provenance.
    """
    folder, runs = Path(cfg["paths"]["run"]), Path(cfg["paths"]["runs"])
    inside = folder.parts[len(runs.parts) :] if folder.is_relative_to(runs) else ()
    group, *rest = inside if len(inside) > 1 else (folder.parent.name, folder.name)
    stem = re.sub(r"-[0-9a-f]{8}(?=/|$)", "", "/".join(rest)).removeprefix("default-")
    modalities = cfg.get("modalities") or [cfg["modality"]]
    weights = cfg.get("loss", {}).get("weights", {})
    name = [stem]
    if weights and "loss" not in stem:
        name.insert(0, " + ".join(f"{weight:g} {term}" for term, weight in weights.items()))
    if f"modalities-{'_'.join(modalities)}" not in stem:
        name.insert(0, "+".join(modalities))
    provenance = read_provenance(folder)
    tags = [*modalities, Path(provenance["data"]["file"]).stem]
    if "model" in cfg:
        tags.append(cfg["model"]["_target_"].split(".")[-2])  # one file, one model
    if provenance["data"]["synthetic"]:
        tags.append("synthetic")
    return {
        "name": ", ".join(name),
        "group": group,
        "job_type": provenance["command"].removeprefix("msa-"),
        "tags": tags,
    }


def finish(folder: Path, artifacts: Sequence[str], *, failed: bool) -> None:
    """End this process's W&B run, if there is one; otherwise the next job would write into it.

    Args:
        folder: The run folder; its final metrics become the summary, ``valid/corr`` say.
        artifacts: What of it is stored.
        failed: Whether W&B shall show the run as failed.
    """
    import wandb

    run = wandb.run
    try:
        if run and not failed:
            for split, metrics in read_metrics(folder).items():
                run.summary.update({f"{split}/{name}": value for name, value in metrics.items()})
            for kind in artifacts:
                artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind)
                files = _files(folder, kind)
                for path in files:
                    artifact.add_file(str(path), name=str(path.relative_to(folder)))
                if files:
                    run.log_artifact(artifact)
    except ConnectionError as error:
        log.warning("W&B is gone (%s); it lacks the end of %s", error, folder)
    finally:
        try:
            wandb.finish(exit_code=int(failed))
        except ConnectionError:  # without this the next run of this process would not begin
            wandb.run = None
            with contextlib.suppress(ConnectionError):
                wandb.teardown()


def log_evaluation(run: "LoadedRun") -> None:
    """Begin and end a W&B run of its own, of job type evaluate, with a run's test metrics."""
    node = run.cfg.logger.wandb
    logger = instantiate(node, id=f"{node.id}-evaluate", job_type="evaluate")
    failed = True
    try:
        logger.log_hyperparams(OmegaConf.to_container(run.cfg))
        failed = False
    finally:
        finish(run.dir, node.artifacts, failed=failed)


def _files(folder: Path, kind: str) -> list[Path]:
    """What an artifact holds; never W&B's own files."""
    if kind == "predictions":
        return list(folder.glob("predictions.parquet"))  # an adapter has none
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if "wandb" not in path.relative_to(folder).parts]
