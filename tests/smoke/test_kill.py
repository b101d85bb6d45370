"""A killed run continues and ends with the weights of an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from .conftest import environment

EPOCHS = 6


def command(run: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "msa_lightning.train", "data=demo", f"paths.run={run}"),
        *("data.batch_size=4", f"trainer.max_epochs={EPOCHS}", "scheduler.patience=0"),
        f"+callbacks.marker={{_target_:tests.smoke.spy.Marker,path:'{run}.marker'}}",
    ]


def position(run: Path) -> tuple[int, int]:
    """Epoch and batch that were trained last; (-1, -1) before the first."""
    try:
        epoch, batch, _ = Path(f"{run}.marker").read_text().split()
    except (FileNotFoundError, ValueError):  # not there, or being written
        return -1, -1
    return int(epoch), int(batch)


@pytest.mark.slow
def test_killed_inside_five_epochs_equals_uninterrupted(prepared: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    env = environment(prepared)
    subprocess.run(command(whole), env=env, check=True, capture_output=True)
    last_batch = position(whole)[1]
    chance = random.Random(0)
    for epoch in range(5):
        moment = epoch, chance.randrange(1, last_batch - 10)
        job = subprocess.Popen(
            command(cut),
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while position(cut) < moment:
            assert job.poll() is None, f"ended before epoch {epoch}"
            time.sleep(0.001)
        os.killpg(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        killed_at = position(cut)
        assert killed_at[0] == epoch
        assert killed_at[1] < last_batch
        last = cut / "checkpoints" / "last.ckpt"
        done = torch.load(last, weights_only=True)["epoch"] + 1 if epoch else 0
        assert done == epoch
    subprocess.run(command(cut), env=env, check=True, capture_output=True)
    for name in ("last", "best"):
        a, b = (
            torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
            for run in (whole, cut)
        )
        assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = (pd.read_csv(run / "history.csv") for run in (whole, cut))
    assert a.equals(b)
