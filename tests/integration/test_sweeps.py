"""Sweeps: what they choose, what they go on after, and what they say about jobs that failed."""

import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Callback, LightningModule, Trainer

from msa_lightning import config
from msa_lightning.config import CONF
from msa_lightning.errors import ConfigError
from msa_lightning.reporting.collect import collect
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.sweep import Failed
from msa_lightning.train import train

from .conftest import Train

SWEEPS = sorted(path.stem for path in (Path(CONF) / "sweep").glob("*.yaml"))
FOR = {"task_weights": ["objective=multi_task", "loss=multi_task"]}  # a sweep for one objective
FEW = {"optuna": ("hydra.sweeper.n_trials=4",)}
QUICK = ("data=demo", "model=concat", "trainer.max_epochs=2")

Script = Callable[..., int]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    """Run a function as ``msa-train`` would be, in ``tmp_path``; return the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(main: Callable[[DictConfig], Any], *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["msa-train", *arguments])
        try:
            config.command("train")(main)()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def learn(cfg: DictConfig) -> float:
    """What msa-train does."""
    with run_context(cfg) as run:
        return train(run)


def runs(folder: Path) -> dict[str, LoadedRun]:
    return {path.name: load_run(path) for path in sorted(folder.glob("demo/*"))}


def result_of_search(folder: Path) -> Any:
    [path] = folder.glob(".hydra/*/optimization_results.yaml")
    return OmegaConf.to_container(OmegaConf.load(path))


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_needs_no_further_option(name: str) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("train", [f"sweep={name}"], return_hydra_config=True)
        plain = compose("train", FOR.get(name, []))
    assert cfg.hydra.mode is RunMode.MULTIRUN
    assert all(OmegaConf.select(cfg, key) is not None for key in cfg.hydra.sweeper.params)
    with open_dict(cfg):
        del cfg["hydra"]
    assert config.fingerprint(cfg) == config.fingerprint(plain)


@pytest.fixture(scope="module")
def poisoned(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo corpus without a single label in its test split."""
    folder = tmp_path_factory.mktemp("poisoned")
    shutil.copy(prepared / "demo.h5", folder)
    with h5py.File(folder / "demo.h5", "r+") as file:
        test = np.flatnonzero(file["split"].asstr()[:] == "test")
        assert len(test) > 10
        for target in file["targets"].values():
            values = target[:]
            values[test] = np.nan
            target[:] = values
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_no_sweep_looks_at_the_labels_of_the_test_split(
    script: Script, prepared: Path, poisoned: Path, tmp_path: Path, name: str
) -> None:
    few = FEW.get(name, ())
    for source in (prepared, poisoned):
        places = (f"paths.prepared={source}", f"paths.runs={tmp_path / source.name}")
        assert script(learn, f"sweep={name}", *QUICK, *places, *few) == 0
    clean, blind = runs(tmp_path / prepared.name), runs(tmp_path / poisoned.name)
    assert clean.keys() == blind.keys()
    assert len(clean) > 3
    for run, other in zip(clean.values(), blind.values(), strict=True):
        assert run.metrics == other.metrics
        assert run.history.equals(other.history)
        a, b = run.module.state_dict(), other.module.state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)
    if name == "optuna":
        found, same = (result_of_search(tmp_path / p.name) for p in (prepared, poisoned))
        assert found == same
        assert found["best_value"] == max(run.metrics["valid"]["corr"] for run in clean.values())


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_stopped(
    script: Script, prepared: Path, tmp_path: Path
) -> None:
    trained: list[str] = []

    def main(cfg: DictConfig) -> float:
        before = set(tmp_path.glob("runs/demo/*/metrics.json"))
        value = learn(cfg)
        trained.extend(
            p.parent.name for p in set(tmp_path.glob("runs/demo/*/metrics.json")) - before
        )
        if len(trained) == 2 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return value

    stopped: list[bool] = []
    search = ("sweep=optuna", *QUICK, f"paths.prepared={prepared}", "hydra.sweeper.n_trials=4")
    assert script(main, *search) == 130
    assert len(trained) == 2
    assert script(main, *search) == 0
    assert len(trained) == len(set(trained)) == 4
    scores = [run.metrics["valid"]["corr"] for run in runs(tmp_path / "runs").values()]
    assert result_of_search(tmp_path / "runs")["best_value"] == max(scores)


def fail(cfg: DictConfig) -> float:
    """One way to fail for every seed but 0."""
    if cfg.seed == 1:
        raise ConfigError("seed: 1 is not wanted\nhere")
    if cfg.seed == 2:
        raise _OddError("a", "b")
    if cfg.seed == 3:
        return math.nan
    if cfg.seed == 9:
        os._exit(1)
    return float(cfg.seed)


class _OddError(Exception):
    """Cannot be sent from one process to another."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


LAUNCHERS = [
    pytest.param((), id="grid"),
    pytest.param(("hydra/launcher=joblib",), id="joblib", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_failed_jobs_are_listed_with_their_reasons(
    script: Script,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    launcher: tuple[str, ...],
) -> None:
    assert script(fail, "-m", "seed=0,1,2,3", f"paths.runs={tmp_path}", *launcher) == 1
    listing = capfd.readouterr().err.split("\n\n")[-1]
    assert listing.splitlines() == [
        "2 of 4 jobs failed:",
        "  #1  seed=1",
        "      seed: 1 is not wanted",
        "      here",
        "  #2  seed=2",
        "      _OddError: a and b",
        "The same command runs them again, and skips what has finished.",
    ]


@pytest.mark.slow
def test_a_report_lists_jobs_that_failed_before_they_had_a_folder(
    script: Script, prepared: Path, tmp_path: Path
) -> None:
    def main(cfg: DictConfig) -> float:
        return fail(cfg) if cfg.seed == 1 else learn(cfg)

    sweep = ("-m", "seed=0,1", *QUICK, f"paths.prepared={prepared}")
    assert script(main, *sweep) == 2
    for pattern in ("runs", "runs/demo", "runs/demo/*", f"{tmp_path}/runs/*"):
        [(folder, reason)] = collect(pattern).left_out.items()
        assert folder.name.startswith("model-concat_trainer.max_epochs-2-seed1-")
        assert reason == "seed: 1 is not wanted here"
    assert not collect("runs/demo/*seed0*").left_out
    assert script(learn, *sweep) == 0
    assert not collect("runs").left_out


def test_the_process_of_a_job_that_fails_first_says_why(
    script: Script, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever becomes of the first process, which lost touch with another or has returned."""

    def main(cfg: DictConfig) -> float:
        folder = Path(HydraConfig.get().runtime.output_dir)
        Failed(cfg.seed, [f"seed={cfg.seed}"], "out of memory", code=1).write(folder)
        return fail(cfg)  # seed 2 fails here too

    assert script(main, "-m", "seed=0,2") == 1
    listing = capfd.readouterr().err.split("\n\n")[-1]
    assert listing.splitlines()[:-1] == [
        "2 of 2 jobs failed:",
        *("  #0  seed=0", "      out of memory", "  #2  seed=2", "      out of memory"),
    ]


@pytest.mark.slow
def test_exit_code_is_2_where_all_failures_are_the_users(script: Script) -> None:
    assert script(fail, "-m", "seed=0,1") == 2
    assert script(fail, "-m", "seed=0,2") == 1
    assert script(fail, "-m", "seed=0,3") == 0
    assert script(fail, "seed=1") == 2


def test_an_unexpected_error_of_a_job_shows_where_it_came_from(
    script: Script, capfd: pytest.CaptureFixture[str]
) -> None:
    script(fail, "-m", "seed=2")
    error = capfd.readouterr().err
    assert error.count("Traceback") == 1
    assert 'raise _OddError("a", "b")' in error


@pytest.mark.slow
def test_a_search_goes_on_after_failures_and_undefined_scores(
    script: Script, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seeds: list[int] = []

    def main(cfg: DictConfig) -> float:
        seeds.append(cfg.seed)
        return fail(cfg)

    search = ("sweep=optuna", "hydra.sweeper.n_trials=8", "seed=choice(0,1,2,3,4)")
    assert script(main, *search) == 1
    assert len(seeds) == 8
    assert {1, 3} < {*seeds}
    said = capfd.readouterr().err
    assert "seed: 1 is not wanted" in said
    assert f"{seeds.count(1) + seeds.count(2)} of 8 jobs failed:" in said
    scores = [seed for seed in seeds if seed in (0, 4)]
    assert result_of_search(tmp_path / "runs")["best_value"] == max(scores)


@pytest.mark.slow
def test_a_search_follows_the_direction_of_the_objective(script: Script, tmp_path: Path) -> None:
    search = ("sweep=optuna", "hydra.sweeper.n_trials=8", "seed=choice(0,4,5)")
    assert script(fail, *search, "objective.monitor=mae", "objective.mode=min") == 0
    assert result_of_search(tmp_path / "runs")["best_params"]["seed"] == 0


@pytest.mark.slow
def test_a_job_that_was_killed_is_listed(
    script: Script, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    joblib = ("hydra/launcher=joblib", f"paths.runs={tmp_path}")
    assert script(fail, "-m", "seed=9", "data=demo,mosei", *joblib) == 1
    listing = capfd.readouterr().err.split("\n\n")[-1]
    assert "#0  data=demo\n      no result: killed, or still running" in listing


def test_a_search_makes_short_names(script: Script) -> None:
    names: list[str] = []
    search = ("sweep=optuna", "hydra.sweeper.n_trials=1")
    assert script(lambda cfg: names.append(config.run_name(cfg)), *search) == 1  # no result
    assert re.fullmatch(
        r"mosei/data\.batch_size-\d+_optimizer\.lr-[\d.e-]{3,8}_optimizer\.weight_decay-[\d.e-]{3,8}"
        r"-seed0-[0-9a-f]{8}",
        names[0],
    ), names


class Bomb(Callback):
    """Raise in the second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("boom")


def test_the_log_of_a_failed_run_says_why(train_demo: Train, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train_demo("a", f"+callbacks.bomb._target_={__name__}.Bomb")
    said = (tmp_path / "a" / "train.log").read_text()
    assert said.endswith("RuntimeError: boom\n")
    assert "ERROR failed\nTraceback" in said
