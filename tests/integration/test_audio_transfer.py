"""The experiment audio_transfer on a small corpus named like RAVDESS: classes, actors, pairs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir

from msa_lightning.adapters.phases import train_base
from msa_lightning.config import CONF, instantiate, resolve
from msa_lightning.datasets.clips import VectorDataset
from msa_lightning.run import LoadedRun, load_run, run_context
from msa_lightning.transfer import transfer
from tests.data.make_ravdess import EMOTIONS, make_features, make_recordings
from tests.integration.configure import configure

pytestmark = pytest.mark.slow

TEST = {f"actor0{a}_0{e}010{s}01" for a in (7, 8) for e in EMOTIONS for s in (1, 2)}
METHODS = ("paired", "label_matched", "task", "oracle", "direct")


class Spied:
    """Runs of the experiment by method, and the clips that gave a gradient to any of them."""

    def __init__(self, folder: Path) -> None:
        make_recordings(folder / "ravdess" / "wav")
        make_features(folder / "ravdess" / "ravdess_au_mfcc.npz")
        places = {"data": folder, "prepared": folder / "prepared", "cache": folder / "cache"}
        self.options = [f"paths.{name}={path}" for name, path in places.items()]
        self.options += [f"paths.runs={folder / 'runs'}"]
        self.folder, self.taught = folder, set[str]()
        source = configure("prepare", "source=ravdess", *self.options)
        instantiate(resolve(source).source).prepare()

    def run(self, method: str) -> LoadedRun:
        fixed = ["experiment=audio_transfer", f"method={method}", "targets=56"]
        fixed += ["+train.trainer.max_epochs=20", "trainer.max_epochs=10"]
        fixed += ["data.extraction.workers=0", f"paths.run={self.folder / method}"]
        quiet = ["~callbacks.progress", "+trainer.enable_progress_bar=false"]
        cfg = configure("transfer", *fixed, *quiet, *self.options)
        with initialize_config_dir(CONF, version_base="1.3"):
            cfg.base = str(train_base(cfg))
        with run_context(cfg) as run:
            transfer(run)
        return load_run(self.folder / method)


@pytest.fixture(scope="module")
def spied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spied]:
    found = Spied(tmp_path_factory.mktemp("ravdess"))
    original = VectorDataset.__getitem__

    def spy(self: VectorDataset, indices: list[int]) -> object:
        batch = original(self, indices)
        if torch.is_grad_enabled():
            found.taught.update(batch.ids)
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorDataset, "__getitem__", spy)
        yield found


@pytest.fixture(scope="module")
def runs(spied: Spied) -> dict[str, LoadedRun]:
    return {method: spied.run(method) for method in METHODS}


def test_actors_of_validation_and_test_teach_nothing(
    spied: Spied, runs: dict[str, LoadedRun]
) -> None:
    actors = {int(clip[5:7]) for clip in spied.taught}
    assert actors == {1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15}
    base = load_run(runs["task"].cfg.base)
    assert {clip[5:7] for clip in base.datamodule.dataset("valid").ids} == {"16"}
    assert "test" not in base.metrics


def test_every_method_is_tested_on_the_same_clips(runs: dict[str, LoadedRun]) -> None:
    for run in runs.values():
        predictions = run.predictions
        test = predictions[predictions["split"] == "test"].set_index("id")
        assert set(test.index) == TEST
        assert (test["label"] + 1 == test.index.str[8:10].astype(int)).all()
        assert test["prediction"].isin(range(8)).all()


def test_the_same_performance_is_a_pair(runs: dict[str, LoadedRun]) -> None:
    adapter = load_run(runs["paired"].dir / "adapters" / "audio")
    assert adapter.metrics["valid"]["r2"] > -1  # undefined where there are no pairs
    oracle, base = runs["oracle"], load_run(runs["oracle"].cfg.base)
    own = base.datamodule.dataset("test")
    seen = oracle.datamodule.dataset("test")
    assert seen.ids == own.ids
    assert torch.equal(seen.features["audio"], own.features["audio"])


def test_the_mean_predictor_says_one_of_the_most_frequent_classes(
    runs: dict[str, LoadedRun],
) -> None:
    scores = runs["paired"].metrics["test_mean_predictor"]
    assert scores["acc"] == pytest.approx(1 / len(EMOTIONS))
    assert scores["f1_macro"] == pytest.approx(0.4 / len(EMOTIONS))  # .4: recall 1, precision 1/4


def test_pitch_that_follows_the_emotion_is_learnt_through_the_frozen_base(
    runs: dict[str, LoadedRun],
) -> None:
    for method in ("task", "direct", "oracle"):
        assert runs[method].metrics["test"]["acc"] > 0.5, method
