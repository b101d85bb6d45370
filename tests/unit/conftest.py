"""Fabricated run folders, in the true layout, and commands run in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from msa_lightning import config, metrics
from msa_lightning.records import write_json

MakeRun = Callable[..., Path]
Run = Callable[..., int]


@pytest.fixture
def make_run(tmp_path: Path, configure: Callable[..., DictConfig]) -> MakeRun:
    """Write a finished run: ``make_run("name", "modalities=text", seed=1, noise=0.5)``.

    120 test clips of 40 videos and 60 training clips, whose labels are those of every other run;
    predictions are the labels plus noise.
    """

    def make(
        name: str, *overrides: str, seed: int = 0, noise: float = 1.0, synthetic: bool = False
    ) -> Path:
        folder = tmp_path / "runs" / name
        cfg = configure("train", "data=mosi_utterance", *overrides)
        cfg.seed, cfg.paths.run, cfg.paths.runs = seed, str(folder), str(folder.parent)
        folder.mkdir(parents=True)
        config.save(config.resolve_but_paths(cfg), folder / "config.yaml", "msa-train")
        provenance = {
            "git": {"commit": "c0ffee", "dirty": False},
            "data": {"file": "mosi_utterance.npz", "digest": "d1", "synthetic": synthetic},
        }
        write_json(folder / "provenance.json", provenance)
        labels = np.random.default_rng(0).uniform(-3, 3, 180).astype(np.float32)
        error = np.random.default_rng(seed + 1).normal(0, noise, 180).astype(np.float32)
        frame = pd.DataFrame(
            {
                "split": ["test"] * 120 + ["train"] * 60,
                "id": [f"video_{i // 3}_{i % 3}" for i in range(180)],
                "target": "sentiment",
                "component": 0,
                "label": labels,
                "prediction": labels + error,
            }
        )
        frame.to_parquet(folder / "predictions.parquet", index=False)
        names = list(cfg.objective.metrics.sentiment)
        test, train = (frame[frame["split"] == split] for split in ("test", "train"))
        constant = test.assign(prediction=train["label"].mean())
        scored = {"train": train, "test": test, "test_mean_predictor": constant}
        write_json(folder / "metrics.json", {s: _metrics(names, f) for s, f in scored.items()})
        return folder

    return make


def _metrics(names: list[str], frame: pd.DataFrame) -> dict[str, float]:
    p, y = (torch.tensor(frame[c].to_numpy(np.float32)) for c in ("prediction", "label"))
    return {"loss": 0.5} | {name: float(getattr(metrics, name)(p, y)) for name in names}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a function as a console script; return the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[DictConfig], Any], *arguments: str, name: str = "evaluate") -> int:
        monkeypatch.setattr(sys, "argv", ["msa", *arguments])
        try:
            config.command(name)(main)()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run
