"""RAVDESS: names are labels, and both halves of the corpus know a clip by one id."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_lightning.datasets.hdf5 import open_clips, read_features, read_table
from msa_lightning.datasets.manifest import Manifest
from msa_lightning.datasets.ravdess import Ravdess, performance
from msa_lightning.datasets.ravdess_features import RavdessFeatures
from msa_lightning.errors import ConfigError, DataError, DataNotFoundError
from msa_lightning.extractors.contract import Span
from tests.data.make_ravdess import COLUMNS, EMOTIONS, make_features, name

FOLDS = {"train": [1, 2], "valid": [3], "test": [4]}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"media")


def read(folder: Path, folds: Any = FOLDS) -> Manifest:
    return Ravdess(corpus="tiny", folder=str(folder), folds=folds).manifest()


def features(folder: Path, **changes: Any) -> RavdessFeatures:
    options: dict[str, Any] = {
        "corpus": "tiny",
        "path": str(folder / "features.npz"),
        "id_key": "id",
        "feature_keys": {"audio": "mfcc", "visual": "au"},
        "folds": FOLDS,
        "output": str(folder / "prepared" / "tiny.h5"),
    }
    return RavdessFeatures(**options | changes)


def test_a_name_says_actor_and_emotion() -> None:
    found = performance("03-01-06-02-01-02-12")
    assert found
    assert (found.id, found.video, found.actor) == ("actor12_06020102", "actor12", 12)
    assert (found.emotion, found.modality) == (5, "03")


@pytest.mark.parametrize(
    "other", ["03-02-06-01-02-01-12", "03-01-09-01-02-01-12", "03-01-06-01-02-01", "04-01-06", "x"]
)
def test_song_and_other_names_are_no_speech_of_ravdess(other: str) -> None:
    assert performance(other) is None


def test_a_performance_is_one_clip_of_its_actor(tmp_path: Path) -> None:
    touch(*(tmp_path / f"Actor_{a:02}" / f"{name(a, e)}.flac" for a in (5, 4, 1) for e in (2, 1)))
    film, silent = (tmp_path / f"{name(1, 1, modality=m)}.mp4" for m in ("01", "02"))
    touch(film, silent, tmp_path / f"{name(3, 1, modality='01')}.mp4")
    touch(tmp_path / f".{name(2, 1)}.wav", tmp_path / "song.wav", tmp_path / "notes.txt")
    found = read(tmp_path)
    actors = [c.video for c in found.clips]
    assert actors == ["actor01", "actor01", "actor03", "actor04", "actor04", "actor05", "actor05"]
    assert found.splits.tolist() == ["train", "train", "valid", *["test"] * 2, *["none"] * 2]
    assert found.targets["emotion"].ravel().tolist() == [0, 1, 0, 0, 1, 0, 1]
    both, heard, seen = found.clips[:3]
    assert both.audio == Span(tmp_path / "Actor_01" / f"{name(1, 1)}.flac")
    assert both.visual == Span(film)
    assert (heard.visual, heard.missing["visual"]) == (None, "no file")
    assert seen.audio == seen.visual
    assert found.unmatched == {"media that are not speech of RAVDESS": ["song"]}


def test_two_files_of_one_name_are_not_guessed_at(tmp_path: Path) -> None:
    touch(*(tmp_path / folder / f"{name(1, 1)}.wav" for folder in ("a", "b")))
    (clip,) = read(tmp_path).clips
    assert clip.missing["audio"] == "duplicate id"


@pytest.mark.parametrize(
    ("folds", "fault"),
    [
        ({"train": [1], "test": [1]}, "actor 1 is in train and test"),
        ({"dev": [1]}, "source.folds.dev: expected train, valid, test"),
    ],
)
def test_an_actor_is_on_one_side_only(tmp_path: Path, folds: Any, fault: str) -> None:
    touch(tmp_path / f"{name(1, 1)}.wav")
    with pytest.raises(ConfigError, match=fault):
        read(tmp_path, folds)


def test_a_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no such folder"):
        read(tmp_path / "none")
    touch(tmp_path / "song.wav")
    with pytest.raises(DataError, match="no sound or film called"):
        read(tmp_path)


def test_features_follow_their_clips_into_the_clip_file(tmp_path: Path) -> None:
    file = np.load(make_features(tmp_path / "features.npz", range(1, 6)))
    table = read_table(features(tmp_path).prepare())
    assert table.ids.tolist() == sorted(table.ids.tolist())
    assert table.corpus == "tiny"
    assert table.dims == {"audio": COLUMNS["mfcc"], "visual": COLUMNS["au"]}
    rows = {performance(i).id: row for row, i in enumerate(file["id"])}  # type: ignore[union-attr]
    order = [rows[clip] for clip in table.ids]
    values, lengths = read_features(table.path, "audio", np.arange(len(order)))
    assert lengths.tolist() == [1] * len(order)
    np.testing.assert_array_equal(values, file["mfcc"][order])
    splits = ["train", "train", "valid", "test", "none"]
    expected = {f"actor0{actor}": split for actor, split in enumerate(splits, 1)}
    assert dict(zip(table.videos.tolist(), table.splits.tolist(), strict=True)) == expected


def test_both_halves_agree_on_ids_and_labels(tmp_path: Path) -> None:
    touch(*(tmp_path / "wav" / f"{name(a, e)}.wav" for a in range(1, 6) for e in EMOTIONS))
    heard = read(tmp_path / "wav")
    make_features(tmp_path / "features.npz", range(1, 6))
    table = read_table(features(tmp_path).prepare())
    emotion = dict(zip(table.ids.tolist(), table.targets["emotion"][:, 0].tolist(), strict=True))
    expected = {c.id: y for c, y in zip(heard.clips, heard.targets["emotion"][:, 0], strict=True)}
    assert {clip: emotion[clip] for clip in expected} == expected


def test_what_is_not_finite_was_never_measured(tmp_path: Path) -> None:
    arrays = dict(np.load(make_features(tmp_path / "features.npz", range(1, 3))))
    arrays["mfcc"][0, 1], arrays["au"][0] = np.inf, np.nan
    np.savez(tmp_path / "features.npz", **arrays)
    path = features(tmp_path).prepare()
    row = np.array([read_table(path).ids.tolist().index("actor01_01010101")])
    values, _ = read_features(path, "audio", row)
    assert np.flatnonzero(np.isnan(values[0])).tolist() == [1]
    assert read_features(path, "visual", row)[1].tolist() == [0]


def test_the_clip_file_is_written_when_something_has_changed(tmp_path: Path) -> None:
    make_features(tmp_path / "features.npz")
    path = features(tmp_path).prepare()
    first, digest = path.stat().st_ino, read_table(path).digest
    assert features(tmp_path).prepare().stat().st_ino == first
    features(tmp_path, folds={"train": [1], "test": [2]}).prepare()
    assert read_table(path).digest != digest
    path.write_bytes(b"damaged")
    features(tmp_path).prepare()
    assert read_table(path).digest == digest
    with open_clips(path) as file:
        assert "folds" in file.attrs["source"]
    assert [p.name for p in path.parent.iterdir()] == ["tiny.h5"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": None}, r"no array \['id'\], found \['au', 'mfcc'\]"),
        ({"mfcc": np.zeros(16, np.float32)}, r"mfcc has shape \(16,\), expected \(16, columns\)"),
        ({"au": np.zeros((3, 2), np.float32)}, r"au has shape \(3, 2\), expected \(16, columns\)"),
        ({"id": np.array(["01-02"] * 16)}, "id 01-02 is no name of RAVDESS's speech"),
        ({"id": np.array([name(1, 1)] * 16)}, r"\['actor01_01010101'\] are there twice"),
        ({"mfcc": np.array([["a"], [None]] * 8, object)}, "cannot be read as npz"),
    ],
)
def test_a_wrong_file_is_an_error(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    arrays = dict(np.load(make_features(tmp_path / "features.npz", range(1, 3)))) | change
    np.savez(tmp_path / "features.npz", **{k: x for k, x in arrays.items() if x is not None})
    with pytest.raises(DataError, match=fault):
        features(tmp_path).prepare()
    assert not (tmp_path / "prepared").exists()


def test_no_file_and_no_npz_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"set MSA_DATA or source\.path"):
        features(tmp_path).prepare()
    (tmp_path / "features.npz").write_bytes(b"no npz")
    with pytest.raises(DataError, match="cannot be read as npz"):
        features(tmp_path).prepare()


@pytest.mark.realdata
def test_the_real_halves_agree(tmp_path: Path, real_data: Path) -> None:
    options = {"path": f"{real_data}/ravdess/ravdess_au_mfcc.npz", "output": f"{tmp_path}/r.h5"}
    table = read_table(features(tmp_path, **options).prepare())
    heard = read(real_data / "ravdess" / "wav")
    assert (len(table.ids), len(heard.clips), dict(heard.unmatched)) == (960, 480, {})
    assert [c.id for c in heard.clips] == table.ids[table.videos <= "actor08"].tolist()
