import dataclasses

import h5py
import numpy as np
import pytest

from msa_lightning.datasets.hdf5 import read_features, read_table
from msa_lightning.errors import DataError, DataNotFoundError
from tests.data.make_data import DIMS, EMOTIONS, csd_corpus, csd_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared corpus of 18 clips; clip 4 has no audio."""
    root = tmp_path_factory.mktemp("clips")
    corpus = csd_corpus()
    video = sorted(corpus.labels)[1]
    start, end = corpus.labels[video][1][1]
    features, times = corpus.sequences["audio"][video]
    kept = (times[:, 1] <= start) | (times[:, 0] >= end)
    corpus.sequences["audio"][video] = features[kept], times[kept]
    corpus.write(root / "csd")
    for aggregate in ("mean", "sequence"):
        csd_source(root / "csd", root / "tiny.h5", aggregate=aggregate).prepare()
    return root


def test_table(folder):
    table = read_table(folder / "tiny.h5")
    assert (table.corpus, table.aggregate, table.synthetic) == ("tiny", "mean", False)
    assert len(table.digest) == 64
    assert table.dims == DIMS
    assert table.columns == {"sentiment": ["sentiment"], "emotions": EMOTIONS}
    assert table.ids[:4].tolist() == ["-vid_01_0", "-vid_01_1", "-vid_01_2", "-vid_03_0"]
    assert table.videos[:4].tolist() == ["-vid_01", "-vid_01", "-vid_01", "-vid_03"]
    assert set(table.splits.tolist()) == {"train", "valid", "test", "none"}
    shapes = {
        f.name: getattr(getattr(table, f.name), "shape", None) for f in dataclasses.fields(table)
    }
    assert shapes["ids"] == shapes["videos"] == shapes["splits"] == (18,)
    assert shapes["intervals"] == (18, 2)
    assert {n: t.shape for n, t in table.targets.items()} == {
        "sentiment": (18, 1),
        "emotions": (18, 6),
    }
    assert all(t.dtype == np.float32 for t in table.targets.values())
    assert {m: f.shape for m, f in table.frames.items()} == dict.fromkeys(DIMS, (18,))
    assert table.frames["audio"][4] == 0


@pytest.mark.parametrize("name", ["tiny.h5", "tiny_sequence.h5"])
@pytest.mark.parametrize("modality", DIMS)
def test_features_of_any_clips(folder, name, modality):
    path = folder / name
    everything, lengths = read_features(path, modality, np.arange(18))
    assert everything.dtype == np.float32
    assert lengths.dtype == np.int64
    assert lengths.sum() == len(everything)
    clips = np.split(everything, np.cumsum(lengths)[:-1])
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 9, 17):
        rows = np.sort(rng.choice(18, size, replace=False))
        values, found = read_features(path, modality, rows)
        np.testing.assert_array_equal(found, lengths[rows])
        expected = np.concatenate([np.empty((0, DIMS[modality])), *[clips[i] for i in rows]])
        np.testing.assert_array_equal(values, expected)


def test_a_missing_modality_has_no_rows(folder):
    values, lengths = read_features(folder / "tiny.h5", "audio", np.array([3, 4, 5]))
    assert lengths.tolist() == [1, 0, 1]
    assert values.shape == (2, 3)


def test_a_sequence_has_a_row_for_each_frame(folder):
    table = read_table(folder / "tiny_sequence.h5")
    for modality, frames in table.frames.items():
        _, lengths = read_features(table.path, modality, np.arange(18))
        np.testing.assert_array_equal(lengths, frames)


def test_missing_file(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"a\.h5: not found; make it with msa-prepare"):
        read_table(tmp_path / "a.h5")


def test_another_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["version"] = 7
    with pytest.raises(
        DataError, match=r"a\.h5: found format None version 7, expected msa-clips 1"
    ):
        read_table(tmp_path / "a.h5")


def test_truncated_file(folder, tmp_path):
    (tmp_path / "a.h5").write_bytes((folder / "tiny.h5").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.h5: not a whole HDF5 file.*run msa-prepare again"):
        read_features(tmp_path / "a.h5", "text", np.arange(2))


def test_absent_modality(folder, tmp_path):
    csd_source(
        folder / "csd", tmp_path / "a.h5", features={"text": "words.csd"}, dims={"text": 4}
    ).prepare()
    assert read_table(tmp_path / "a.h5").dims == {"text": 4}
    with pytest.raises(DataError, match=r"a\.h5: features/audio is not there, found \['text'\]"):
        read_features(tmp_path / "a.h5", "audio", np.arange(2))
