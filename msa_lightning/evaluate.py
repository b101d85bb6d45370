"""``msa-evaluate``: read the test split of finished runs, once."""

import math
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from msa_lightning.config import command
from msa_lightning.errors import ConfigError, DataNotFoundError

if TYPE_CHECKING:
    from msa_lightning.run import LoadedRun


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate a run folder, or every run folder that a pattern matches."""
    import torch

    from msa_lightning.run import load_run, run_folders

    try:
        torch.empty(0, device=cfg.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {cfg.device} is not there ({error})") from error
    folders = run_folders(cfg.run)
    if not folders:
        raise DataNotFoundError(f"{cfg.run}: no run there; give a run folder or a pattern of them")
    for folder in folders:
        run = load_run(folder, {key: str(cfg.paths[key]) for key in ("data", "prepared", "cache")})
        evaluate(run, device=cfg.device, again=cfg.again)


def evaluate(run: "LoadedRun", *, device: str, again: bool) -> dict[str, float]:
    """Score the test split on one device, beside the mean predictor.

    A second call returns what the first one stored.

    Args:
        run: A finished run.
        device: ``cpu``, ``cuda``, …
        again: Read the test split once more, and store that.

    Returns:
        The metrics of the test split.
    """
    from msa_lightning.records import read_metrics, show, store_predictions, write_json
    from msa_lightning.run import log
    from msa_lightning.scoring import mean_predictor, score

    stored = "test" in run.metrics and not again
    if not stored:
        scores, predictions = score(run.module.to(device), run.datamodule, "test")
        baseline = {"test_mean_predictor": mean_predictor(run.objective, run.datamodule, "test")}
        store_predictions(run.dir, "test", predictions)
        write_json(run.dir / "metrics.json", read_metrics(run.dir) | {"test": scores} | baseline)
    metrics = run.metrics
    note = " (stored; again=true reads the test split once more)" if stored else ""
    synthetic = " on synthetic data" if run.provenance["data"]["synthetic"] else ""
    log.info("%s%s%s", run.dir, synthetic, note)
    for name, value in metrics["test"].items():
        baseline_value = metrics["test_mean_predictor"].get(name, math.nan)
        log.info("  test/%-16s %9s   mean predictor %9s", name, show(value), show(baseline_value))
    if not stored and OmegaConf.select(run.cfg, "logger.wandb"):
        from msa_lightning.wandb_logger import log_evaluation

        try:
            log_evaluation(run)
        except ConfigError as error:  # the result itself is in the run folder
            log.warning("%s", error)
    return metrics["test"]


if __name__ == "__main__":
    main()
