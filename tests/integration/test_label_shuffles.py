"""What the demo says was learnt is what could be learnt: nothing, where labels are shuffled."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msa_lightning.config import instantiate, resolve
from msa_lightning.errors import DataNotFoundError
from msa_lightning.extractors.assets import MINILM, find
from msa_lightning.reporting import tables
from msa_lightning.reporting.collect import collect
from msa_lightning.run import run_context
from msa_lightning.train import train
from msa_lightning.transfer import transfer
from tests.integration.configure import configure

METHODS = ("random", "centroid", "label_matched", "coral", "mmd", "sliced_wasserstein", "task")
METHODS += ("task_shuffled", "untrained", "direct")
SHUFFLES = 20
QUIET = ("~callbacks.progress", "+trainer.enable_progress_bar=false")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo corpus, its base model of three modalities, and its raw half."""
    try:
        find(MINILM)
    except DataNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("demo")
    places = [f"paths.prepared={folder}", f"paths.cache={folder}/cache"]
    instantiate(resolve(configure("prepare", "source=demo", *places)).source).prepare()
    fixed = ["experiment=demo", *places, f"paths.run={folder}/run", *QUIET]
    with run_context(configure("train", *fixed)) as run:
        train(run)
    instantiate(resolve(configure("transfer", "data=demo_raw", *places)).data).prepare_data()
    return folder


def said_to_work(demo: Path, name: str, order: np.ndarray) -> list[str]:
    """The groups that work, by the last lines of a report on every method.

    Args:
        demo: Folder of the demo.
        name: Ends the names of the folders made from these labels.
        order: Which clip's label each clip has.
    """
    raw = demo / f"raw_{name}"
    shutil.copytree(demo / "demo_raw", raw, copy_function=os.link)  # the cache knows the media
    clips = pd.read_csv(raw / "labels.csv")
    (raw / "labels.csv").unlink()
    clips.assign(label=clips["label"].to_numpy()[order]).to_csv(raw / "labels.csv", index=False)
    fixed = [f"base={demo}/run", "experiment=demo_transfer", "data.source.make=null", *QUIET]
    fixed += [f"data.source.folder={raw}", f"paths.prepared={demo}", f"paths.cache={demo}/cache"]
    for method in METHODS:
        place = f"paths.run={demo}/runs_{name}/{method}"
        with run_context(configure("transfer", *fixed, f"method={method}", place)) as run:
            transfer(run)
    runs = collect(f"{demo}/runs_{name}", ["test"])
    scores = tables.bootstrap(runs, ["test/mae"], by="video", resamples=1000, seed=0)[:2]
    comparisons, _ = tables.compare(*scores, ["test/mae"], None)
    lines = list(tables.conclusions(comparisons))
    assert len(lines) == 1 + len(METHODS)
    return [line.split()[1].rstrip(":") for line in lines if line.split()[0] == "works"]


@pytest.mark.slow
def test_the_task_loss_works_with_true_labels_and_nothing_works_with_shuffled_ones(
    demo: Path,
) -> None:
    clips = len(pd.read_csv(demo / "demo_raw" / "labels.csv"))
    true = said_to_work(demo, "true", np.arange(clips))
    assert "task" in true
    assert not {"random", "untrained", "task_shuffled"} & set(true)
    claims = []
    for k in range(SHUFFLES):
        order = np.random.default_rng(k).permutation(clips)
        claims.append(said_to_work(demo, f"shuffled_{k}", order))
    assert sum(map(bool, claims)) <= 0.05 * SHUFFLES, claims  # of any method at all
