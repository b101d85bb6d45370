"""A grid of transfers as one command: killed in the middle, it goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from msa_lightning.run import load_run
from tests.data.make_raw import make_raw

from .conftest import environment

METHODS, SEEDS = ("random", "task", "untrained"), (0, 1)


def grid(folder: Path, corpus: Path) -> list[str]:
    slow = f"+callbacks.marker={{_target_:tests.smoke.spy.Marker,path:'{folder}.marker'}}"
    source = {"folder": corpus, "labels": "labels.csv", "folds": "folds.json"}
    return [
        *(sys.executable, "-m", "msa_lightning.transfer", "-m"),
        *("data=mosi", "modalities=text", "extractor/text=word_vectors"),
        f"extractor.text.path={corpus}/vectors.txt",
        *(f"data.source.{key}={value}" for key, value in source.items()),
        *("data.batch_size=2", "data.extraction.workers=0", "trainer.max_epochs=4"),
        *("+train.data=demo", "+train.model.hidden=8", "+train.trainer.max_epochs=1"),
        *(f"method={','.join(METHODS)}", f"seed={','.join(map(str, SEEDS))}"),
        *(f"paths.runs={folder}", f"paths.cache={folder}.cache", slow),
    ]


def finished(folder: Path) -> dict[str, Path]:
    """The transfer runs that have come to their end, by name."""
    return {f.name: f for f in folder.glob("mosi/*") if (f / "metrics.json").is_file()}


def epochs_of_the_second(folder: Path) -> bool:
    """Whether the adapter of the second job is past its first checkpoint."""
    started = list(folder.glob("mosi/*/adapters/text/checkpoints/last.ckpt"))
    epoch = Path(f"{folder}.marker").read_text()[:1] if started else "0"
    return len(started) == 2 and len(finished(folder)) == 1 and epoch in ("2", "3")


@pytest.mark.slow
def test_a_killed_grid_of_transfers_goes_on(prepared: Path, tmp_path: Path) -> None:
    corpus = make_raw(tmp_path / "raw")
    env = environment(prepared)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(grid(whole, corpus), env=env, check=True, capture_output=True, timeout=600)
    first = subprocess.Popen(
        grid(cut, corpus),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not epochs_of_the_second(cut):
        assert first.poll() is None
        time.sleep(0.001)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    [done] = finished(cut).values()
    written = (done / "metrics.json").stat().st_mtime_ns

    second = subprocess.run(
        grid(cut, corpus), env=env, capture_output=True, text=True, check=True, timeout=600
    )
    assert second.stdout.count("continuing from") == 1
    assert (done / "metrics.json").stat().st_mtime_ns == written
    expected, found = finished(whole), finished(cut)
    assert expected.keys() == found.keys()
    assert len(found) == len(METHODS) * len(SEEDS)
    for name, run in expected.items():
        assert load_run(found[name]).metrics == load_run(run).metrics
        [a, b] = (pd.read_parquet(f / "predictions.parquet") for f in (run, found[name]))
        assert a.equals(b)
