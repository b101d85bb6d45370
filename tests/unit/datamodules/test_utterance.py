"""Utterance vectors from an npz or HDF5 file of the simple shape."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from omegaconf import DictConfig

from msa_lightning import MODALITIES, config
from msa_lightning.batch import Batch
from msa_lightning.datamodules.utterance import UtteranceDataModule
from msa_lightning.errors import DataError, DataNotFoundError

DIMS = {"text": 3, "audio": 2, "visual": 4}
KEYS = {"text": "text", "audio": "audio", "visual": "video"}
N = 24

Arrays = dict[str, np.ndarray]
Load = Callable[..., UtteranceDataModule]


@pytest.fixture
def arrays() -> Arrays:
    """Half train, a quarter valid, a quarter test, mixed."""
    rng = np.random.default_rng(0)
    return {
        "id": np.array([f"-v{i // 4}_{i % 4}" for i in range(N)]),
        "poria_split": np.array(["train", "valid", "train", "test"] * (N // 4)),
        "label": rng.uniform(-3, 3, N),
        **{KEYS[m]: rng.normal(3, 2, (N, d)) for m, d in DIMS.items()},
    }


def write(path: Path, arrays: Arrays) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            if x.dtype.kind == "U":
                file.create_dataset(name, data=x.tolist(), dtype=h5py.string_dtype())
            else:
                file[name] = x


@pytest.fixture
def load(configure: Callable[..., DictConfig], tmp_path: Path) -> Load:
    """Write arrays and open them with ``conf/data/mosi_utterance.yaml``, some of it changed."""

    def load(arrays: Arrays | None, name: str = "tiny.npz", **changes: Any) -> UtteranceDataModule:
        path = tmp_path / name
        if arrays is not None:
            write(path, arrays)
        node = configure("train", "data=mosi_utterance").data
        supplied: dict[str, Any] = {"path": str(path), "dims": DIMS, "batch_size": 4}
        datamodule: UtteranceDataModule = config.instantiate(node, **supplied | changes)
        return datamodule

    return load


def whole(datamodule: UtteranceDataModule, split: str) -> Batch:
    dataset = datamodule.dataset(split)
    return dataset[list(range(len(dataset)))]


def at(arrays: Arrays, split: str) -> np.ndarray:
    return np.flatnonzero(arrays["poria_split"] == split)


@pytest.mark.parametrize("name", ["tiny.npz", "tiny.h5"])
def test_splits_are_standardised_by_train(load: Load, arrays: Arrays, name: str) -> None:
    datamodule = load(arrays, name)
    assert datamodule.fit_splits == ["train", "valid"]
    for split in ("train", "valid", "test"):
        clips, batch = at(arrays, split), whole(datamodule, split)
        assert list(batch.ids) == arrays["id"][clips].tolist()
        np.testing.assert_allclose(batch.targets["sentiment"][:, 0], arrays["label"][clips])
        for m in MODALITIES:
            train = arrays[KEYS[m]][at(arrays, "train")]
            expected = (arrays[KEYS[m]][clips] - train.mean(0)) / train.std(0)
            assert batch.features[m].shape == (len(clips), 1, DIMS[m])
            np.testing.assert_allclose(batch.features[m][:, 0], expected, rtol=1e-4, atol=1e-5)
            assert batch.masks[m].all()


def test_bytes_are_read_as_text(load: Load, arrays: Arrays) -> None:
    arrays |= {key: arrays[key].astype("S") for key in ("id", "poria_split")}
    assert whole(load(arrays), "train").ids[0] == "-v0_0"


def test_vector_of_nan_is_an_absent_modality(load: Load, arrays: Arrays) -> None:
    train = at(arrays, "train")
    arrays["audio"][train[1]] = np.nan
    arrays["audio"][train[2]] = -np.inf
    arrays["audio"][train[3], 0] = np.nan
    batch = whole(load(arrays), "train")
    assert batch.masks["audio"][:5, 0].tolist() == [True, False, False, True, True]
    assert not batch.features["audio"][1:3].any()
    assert batch.features["audio"][3, 0, 0] == 0
    real = np.delete(arrays["audio"][train], [1, 2, 3], 0)[:, 0]
    expected = (arrays["audio"][train[0], 0] - real.mean()) / real.std()
    assert batch.features["audio"][0, 0, 0].item() == pytest.approx(expected, rel=1e-4)


def test_normaliser_sees_train_alone(load: Load, arrays: Arrays) -> None:
    expected = whole(load(arrays), "train")
    for split in ("valid", "test"):
        for key in KEYS.values():
            arrays[key][at(arrays, split)] *= 1e4
    found = whole(load(arrays), "train")
    assert all((found.features[m] == expected.features[m]).all() for m in MODALITIES)


def test_target_may_have_several_columns(load: Load, arrays: Arrays) -> None:
    arrays["emotions"] = np.tile([0, 1, 2], (N, 1)).astype(float)
    datamodule = load(
        arrays,
        target_keys={"sentiment": "label", "emotions": "emotions"},
        targets={"sentiment": {"range": [-3, 3]}, "emotions": {"range": [0, 3]}},
    )
    batch = whole(datamodule, "train")
    assert batch.targets["emotions"].shape == (12, 3)
    assert batch.targets["sentiment"].shape == (12, 1)


def test_only_the_chosen_modalities_are_read(load: Load, arrays: Arrays) -> None:
    del arrays["video"]
    datamodule = load(arrays, modalities=["text", "audio"])
    assert datamodule.dims == {"text": 3, "audio": 2}
    assert list(whole(datamodule, "train").features) == ["text", "audio"]


def test_loaders_give_every_clip(load: Load, arrays: Arrays) -> None:
    datamodule = load(arrays)
    train = arrays["id"][at(arrays, "train")].tolist()
    shuffled = [i for batch in datamodule.train_dataloader() for i in batch.ids]
    assert shuffled != train
    assert sorted(shuffled) == sorted(train)
    assert [i for batch in datamodule.ordered_dataloader("train") for i in batch.ids] == train


def test_without_a_validation_split_training_reads_train_alone(load: Load, arrays: Arrays) -> None:
    arrays["poria_split"][at(arrays, "valid")] = "test"
    datamodule = load(arrays)
    datamodule.setup("fit")
    assert datamodule.fit_splits == ["train"]
    message = (
        "no clips in split 'valid'; poria_split has ['test', 'train']; train with selection=none"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        datamodule.val_dataloader()


@pytest.mark.parametrize("poison", [np.nan, 99.0])
def test_fit_never_reads_the_test_split(load: Load, arrays: Arrays, poison: float) -> None:
    arrays["label"][at(arrays, "test")] = poison
    for key in KEYS.values():
        arrays[key][at(arrays, "test")] = np.nan
    datamodule = load(arrays)
    datamodule.setup("fit")
    with pytest.raises(DataError, match=r"tiny\.npz: targets/sentiment of clip -v0_3 is"):
        datamodule.setup("test")


def test_provenance_changes_with_the_content(load: Load, arrays: Arrays) -> None:
    before = load(arrays).provenance
    assert before["file"] == "tiny.npz"
    arrays["label"][0] += 0.1
    assert load(arrays).provenance["digest"] != before["digest"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_split(load: Load, arrays: Arrays, split: str) -> None:
    arrays["poria_split"][at(arrays, split)] = "valid"
    with pytest.raises(DataError, match=rf"tiny\.npz: .*'{split}'.* poria_split has \["):
        load(arrays).dataset(split)


def test_modality_that_no_train_clip_has(load: Load, arrays: Arrays) -> None:
    arrays["video"][at(arrays, "train")] = np.nan
    with pytest.raises(DataError, match=r"tiny\.npz: no train clip has visual"):
        load(arrays).setup("fit")


def test_dims_that_differ_from_the_config(load: Load, arrays: Arrays) -> None:
    with pytest.raises(DataError, match=r"tiny\.npz: features/audio has 2 columns, .* is 73"):
        load(arrays, dims=DIMS | {"audio": 73}).setup("fit")


@pytest.mark.parametrize("name", ["tiny.npz", "tiny.h5"])
@pytest.mark.parametrize("key", ["video", "label", "poria_split", "id"])
def test_array_that_is_not_there(load: Load, arrays: Arrays, key: str, name: str) -> None:
    del arrays[key]
    with pytest.raises(DataError, match=rf"{name}: no array \['{key}'\], found \["):
        load(arrays, name).setup("fit")


def test_arrays_of_different_length(load: Load, arrays: Arrays) -> None:
    arrays["label"] = arrays["label"][1:]
    with pytest.raises(DataError, match=r"tiny\.npz: arrays differ in length, .*'label': 23"):
        load(arrays).setup("fit")


def test_features_that_are_no_vectors(load: Load, arrays: Arrays) -> None:
    arrays["text"] = arrays["text"][:, 0]
    with pytest.raises(DataError, match=r"tiny\.npz: .*text"):
        load(arrays).setup("fit")


@pytest.mark.parametrize("name", ["tiny.npz", "tiny.h5"])
def test_file_that_is_not_there(load: Load, name: str) -> None:
    with pytest.raises(DataNotFoundError, match=rf"{name}: no such file; set MSA_DATA"):
        load(None, name).setup("fit")


@pytest.mark.parametrize("name", ["tiny.npz", "tiny.h5"])
@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_file_that_is_damaged(
    load: Load, arrays: Arrays, tmp_path: Path, name: str, damage: str
) -> None:
    path = tmp_path / name
    write(path, arrays)
    content = path.read_bytes()
    half = content[: len(content) // 2]
    path.write_bytes({"text": b"not it", "truncated": half, "empty": b""}[damage])
    with pytest.raises(DataError, match=rf"{name}: cannot be read as npz or HDF5 .*fetch it again"):
        load(None, name).setup("fit")


def test_pickles_are_not_read(load: Load, arrays: Arrays) -> None:
    arrays["id"] = np.array([Bomb()] * N, dtype=object)
    with pytest.raises(DataError, match="cannot be read as npz or HDF5"):
        load(arrays).setup("fit")


class Bomb:
    """Raises when unpickled."""

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (b"bomb",)


@pytest.mark.realdata
def test_genuine_mosi_utterances(configure: Callable[..., DictConfig], real_data: Path) -> None:
    cfg = configure("train", "data=mosi_utterance")
    cfg.paths.data = str(real_data)
    datamodule = config.instantiate(cfg.data)
    datamodule.setup("fit")
    datamodule.setup("test")
    assert datamodule.dims == {"text": 100, "audio": 73, "visual": 100}
    assert datamodule.fit_splits == ["train"]
    train, test = whole(datamodule, "train"), whole(datamodule, "test")
    assert (len(train), len(test)) == (1447, 752)
    assert not {i.rsplit("_", 1)[0] for i in train.ids} & {i.rsplit("_", 1)[0] for i in test.ids}
    for m in MODALITIES:
        assert train.masks[m].all()
        assert train.features[m].isfinite().all()
        np.testing.assert_allclose(train.features[m].mean((0, 1)), 0, atol=1e-4)
    assert train.targets["sentiment"].abs().max() <= 3
