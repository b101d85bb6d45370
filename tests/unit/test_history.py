"""``history.csv`` goes on after an interruption as if there had been none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msa_lightning.history import HistoryLogger

RNG = np.random.default_rng(0)
LOSSES = RNG.random((6, 2)).tolist()


def train(path: Path, epochs: range) -> None:
    """Log what a run logs: validation and training apart, in the same epoch."""
    logger = HistoryLogger(str(path))
    logger.log_hyperparams({"lr": 1})
    for epoch in epochs:
        logger.log_metrics({"valid/loss": LOSSES[epoch][0], "epoch": epoch}, step=7 * epoch)
        logger.log_metrics({"train/loss": LOSSES[epoch][1], "epoch": epoch}, step=7 * epoch)


def test_one_row_per_epoch(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    train(path, range(6))
    table = pd.read_csv(path)
    assert list(table.columns) == ["epoch", "valid/loss", "train/loss"]
    assert table["epoch"].tolist() == list(range(6))
    assert table[["valid/loss", "train/loss"]].to_numpy().tolist() == LOSSES
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]


@pytest.mark.parametrize("again_from", [3, 2])
def test_interrupted_equals_uninterrupted(tmp_path: Path, again_from: int) -> None:
    """Continued at the next epoch, or at one that had been logged but not saved."""
    train(tmp_path / "whole.csv", range(6))
    path = tmp_path / "history.csv"
    train(path, range(3))
    train(path, range(again_from, 6))
    assert path.read_text() == (tmp_path / "whole.csv").read_text()


def test_epoch_that_is_run_again_replaces_its_row(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    for value in (1.0, 2.0):
        HistoryLogger(str(path)).log_metrics({"valid/loss": value, "epoch": 0})
    assert pd.read_csv(path)["valid/loss"].tolist() == [2.0]


def test_nothing_is_touched_before_something_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,valid/loss\n0,1.5\n")
    logger = HistoryLogger(str(path))
    logger.log_hyperparams({})
    logger.save()
    assert path.read_text() == "epoch,valid/loss\n0,1.5\n"


def test_undefined_values_are_empty_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    HistoryLogger(str(path)).log_metrics({"valid/corr": float("nan"), "mae": 1.0, "epoch": 0})
    HistoryLogger(str(path)).log_metrics({"valid/corr": 0.25, "mae": 2.0, "epoch": 1})
    table = pd.read_csv(path)
    assert np.array_equal(table["valid/corr"], [np.nan, 0.25], equal_nan=True)
    assert table["mae"].tolist() == [1, 2]
