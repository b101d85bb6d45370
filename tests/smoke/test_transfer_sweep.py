"""A grid of transfers as one command: killed in the middle, it goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from msa_lightning.run import LoadedRun, load_run
from tests.data.make_raw import make_raw

from .conftest import environment

METHODS, SEEDS = ("random", "task", "coral"), (0, 1)


def grid(folder: Path, corpus: Path, launcher: Sequence[str]) -> list[str]:
    slow = "+callbacks.diary={_target_:tests.smoke.spy.Diary,path:diary}"
    source = {"folder": corpus, "labels": "labels.csv", "folds": "folds.json"}
    return [
        *(sys.executable, "-m", "msa_lightning.transfer", "-m"),
        *("data=mosi", "modalities=text", "extractor/text=word_vectors"),
        f"extractor.text.path={corpus}/vectors.txt",
        *(f"data.source.{key}={value}" for key, value in source.items()),
        *("data.batch_size=2", "data.extraction.workers=0", "trainer.max_epochs=4", "targets=50"),
        *("+train.data=demo", "+train.model.hidden=8", "+train.trainer.max_epochs=1"),
        *(f"method={','.join(METHODS)}", f"seed={','.join(map(str, SEEDS))}"),
        *(f"paths.runs={folder}", f"paths.cache={folder}.cache", slow, *launcher),
    ]


def finished(folder: Path) -> dict[tuple[str, int], LoadedRun]:
    """The transfer runs that have come to their end, by method and seed."""
    folders = [f for f in folder.glob("mosi/*") if (f / "metrics.json").is_file()]
    return {(run.cfg.method, run.cfg.seed): run for run in map(load_run, folders)}


def modified(run: Path) -> int:
    return (run / "metrics.json").stat().st_mtime_ns


def half_way(folder: Path) -> bool:
    """Whether one job has finished, and another trains an adapter that has a checkpoint."""
    adapters = [
        path.parents[1] for path in folder.glob("mosi/*/adapters/text/checkpoints/last.ckpt")
    ]
    training = [adapter for adapter in adapters if not (adapter / "metrics.json").is_file()]
    return len(training) > 0 and any(folder.glob("mosi/*/metrics.json"))


@pytest.mark.slow
def test_every_pairing_in_one_sweep(prepared: Path, tmp_path: Path) -> None:
    pairings = ("random", "centroid", "label_matched", "paired")
    corpus = make_raw(tmp_path / "raw")
    for k, path in enumerate(sorted(corpus.glob("Raw/Transcript/Segmented/*"))):
        path.write_text(path.read_text().replace("IT", k * "WAS " + "IT"))  # ten different vectors
    source = {"folder": corpus, "labels": "labels.csv", "folds": "folds.json"}
    fixed = ["data=mosi", "modalities=text", "extractor/text=word_vectors"]
    fixed += [f"extractor.text.path={corpus}/vectors.txt", "data.extraction.workers=0"]
    fixed += [f"data.source.{key}={value}" for key, value in source.items()]
    fixed += ["data.batch_size=4", "trainer.max_epochs=2", f"paths.cache={tmp_path / 'cache'}"]

    def msa(name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"msa_lightning.{name}", *arguments]
        there: dict[str, Any] = {"cwd": tmp_path, "env": environment(prepared)}
        subprocess.run(command, **there, check=True, timeout=600)

    msa("train", *fixed, "model.hidden=8", "selection=none", "paths.run=base")
    few = ("base=base", "targets=11", "draws=11")
    msa("transfer", "-m", *fixed, *few, f"pairing={','.join(pairings)}")
    msa("report", "runs=runs/mosi/*", "out=report", "html=false", "metrics=[test/mae]")
    table = pd.read_csv(tmp_path / "report" / "results.csv")
    names = ("Random", "Centroid", "LabelMatched", "Paired")
    assert set(table["group"]) == {f"pairing={name}" for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")])
def test_a_killed_grid_of_transfers_goes_on(
    prepared: Path, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    corpus = make_raw(tmp_path / "raw")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    there: dict[str, Any] = {"cwd": tmp_path, "env": environment(prepared)}
    subprocess.run(grid(whole, corpus, ()), **there, check=True, capture_output=True, timeout=600)
    first = subprocess.Popen(
        grid(cut, corpus, launcher),
        cwd=tmp_path,
        env=environment(prepared) | {"PAUSE_S": "0.3"},  # in each epoch: long enough to be seen
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not half_way(cut):
        assert first.poll() is None
        time.sleep(0.001)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = {run.dir: modified(run.dir) for run in finished(cut).values()}
    assert len(done) < len(METHODS) * len(SEEDS)

    second = subprocess.run(
        grid(cut, corpus, launcher),
        **there,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert second.stdout.count("continuing from") in (1, 2)  # of as many jobs at a time
    assert {folder: modified(folder) for folder in done} == done
    expected, found = finished(whole), finished(cut)
    assert expected.keys() == found.keys()
    assert len(found) == len(METHODS) * len(SEEDS)
    for name, run in expected.items():
        assert found[name].metrics == run.metrics
        assert found[name].predictions.equals(run.predictions)
