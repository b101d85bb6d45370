import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from msa_lightning.datasets.csd import ComputationalSequence
from msa_lightning.datasets.demo import make_demo
from msa_lightning.datasets.hdf5 import read_features, read_table
from msa_lightning.datasets.labels import LabelColumns
from msa_lightning.errors import ConfigError
from tests.data.make_data import EMOTIONS, TARGETS, csd_source

FILES = {
    "text": "CMU_MOSEI_TimestampedWordVectors.csd",
    "audio": "CMU_MOSEI_COVAREP.csd",
    "visual": "CMU_MOSEI_VisualOpenFace2.csd",
}
DIMS = {"text": 300, "audio": 74, "visual": 713}
DEFAULT = {"videos": 90, "clips_per_video": 6, "visual_rate_hz": 4, "audio_rate_hz": 20}
SMALL = DEFAULT | {"videos": 12, "visual_rate_hz": 2, "audio_rate_hz": 5}


def prepare(folder: Path, seed: int = 0, **options) -> Path:
    return csd_source(
        folder / "csd",
        folder / "demo.h5",
        corpus="demo",
        features=FILES,
        dims=DIMS,
        labels="CMU_MOSEI_Labels.csd",
        folds=str(folder / "csd" / "standard_folds_video_ids.json"),
        make=partial(make_demo, seed=seed, **DEFAULT | options),
    ).prepare()


def cross_validated_correlation(path: Path, modalities: list[str]) -> float:
    """Correlation of a ridge regression on the means with sentiment, on unseen videos."""
    table = read_table(path)
    blocks = []
    for modality in modalities:
        values, lengths = read_features(path, modality, np.arange(len(table.ids)))
        block = np.full((len(table.ids), table.dims[modality]), np.nan)
        block[lengths > 0] = values
        blocks.append(block)
    x, y = np.concatenate(blocks, axis=1), table.targets["sentiment"][:, 0].astype(float)
    fold = np.unique(table.videos, return_inverse=True)[1] % 5
    predicted = np.empty(len(y))
    for k in range(5):
        train, test = fold != k, fold == k
        mean, sd = np.nanmean(x[train], axis=0), np.nanstd(x[train], axis=0)
        z = np.nan_to_num((x - mean) / np.where(sd > 0, sd, 1)) / np.sqrt(x.shape[1])
        gram = z[train] @ z[train].T + 0.07 * np.eye(train.sum())
        predicted[test] = z[test] @ z[train].T @ np.linalg.solve(gram, y[train] - y[train].mean())
    return float(np.corrcoef(predicted, y)[0, 1])


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("demo"))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_text_is_strong_and_three_modalities_beat_it(default, tmp_path, seed):
    path = default if seed == 0 else prepare(tmp_path, seed)
    text, audio, visual, three = (
        cross_validated_correlation(path, modalities)
        for modalities in (["text"], ["audio"], ["visual"], [*DIMS])
    )
    assert 0.55 < text < 0.8
    assert 0.25 < audio < 0.55
    assert 0.25 < visual < 0.55
    assert three > text + 0.03


def test_the_default_is_small_and_has_the_faults_of_the_real_corpus(default):
    table = read_table(default)
    assert 450 <= len(table.ids) <= 600
    assert sum(path.stat().st_size for path in (default.parent / "csd").iterdir()) < 60e6
    assert table.synthetic
    assert table.dims == DIMS
    audit = json.loads(default.with_suffix(".audit.json").read_text())
    assert all(audit["splits"][split]["clips"] > 10 for split in ("train", "valid", "test", "none"))
    assert all(0 < numbers["missing_clips"] < 60 for numbers in audit["modalities"].values())
    assert audit["modalities"]["audio"]["nan"] > 0
    assert audit["modalities"]["audio"]["inf"] > 0
    assert audit["modalities"]["visual"]["constant_columns"]
    assert audit["fold_videos_without_labels"]["test"]
    assert any(video.startswith("-") for video in table.videos.tolist())


def test_labels_are_means_of_three_ratings(default):
    targets = read_table(default).targets
    for name, low in (("sentiment", -3), ("emotions", 0)):
        steps = 3 * targets[name]
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
        assert low <= targets[name].min() <= targets[name].max() <= 3
    assert (targets["emotions"].std(axis=0) > 0).all()
    sad = targets["emotions"][:, EMOTIONS.index("sad")]
    assert np.corrcoef(sad, targets["sentiment"][:, 0])[0, 1] < -0.3


def test_a_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_demo(tmp_path / name, seed=seed, **SMALL)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    for file in (*FILES.values(), "CMU_MOSEI_Labels.csd"):
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_is_written_once_for_the_same_options(tmp_path):
    def times() -> list[int]:
        return [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]

    make_demo(tmp_path, seed=0, **SMALL)
    first = times()
    make_demo(tmp_path, seed=0, **SMALL)
    assert times() == first
    (tmp_path / FILES["audio"]).unlink()
    make_demo(tmp_path, seed=0, **SMALL)
    make_demo(tmp_path, seed=1, **SMALL)
    assert all(a < b for a, b in zip(first, times(), strict=True))


def test_says_that_it_is_synthetic_however_it_is_read(tmp_path):
    make_demo(tmp_path / "csd", seed=0, **SMALL)
    with ComputationalSequence(tmp_path / "csd" / FILES["text"]) as sequence:
        assert "synthetic" in sequence.metadata["dataset name"]
        times = sequence.rows(sorted(sequence.keys)[0]).intervals
        assert all(before[0] < after[0] for before, after in pairwise(times))
    path = csd_source(
        tmp_path / "csd",
        tmp_path / "mosei.h5",
        features=FILES,
        dims=DIMS,
        labels="CMU_MOSEI_Labels.csd",
        targets=TARGETS | {"sentiment": LabelColumns(["sentiment"], -3, 3)},
        folds=str(tmp_path / "csd" / "standard_folds_video_ids.json"),
    ).prepare()
    assert read_table(path).synthetic


@pytest.mark.parametrize("wrong", [{"videos": 3}, {"audio_rate_hz": 0}, {"clips_per_video": -1}])
def test_bad_sizes(tmp_path, wrong):
    with pytest.raises(ConfigError, match=r"source\.make: videos must be at least 10"):
        make_demo(tmp_path, seed=0, **SMALL | wrong)
    assert not list(tmp_path.iterdir())
