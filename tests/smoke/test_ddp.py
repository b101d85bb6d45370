"""Several devices, alone and in sweeps: one process per device, each with the same job."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pytorch_lightning import Trainer

from msa_lightning.ddp import needs_processes, share_equally
from msa_lightning.errors import ConfigError
from msa_lightning.run import load_run

from .conftest import Command, environment

DDP = ("data=demo", "trainer=ddp_cpu", "trainer.max_epochs=2", "model.hidden=32")
SPY = "+callbacks.spy={_target_:tests.smoke.spy.Spy,folder:.,run:'${paths.name}'}"


def trainer(devices: int, nodes: int = 1) -> Trainer:
    return Trainer(accelerator="cpu", devices=devices, num_nodes=nodes, logger=False)


def facts(folder: Path) -> list[dict[str, Any]]:
    """What each process has trained with."""
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def agree(ranks: list[dict[str, Any]]) -> bool:
    """Whether the two devices of one job trained the same weights, settings and run."""
    seen = {tuple(f[key] for key in ("run", "lr", "weights", "world_size")) for f in ranks}
    return sorted(f["rank"] for f in ranks) == [0, 1] and len(seen) == 1


def test_processes_are_started_for_several_devices_that_nobody_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert needs_processes(trainer(2))
    assert not needs_processes(trainer(1))
    monkeypatch.setenv("LOCAL_RANK", "1")  # as torchrun sets it
    assert not needs_processes(trainer(2))


def test_several_machines_need_somebody_who_starts_the_processes() -> None:
    with pytest.raises(ConfigError, match="trainer=slurm"):
        needs_processes(trainer(2, nodes=2))


def test_a_batch_is_shared_out_equally() -> None:
    share_equally(32, trainer(2))
    with pytest.raises(ConfigError, match=r"33 clips .* over 2 devices; take 32"):
        share_equally(33, trainer(2))
    with pytest.raises(ConfigError, match="take 4"):
        share_equally(1, trainer(4))


@pytest.mark.slow
def test_grid(msa: Command, tmp_path: Path) -> None:
    done = msa("train", "-m", *DDP, "optimizer.lr=0.001,0.01", SPY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("32 clips per step: 16 on each of 2 devices") == 2
    found = facts(tmp_path)
    assert len(found) == 4
    for lr in (0.001, 0.01):
        assert agree([f for f in found if f["lr"] == lr])
    runs = list(tmp_path.glob("runs/demo/*"))
    assert {run.name for run in runs} == {f["run"] for f in found}
    for run in runs:
        assert (run / "metrics.json").exists()
        assert json.loads((run / "provenance.json").read_text())["starts"][0]["devices"] == {
            "number": 2,
            "kind": "cpu",
            "precision": "32-true",
        }


@pytest.mark.slow
def test_adaptive_search(msa: Command, tmp_path: Path) -> None:
    if not find_spec("hydra_plugins.hydra_optuna_sweeper"):
        pytest.skip("hydra-optuna-sweeper is not installed (extra sweep)")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")
    space = ("hydra.sweeper.direction=maximize", "optimizer.lr=interval(0.001,0.01)")
    done = msa("train", "-m", *DDP, *search, *space, SPY)
    assert done.returncode == 0, done.stderr
    found = facts(tmp_path)
    runs = {f["run"] for f in found}
    assert len(runs) == 3
    assert all(agree([f for f in found if f["run"] == run]) for run in runs)


@pytest.mark.slow
def test_numbers_of_devices_in_one_sweep(msa: Command, tmp_path: Path) -> None:
    done = msa("train", "-m", *DDP, "trainer.devices=2,1,2", "again=true", SPY)
    assert done.returncode == 0, done.stderr
    found = facts(tmp_path)
    assert Counter((f["world_size"], f["rank"]) for f in found) == {(2, 0): 2, (2, 1): 2, (1, 0): 1}
    assert len({f["weights"] for f in found if f["world_size"] == 2}) == 1  # nothing has leaked
    assert len(list(tmp_path.glob("runs/demo/*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_device_that_fails_fails_its_job_alone(msa: Command, tmp_path: Path, rank: int) -> None:
    bomb = f"+callbacks.bomb={{_target_:tests.smoke.spy.Bomb,lr:0.001,rank:{rank}}}"
    done = msa("train", "-m", *DDP, "optimizer.lr=0.001,0.01", bomb)
    assert done.returncode == 1
    assert f"device {rank} of 2: RuntimeError: boom" in done.stderr
    [finished] = tmp_path.glob("runs/demo/*/metrics.json")
    assert "lr: 0.01\n" in (finished.parent / "config.yaml").read_text()


@pytest.mark.slow
def test_a_device_that_dies_without_a_word(msa: Command) -> None:
    bomb = "+callbacks.bomb={_target_:tests.smoke.spy.Bomb,lr:0.001,rank:1,exit_code:7}"
    done = msa("train", *DDP, "optimizer.lr=0.001", bomb)
    assert done.returncode == 1
    assert "device 1 of 2: exit code 7" in done.stderr


@pytest.mark.slow
def test_joblib(msa: Command, tmp_path: Path) -> None:
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = msa("train", "-m", *DDP, *joblib, "optimizer.lr=0.001,0.01", SPY)
    assert done.returncode == 0, done.stderr
    found = facts(tmp_path)
    assert len(found) == 4
    assert all(agree([f for f in found if f["lr"] == lr]) for lr in (0.001, 0.01))


def torchrun(prepared: Path, cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    port = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return subprocess.run(
        [*command, *port, "-m", "msa_lightning.train", *arguments],
        cwd=cwd,
        env=environment(prepared),
        text=True,
        capture_output=True,
        timeout=200,
    )


@pytest.mark.slow
def test_torchrun(prepared: Path, tmp_path: Path) -> None:
    quick = ("data=demo", "trainer.max_epochs=2", "model.hidden=32", "trainer.devices=2")
    done = torchrun(prepared, tmp_path, *quick, SPY)
    assert done.returncode == 0, done.stderr
    assert agree(facts(tmp_path))
    [run] = tmp_path.glob("runs/demo/*")
    assert (run / "metrics.json").exists()


@pytest.mark.slow
def test_a_sweep_under_torchrun_is_refused(prepared: Path, tmp_path: Path) -> None:
    done = torchrun(prepared, tmp_path, "-m", *DDP, "seed=0,1")
    assert done.returncode == 1  # torchrun's own
    assert "every device would sweep for itself" in done.stderr
    assert not list(tmp_path.glob("runs/[!.]*"))


@pytest.mark.slow
def test_metrics_over_devices_equal_those_of_one(msa: Command, tmp_path: Path) -> None:
    done = msa("train", *DDP, "trainer.devices=3", "data.batch_size=33")
    assert done.returncode == 0, done.stderr
    [folder] = tmp_path.glob("runs/demo/*")
    run = load_run(folder)
    clips = run.predictions.query("split == 'valid'")["id"].nunique()
    assert clips % 3  # the devices' parts are not equally large
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    over_devices = run.history.loc[best]
    names = [name for name in run.metrics["valid"] if f"valid/{name}" in over_devices]
    assert {"mae", "corr"} <= set(names)
    for name in names:
        if name.startswith("loss"):
            continue  # the loss in the correlation depends on which clips come together
        one, several = run.metrics["valid"][name], over_devices[f"valid/{name}"]
        assert math.isclose(one, several, rel_tol=0, abs_tol=1e-6) or (
            math.isnan(one) and math.isnan(several)
        ), name
    done = msa("evaluate", f"run={folder}")
    assert done.returncode == 0, done.stderr
    test = pd.read_parquet(folder / "predictions.parquet").query("split == 'test'")
    assert len(test) == test["id"].nunique() > 0  # nothing twice, as padding would


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(prepared: Path, tmp_path: Path) -> None:
    """Only the command itself is killed: its devices end, and do not write on."""

    def command(name: str) -> list[str]:
        diary = f"{{_target_:tests.smoke.spy.Diary,path:{name}.diary}}"
        return [
            *(sys.executable, "-m", "msa_lightning.train", *DDP, f"paths.run={name}"),
            *("trainer.max_epochs=6", f"+callbacks.diary={diary}"),
        ]

    def diary(name: str) -> list[list[int]]:
        path = tmp_path / f"{name}.diary"
        lines = path.read_text().splitlines() if path.exists() else []
        return [[int(word) for word in line.split()] for line in lines]

    def alive(pid: int) -> bool:
        return Path(f"/proc/{pid}/cmdline").exists() and bool(
            Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    where: dict[str, Any] = {"cwd": tmp_path, "env": environment(prepared)}
    subprocess.run(command("whole"), **where, check=True, capture_output=True, timeout=200)
    slow: dict[str, Any] = where | {"env": where["env"] | {"PAUSE_S": "0.3"}}
    job = subprocess.Popen(
        command("cut"), **slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 100
    while not any(epoch == 3 for epoch, *_ in diary("cut")):
        assert job.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    devices = {pid for _, _, pid, _ in diary("cut")}
    assert len(devices) == 2
    until = time.monotonic() + 20
    while any(alive(pid) for pid in devices):
        assert time.monotonic() < until, "the devices outlive the command"
        time.sleep(0.05)
    done = subprocess.run(command("cut"), **where, capture_output=True, timeout=200, text=True)
    assert done.returncode == 0, done.stderr
    assert "continuing from" in done.stdout
    weights = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    histories = [pd.read_csv(tmp_path / name / "history.csv") for name in ("whole", "cut")]
    assert histories[0].equals(histories[1])
