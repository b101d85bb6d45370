"""Sweeps as processes: they share the cores, survive being killed, and do not grow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pandas as pd
import pytest

from .conftest import Command, environment

TINY = ("data=demo", "model=concat", "trainer.max_epochs=1")
MEMORY = "+callbacks.memory={_target_:tests.smoke.memory.Memory,path:memory.txt}"


@pytest.mark.slow
def test_parallel_jobs_share_the_cores(prepared: Path, tmp_path: Path) -> None:
    spy = "+callbacks.spy={_target_:tests.smoke.spy.Spy,folder:spy,run:'${paths.name}'}"
    (tmp_path / "spy").mkdir()
    free = environment(prepared)
    del free["OMP_NUM_THREADS"]
    command = [sys.executable, "-m", "msa_lightning.train", "-m", *TINY, spy]
    command += ["hydra/launcher=joblib", f"seed=range({3 * joblib.cpu_count()})"]
    done = subprocess.run(
        command, cwd=tmp_path, env=free, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    runs = list(tmp_path.glob("runs/demo/*/provenance.json"))
    assert len(runs) == 3 * joblib.cpu_count()
    threads = {json.loads(path.read_text())["machine"]["threads"] for path in runs}
    processes = {path.stem.split("-")[-1] for path in (tmp_path / "spy").iterdir()}
    assert len(processes) * max(threads) <= joblib.cpu_count()


@pytest.mark.slow
def test_jobs_of_the_local_launcher_of_submitit(msa: Command, tmp_path: Path) -> None:
    done = msa("train", "-m", *TINY, "seed=0,1", "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/demo/*/metrics.json"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_fifty_jobs_in_one_process_hold_no_more_memory_than_ten(
    msa: Command, tmp_path: Path
) -> None:
    done = msa("train", "-m", *TINY, "seed=range(50)", MEMORY)
    assert done.returncode == 0, done.stderr
    held = [float(line) for line in (tmp_path / "memory.txt").read_text().split()]
    assert len(held) == 50
    assert held[49] - held[9] < 5  # MiB; configurations that were kept would be 9


def sweep(folder: Path) -> list[str]:
    slow = f"+callbacks.marker={{_target_:tests.smoke.spy.Marker,path:'{folder}.marker'}}"
    command = [sys.executable, "-m", "msa_lightning.train", "-m", "data=demo", "model=concat"]
    fixed = ["data.batch_size=8", "trainer.max_epochs=4", f"paths.runs={folder}", slow]
    return [*command, *fixed, "seed=0,1,2"]


def checkpoints(folder: Path, seed: int) -> list[Path]:
    return list(folder.glob(f"demo/*-seed{seed}-*/checkpoints/last.ckpt"))


@pytest.mark.slow
def test_killed_sweep_goes_on(prepared: Path, tmp_path: Path) -> None:
    env = environment(prepared)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(sweep(whole), env=env, check=True, capture_output=True, timeout=300)
    first = subprocess.Popen(
        sweep(cut),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    marker = Path(f"{cut}.marker")
    while not (checkpoints(cut, seed=1) and marker.read_text().startswith("1 ")):  # second epoch
        assert first.poll() is None
        time.sleep(0.001)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert len(list(cut.glob("demo/*/metrics.json"))) == 1
    assert not checkpoints(cut, seed=2)

    second = subprocess.run(
        sweep(cut), env=env, capture_output=True, text=True, check=True, timeout=300
    )
    assert second.stdout.count("finished before") == 1
    assert second.stdout.count("continuing from") == 1
    for seed in (0, 1, 2):
        [a], [b] = (folder.glob(f"demo/*-seed{seed}-*") for folder in (whole, cut))
        assert (a / "metrics.json").read_text() == (b / "metrics.json").read_text()
        histories = (pd.read_csv(run / "history.csv") for run in (a, b))
        assert next(histories).equals(next(histories))
