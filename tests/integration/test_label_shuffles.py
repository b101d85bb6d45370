"""What the demo says was learnt is what could be learnt: nothing, where labels are shuffled."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msa_lightning.config import instantiate, resolve
from msa_lightning.datasets.demo_clips import draw_clips
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
def clips(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The clips of the demo's raw half, as many as there, as a table of what is said."""
    drawn = draw_clips(seed=0, videos=120, clips_per_video=2)
    rows = [(c.video, c.n, c.label, c.text, c.split, c.n, c.n + 1) for c in drawn]
    return pd.DataFrame(
        rows, columns=["video_id", "clip", "label", "text", "split", "start", "end"]
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's base model, of text alone."""
    folder = tmp_path_factory.mktemp("demo")
    instantiate(
        resolve(configure("prepare", "source=demo", f"paths.prepared={folder}")).source
    ).prepare()
    fixed = ["experiment=demo", "modalities=text", f"paths.prepared={folder}"]
    with run_context(configure("train", *fixed, f"paths.run={folder}/run", *QUIET)) as run:
        train(run)
    return folder / "run"


def said_to_work(clips: pd.DataFrame, base: Path, folder: Path) -> list[str]:
    """The groups that work, by the last lines of a report on every method."""
    folder.mkdir()
    clips.to_csv(folder / "labels.csv", index=False)
    fixed = ["data=mosi_transcripts", "modalities=text", "extractor/text=minilm"]
    fixed += ["data.extraction.workers=0", "extractor.text.device=cpu"]
    fixed += [f"data.source.path={folder}/labels.csv", f"base={base}", "targets=300", *QUIET]
    fixed += [f"paths.{name}={folder.parent / name}" for name in ("prepared", "cache")]
    for method in METHODS:
        place = f"paths.run={folder / 'runs' / method}"
        with run_context(configure("transfer", *fixed, f"method={method}", place)) as run:
            transfer(run)
    runs = collect(str(folder / "runs"), ["test"])
    scores = tables.bootstrap(runs, ["test/mae"], by="video", resamples=1000, seed=0)[:2]
    comparisons, _ = tables.compare(*scores, ["test/mae"], None)
    lines = list(tables.conclusions(comparisons))
    assert len(lines) == 1 + len(METHODS)
    return [line.split()[1].rstrip(":") for line in lines if line.split()[0] == "works"]


@pytest.mark.slow
def test_the_task_loss_works_with_true_labels_and_nothing_works_with_shuffled_ones(
    clips: pd.DataFrame, base: Path, tmp_path: Path
) -> None:
    try:
        find(MINILM)
    except DataNotFoundError as error:
        pytest.skip(str(error))
    true = said_to_work(clips, base, tmp_path / "true")
    assert "task" in true
    assert not {"random", "untrained", "task_shuffled"} & set(true)
    claims = []
    for k in range(SHUFFLES):
        order = np.random.default_rng(k).permutation(len(clips))
        shuffled = clips.assign(label=clips["label"].to_numpy()[order])
        claims.append(said_to_work(shuffled, base, tmp_path / f"shuffled_{k}"))
    assert sum(map(bool, claims)) <= 0.05 * SHUFFLES, claims  # of any method at all
