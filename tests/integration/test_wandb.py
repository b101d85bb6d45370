"""What W&B is told, read back from the files it writes offline, is what the run folder says."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer

from msa_lightning import config
from msa_lightning.errors import ConfigError
from msa_lightning.evaluate import evaluate
from msa_lightning.run import load_run
from msa_lightning.train import main as msa_train
from msa_lightning.wandb_logger import describe
from tests.integration.bench import Bench
from tests.integration.wandb_files import OFFLINE, own_folders, told
from tests.integration.wandb_server import serving
from tests.smoke.conftest import environment

from .conftest import Train


class Bomb(Callback):
    """Raise in one epoch, or with one seed."""

    def __init__(self, epoch: int = -1, seed: int = -1) -> None:
        self.epoch, self.seed = epoch, seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch or torch.initial_seed() == self.seed:
            raise RuntimeError("boom")


class EndOfWandb(Callback):
    """End W&B's own process, as SLURM does with every process of a job."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if torch.initial_seed() == self.seed and trainer.current_epoch == 0:
            subprocess.run(["pkill", "-TERM", "-P", str(os.getpid()), "wandb-core"], check=True)
            time.sleep(1)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in own_folders(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def assert_equal(summary: dict[str, Any], metrics: dict[str, dict[str, float]]) -> None:
    for split, values in metrics.items():
        for name, value in values.items():
            assert summary[f"{split}/{name}"] == (None if math.isnan(value) else value)


def test_wandb_is_told_what_the_run_folder_says(train_demo: Train) -> None:
    stored = ("logger.wandb.artifacts=[predictions,run]", "logger.wandb.tags=[mine]")
    run = train_demo("a", *OFFLINE, *stored, "loss.weights.correlation=0.5")
    [wandb] = told(run.dir)
    assert wandb.exit_code == 0

    cfg = OmegaConf.to_container(config.resolve(config.load(run.dir / "config.yaml")))
    assert {key: wandb.config[key] for key in cfg} == cfg  # type: ignore[union-attr]

    assert sorted(wandb.history) == list(run.history.index)
    for epoch, row in run.history.iterrows():
        for name, value in row.items():
            assert wandb.history[epoch][name] == pytest.approx(value, rel=1e-12)

    assert_equal(wandb.summary, run.metrics)

    names = {str(p.relative_to(run.dir)) for p in run.dir.rglob("*") if p.is_file()}
    names = {name for name in names if not name.startswith("wandb/")}
    assert wandb.artifacts == {"run": names, "predictions": {"predictions.parquet"}}

    assert wandb.run.job_type == "train"
    assert {*wandb.run.tags} == {"text", "audio", "visual", "demo", "base", "synthetic", "mine"}
    assert wandb.run.display_name == "text+audio+visual, 0.3 absolute + 0.5 correlation, a"
    assert os.environ.get("WANDB_MODE") is None  # the next job may be online


def test_a_failed_run_has_failed_for_wandb_too(train_demo: Train, tmp_path: Path) -> None:
    bomb = f"+callbacks.bomb={{_target_:{__name__}.Bomb,epoch:1}}"
    with pytest.raises(RuntimeError, match="boom"):
        train_demo("a", *OFFLINE, bomb)
    [wandb] = told(tmp_path / "a")
    assert wandb.exit_code == 1
    assert [*wandb.history] == [0]
    assert not any(name.startswith("test") for name in wandb.summary)


def train_in_a_process(prepared: Path, folder: Path, *overrides: str, code: int = 0) -> None:
    """Train offline, by default one run in ``folder / "a"``, and expect an exit code."""
    quick = ("data=demo", "trainer.max_epochs=3", "model.hidden=8")
    quick += () if "-m" in overrides else (f"paths.run={folder}/a",)
    command = [sys.executable, "-m", "msa_lightning.train", *overrides, *quick, *OFFLINE]
    env = environment(prepared) | own_folders(folder)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=120)
    assert done.returncode == code, done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failed_device_is_a_failed_run_for_wandb(
    prepared: Path, tmp_path: Path, rank: int
) -> None:
    bomb = f"+callbacks.bomb={{_target_:tests.smoke.spy.Bomb,lr:0.001,rank:{rank}}}"
    devices = ("trainer=ddp_cpu", "optimizer.lr=0.001", bomb)
    train_in_a_process(prepared, tmp_path, *devices, code=1)
    [wandb] = told(tmp_path / "a")
    assert wandb.exit_code == 1


@pytest.mark.slow
def test_a_run_goes_on_without_wandb_when_its_process_has_ended(
    prepared: Path, tmp_path: Path
) -> None:
    end = f"+callbacks.end={{_target_:{__name__}.EndOfWandb,seed:0}}"
    train_in_a_process(prepared, tmp_path, "-m", "seed=0,1", end)
    first, second = sorted(tmp_path.glob("runs/demo/*"), key=lambda path: load_run(path).cfg.seed)
    for run in (first, second):
        assert list(load_run(run).history.index) == [0, 1, 2]
    assert "W&B is gone" in (first / "train.log").read_text()
    [wandb] = told(second)
    assert wandb.exit_code == 0
    assert [*wandb.history] == [0, 1, 2]


@pytest.mark.slow
def test_a_requeued_run_goes_on_in_its_wandb_run(
    train_demo: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = f"+callbacks.bomb={{_target_:{__name__}.Bomb,epoch:1}}"
    with pytest.raises(RuntimeError):
        train_demo("a", *OFFLINE, bomb)
    monkeypatch.setattr(Bomb, "on_train_epoch_start", Callback.on_train_epoch_start)
    run = train_demo("a", *OFFLINE, bomb)
    first, second = told(run.dir)
    assert first.run.run_id == second.run.run_id
    assert second.run.resume
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert [*first.history, *second.history] == list(run.history.index)
    train_demo("a", *OFFLINE, bomb)  # finished: nothing to tell
    assert len(told(run.dir)) == 2


@pytest.mark.slow
def test_test_metrics_are_a_wandb_run_of_job_type_evaluate(train_demo: Train) -> None:
    run = train_demo("a", *OFFLINE)
    evaluate(load_run(run.dir), device="cpu", again=False)
    evaluate(load_run(run.dir), device="cpu", again=False)
    trained, evaluated = told(run.dir)
    assert (trained.run.job_type, evaluated.run.job_type) == ("train", "evaluate")
    assert trained.run.run_id != evaluated.run.run_id
    assert trained.run.run_group == evaluated.run.run_group
    assert trained.run.display_name == evaluated.run.display_name
    assert not any(name.startswith("test") for name in trained.summary)
    assert_equal(evaluated.summary, run.metrics)
    assert evaluated.config["model"] == OmegaConf.to_container(run.cfg.model)


def test_without_a_key_wandb_says_how_to_go_on(train_demo: Train) -> None:
    with pytest.raises(ConfigError, match=r"logger\.wandb: .*wandb login.*offline=true"):
        train_demo("a", "logger=wandb")


def test_unknown_artifact_is_refused_before_anything_is_written(
    train_demo: Train, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="predictions"):
        train_demo("a", *OFFLINE, "logger.wandb.artifacts=[weights]")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_every_job_of_a_sweep_is_a_wandb_run_of_its_own(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = f"+callbacks.bomb={{_target_:{__name__}.Bomb,seed:1}}"
    fixed = ("data=demo", "trainer.max_epochs=1", f"paths.prepared={prepared}", *OFFLINE, bomb)
    monkeypatch.setattr("sys.argv", ["msa-train", "-m", *fixed, "modalities=text", "seed=0,1,2"])
    with pytest.raises(SystemExit, match="1"):
        msa_train()
    runs = sorted(tmp_path.glob("runs/demo/*"), key=lambda run: load_seed(run))
    jobs = [told(run) for run in runs]
    assert [len(job) for job in jobs] == [1, 1, 1]
    assert [job[0].exit_code for job in jobs] == [0, 1, 0]
    assert len({job[0].run.run_id for job in jobs}) == 3
    assert {job[0].run.run_group for job in jobs} == {"demo"}
    for seed, [job] in enumerate(jobs):
        assert job.config["seed"] == seed
        assert job.run.display_name.startswith("text, 0.3 absolute + 0.7 correlation, ")
        assert job.run.display_name.endswith(f"-seed{seed}")
        assert [*job.history] == ([] if seed == 1 else [0])


def load_seed(run: Path) -> int:
    return int(config.load(run / "config.yaml").seed)


@pytest.mark.slow
def test_adapters_and_transfers_are_wandb_runs_too(bench: Bench, tmp_path: Path) -> None:
    run = bench.transfer(
        tmp_path / "transfer", *OFFLINE, "logger.wandb.artifacts=[predictions,run]"
    )
    [wandb] = told(run.dir)
    assert (wandb.run.job_type, wandb.exit_code) == ("transfer", 0)
    assert_equal(wandb.summary, run.metrics)
    [adapter] = told(run.dir / "adapters" / "text")
    assert (adapter.run.job_type, adapter.exit_code) == ("adapt", 0)
    history = load_run(run.dir / "adapters" / "text").history
    assert sorted(adapter.history) == list(history.index)
    assert adapter.config["modality"] == "text"
    assert wandb.artifacts.keys() == {"predictions", "run"}
    assert adapter.artifacts.keys() == {"run"}


@pytest.mark.parametrize(
    ("folder", "name", "group"),
    [
        (
            "demo/modalities-text_audio-seed0-0123abcd",
            "1 absolute, modalities-text_audio-seed0",
            "demo",
        ),
        ("demo/default-seed3-0123abcd", "text+audio, 1 absolute, seed3", "demo"),
        (
            "demo/loss.weights.absolute-1_modalities-text_audio-seed0-0123abcd",
            "loss.weights.absolute-1_modalities-text_audio-seed0",
            "demo",
        ),
        (
            "mosi/default-seed0-0123abcd/adapters/text",
            "text+audio, 1 absolute, seed0/adapters/text",
            "mosi",
        ),
        ("../elsewhere/mine", "text+audio, 1 absolute, mine", "elsewhere"),
    ],
)
def test_names_say_modalities_loss_and_seed(
    tmp_path: Path, folder: str, name: str, group: str
) -> None:
    run = Path(os.path.normpath(tmp_path / "runs" / folder))
    run.mkdir(parents=True)
    provenance = {"command": "msa-train", "data": {"file": "demo.h5", "synthetic": False}}
    (run / "provenance.json").write_text(json.dumps(provenance))
    cfg = {
        "paths": {"run": str(run), "runs": str(tmp_path / "runs")},
        "modalities": ["text", "audio"],
        "loss": {"weights": {"absolute": 1.0}},
    }
    facts = describe(cfg)
    assert (facts["name"], facts["group"]) == (name, group)
    assert facts["tags"] == ["text", "audio", "demo"]


@pytest.mark.slow
def test_several_devices_are_one_wandb_run(train_demo: Train) -> None:
    run = train_demo("a", *OFFLINE, "trainer=ddp_cpu")
    [wandb] = told(run.dir)
    assert wandb.exit_code == 0
    assert sorted(wandb.history) == list(run.history.index)
    assert_equal(wandb.summary, run.metrics)


@pytest.mark.slow
def test_online_runs_reach_the_server(prepared: Path, tmp_path: Path) -> None:
    bomb = f"+callbacks.bomb={{_target_:{__name__}.Bomb,seed:1}}"
    fixed = ("data=demo", "model=concat", "trainer.max_epochs=1", "logger=wandb", bomb)
    command = [sys.executable, "-m", "msa_lightning.train", "-m", *fixed, "seed=0,1"]
    with serving() as server:
        online = {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40}
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(prepared) | online,
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 1, done.stderr
    assert "boom" in done.stderr
    assert len(server.runs) == 2
    for name, run in server.runs.items():
        logged = json.loads(run["config"])
        seed = logged["seed"]["value"]
        assert (run["groupName"], run["jobType"]) == ("demo", "train")
        assert run["displayName"].endswith(f"-seed{seed}")
        assert {"concat", "demo", "text"} <= {*run["tags"]}
        assert logged["model"]["value"]["_target_"].endswith("Concatenation")
        assert server.exit_codes[name] == seed
