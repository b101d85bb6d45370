"""Jobs on a real SLURM of two nodes on this host: whatever stops one, it goes on where it was."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.integration.wandb_files import OFFLINE, own_folders, told

from .conftest import call, environment

SCRIPTS = Path(__file__).parent / "slurm"
PATH = f"{os.environ['PATH']}:/usr/sbin"  # where Debian has the daemons
TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
EPOCHS = 10
PAUSE_S = "1"  # in each epoch, so that there is time to interrupt
LIMIT_S = 240
ON_CPUS = (
    *("trainer=slurm", "trainer.accelerator=cpu", "hydra.launcher.gpus_per_node=null"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']"),
)
QUICK = ("data=demo", "model.hidden=32", f"trainer.max_epochs={EPOCHS}")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.xdist_group("slurm"),  # one after the other, on one cluster
    pytest.mark.skipif(
        any(shutil.which(tool, path=PATH) is None for tool in TOOLS),
        reason="no SLURM here; Debian: apt-get install --no-install-recommends slurm-wlm munge",
    ),
]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration file of a running cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = str(20_000 + port % 1000 * 10)  # below the ports that processes get at random
    try:
        subprocess.run([SCRIPTS / "up.sh", folder, base], check=True, timeout=60)
        yield folder / "slurm.conf"
    finally:
        subprocess.run([SCRIPTS / "down.sh", folder], check=True, timeout=60)


class Cluster:
    """Commands of one test, in its folder."""

    def __init__(self, conf: Path, prepared: Path, folder: Path) -> None:
        self.folder, self.log = folder, conf.parent / "log"
        self.env = (
            environment(prepared)
            | own_folders(folder)
            | {
                "SLURM_CONF": str(conf),
                "PATH": PATH,
                "PAUSE_S": PAUSE_S,
            }
        )
        self.launched: list[subprocess.Popen[str]] = []

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, timeout=60, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def launch(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start ``msa-train -m``, which submits jobs and waits for them."""
        command = [sys.executable, "-m", "msa_lightning.train", "-m", *QUICK, *ON_CPUS, *arguments]
        where: dict[str, Any] = {"cwd": self.folder, "env": self.env, "text": True}
        process = subprocess.Popen(
            command, **where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.launched.append(process)
        return process

    def train(self, *arguments: str) -> str:
        """The same, to the end."""
        return ended(self.launch(*arguments))

    def jobs(self) -> dict[str, str]:
        """State of each job that is not over."""
        return dict(line.split() for line in self("squeue", "-h", "-o", "%i %T").splitlines())

    def watch(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < until, f"never {what}: {self.jobs()}\n{self.printed()}"
            time.sleep(0.1)

    def printed(self) -> str:
        files = sorted(self.folder.rglob("*.err")) + sorted(self.folder.rglob("*.out"))
        return "\n".join(f"{path}\n{path.read_text()}" for path in files)

    def close(self) -> None:
        for process in self.launched:
            process.kill()
            process.communicate()
        self("scancel", "--full", "--signal=KILL", "--user", self("id", "-un"))
        self("scancel", "--user", self("id", "-un"))
        self.watch(lambda: not self.jobs(), "empty")


@pytest.fixture
def cluster(conf: Path, prepared: Path, tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(conf, prepared, tmp_path)
    yield started
    started.close()


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    printed, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, printed
    return printed


def slowly(run: str) -> list[str]:
    """Settings for a run that can be watched."""
    return [
        f"paths.run={run}",
        f"+callbacks.diary={{_target_:tests.smoke.spy.Diary,path:{run}.diary}}",
    ]


def diary(run: Path) -> list[list[int]]:
    """Epoch, rank, process and restart at the beginning of each epoch."""
    path = run.with_name(f"{run.name}.diary")
    lines = path.read_text().splitlines() if path.exists() else []
    return [[int(word) for word in line.split()] for line in lines]


def reached(run: Path, epoch: int) -> bool:
    return any(row[0] >= epoch for row in diary(run))


def assert_continued(run: Path, restarts: Sequence[int]) -> None:
    """Every start went on after the last complete epoch of the one before, and history is whole."""
    begun = {
        restart: [epoch for epoch, rank, _, r in diary(run) if rank == 0 and r == restart]
        for restart in restarts
    }
    assert [min(begun[0]), max(begun[restarts[-1]])] == [0, EPOCHS - 1]
    for before, after in pairwise(restarts):
        assert begun[after][0] - begun[before][-1] in (0, 1)
    assert begun[restarts[-1]][0] > 0
    assert (run / "metrics.json").exists()
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == list(range(EPOCHS))
    assert not history["valid/loss"].isna().any()
    starts = json.loads((run / "provenance.json").read_text())["starts"]
    assert len(starts) == len(restarts)


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(state, dict)
    return state


def test_a_sweep_is_an_array_of_jobs(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    """And its runs are those of the same sweep on this machine."""
    spy = "+callbacks.spy={_target_:tests.smoke.spy.Spy,folder:.,run:'seed${seed}'}"
    sweep = ("seed=0,1", "trainer.max_epochs=2", spy)
    process = cluster.launch("trainer.devices=2", *sweep)
    cluster.watch(lambda: any("_" in job for job in cluster.jobs()), "an array")
    ended(process)
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(facts) == 4
    for seed in ("seed0", "seed1"):
        first, second = sorted((f for f in facts if f["run"] == seed), key=lambda f: f["rank"])
        assert (first["rank"], second["rank"], first["world_size"]) == (0, 1, 2)
        assert first["weights"] == second["weights"]
    assert len(list(tmp_path.glob("runs/demo/*/metrics.json"))) == 2
    here = call("train", "-m", *QUICK, *sweep, cwd=tmp_path, prepared=prepared)
    assert here.stdout.count("finished before") == 2, here.stderr


def test_a_task_of_an_array_is_requeued_alone(cluster: Cluster, tmp_path: Path) -> None:
    diaries = "+callbacks.diary={_target_:tests.smoke.spy.Diary,path:'run${seed}.diary'}"
    process = cluster.launch("seed=0,1", "paths.run=run${seed}", diaries)
    runs = [tmp_path / "run0", tmp_path / "run1"]
    cluster.watch(lambda: all(reached(run, 2) for run in runs), "in epoch 2")
    first, second = sorted(cluster.jobs())
    assert (first.split("_")[1], second.split("_")[1]) == ("0", "1")
    cluster("scancel", "--signal=USR1", first)
    ended(process)
    assert_continued(runs[0], [0, 1])
    assert {restart for *_, restart in diary(runs[1])} == {0}
    assert (runs[1] / "metrics.json").exists()


def test_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    spy = "+callbacks.spy={_target_:tests.smoke.spy.Spy,folder:.,run:x}"
    cluster.train("trainer.num_nodes=2", "trainer.max_epochs=2", spy)
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(f["rank"] for f in facts) == [0, 1]
    assert facts[0]["weights"] == facts[1]["weights"]
    assert facts[0]["world_size"] == 2


@pytest.mark.parametrize("grace_s", [0, 4])
def test_preempted(cluster: Cluster, prepared: Path, tmp_path: Path, grace_s: int) -> None:
    cluster("scontrol", "update", "PartitionName=low", f"GraceTime={grace_s}")
    cluster.env["PAUSE_S"] = "4" if grace_s else "2"  # or what is left could be done in the grace
    run = tmp_path / "run"
    process = cluster.launch("trainer.devices=2", *slowly("run"))
    cluster.watch(lambda: reached(run, 2), "in epoch 2")
    cluster("sbatch", "-p", "high", "-N2", "--exclusive", "--wrap", "sleep 2")
    ended(process)
    assert_continued(run, [0, 1])
    assert "SIGTERM: going on" in (run / "train.log").read_text()
    if grace_s == 0:
        there = ("trainer=ddp_cpu", "paths.run=whole")
        done = call("train", *QUICK, *there, cwd=tmp_path, prepared=prepared)
        assert done.returncode == 0, done.stderr
        whole, cut = last_weights(tmp_path / "whole"), last_weights(run)
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    """SLURM looks at the clock every 30 s: the warning comes up to that much early."""
    run = tmp_path / "run"
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=1")
    cluster.env["PAUSE_S"] = "8"
    cluster.train(*limit, *OFFLINE, *slowly("run"))
    restarts = sorted({restart for *_, restart in diary(run)})
    assert len(restarts) > 1
    assert_continued(run, restarts)
    wandb = told(run)
    assert len(wandb) == len(restarts)
    assert len({start.run.run_id for start in wandb}) == 1
    assert wandb[-1].exit_code == 0
    epochs = [epoch for start in wandb for epoch in start.history]
    assert epochs == sorted(set(epochs))
    assert EPOCHS - 1 in epochs  # some before it are lost: SIGTERM ends W&B's process, too


def test_usr1_in_a_job_of_ones_own(cluster: Cluster, tmp_path: Path) -> None:
    """As docs/cluster.md has it: sbatch, srun, two nodes. ``again`` is not for the second start."""
    run = tmp_path / "run"
    cluster.env["PAUSE_S"] = "8"  # more in all than the time limit of a minute
    train = [sys.executable, "-m", "msa_lightning.train", *QUICK, *ON_CPUS[:2], *slowly("run")]
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --nodes=2 --ntasks-per-node=1 --requeue\n"
        "#SBATCH --time=1 --signal=USR1@10\n"
        "#SBATCH --output=job.out --open-mode=append\nexport MASTER_ADDR=127.0.0.1\n"
        f"srun {shlex.join(train)} trainer.num_nodes=2 again=true\n"
    )
    cluster("sbatch", str(script))
    cluster.watch(lambda: (run / "metrics.json").exists(), "finished")
    restarts = sorted({restart for *_, restart in diary(run)})
    assert len(restarts) > 1
    assert_continued(run, restarts)
    assert "USR1: requeueing" in (run / "train.log").read_text()


def test_failed_node(cluster: Cluster, conf: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = cluster.launch(*slowly("run"))
    cluster.watch(lambda: reached(run, 2), "in epoch 2")
    node = cluster("squeue", "-h", "-o", "%N")
    daemon = int((conf.parent / f"slurmd-{node}.pid").read_text())
    [[*_, task, _]] = diary(run)[-1:]
    parents = {daemon, task}
    pid = task
    while (pid := int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])) > 1:
        parents.add(pid)
    for pid in parents:
        os.kill(pid, signal.SIGKILL)
    try:
        ended(process)
    finally:
        cluster("slurmd", "-N", node)
    assert_continued(run, [0, 1])


def test_killed_and_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = cluster.launch(*slowly("run"))
    cluster.watch(lambda: reached(run, 2), "in epoch 2")
    [job] = cluster.jobs()
    cluster("scancel", "--signal=KILL", "--full", job)
    cluster.watch(lambda: not cluster.jobs(), "gone")
    process.kill()  # without accounting it would wait for ever
    done = len(diary(run))
    cluster.train(*slowly("run"))
    epochs = [epoch for epoch, *_ in diary(run)]
    assert epochs[done] - epochs[done - 1] in (0, 1)
    assert epochs[-1] == EPOCHS - 1
    assert pd.read_csv(run / "history.csv")["epoch"].tolist() == list(range(EPOCHS))


def test_a_device_that_fails_fails_its_job_alone(cluster: Cluster, tmp_path: Path) -> None:
    bomb = "+callbacks.bomb={_target_:tests.smoke.spy.Bomb,lr:0.001,rank:1}"
    sweep = ("trainer.devices=2", "trainer.max_epochs=2", "optimizer.lr=0.001,0.01")
    printed = ended(cluster.launch(*sweep, bomb), code=1)
    assert "1 of 2 jobs failed" in printed
    [finished] = tmp_path.glob("runs/demo/*/metrics.json")
    assert "lr: 0.01\n" in (finished.parent / "config.yaml").read_text()
